use lapin::{
    BasicProperties, Channel, Confirmation, Connection,
    message::Delivery,
    options::{
        BasicGetOptions, BasicPublishOptions, QueueBindOptions, QueueDeclareOptions, QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::Attempt;
use relay_testkit::confirming;

/// Any AMQP client: it knows the exchange's name and nothing of the relay's code.
pub struct Producer {
    _connection: Connection,
    channel: Channel,
    namespace: String,
}

impl Producer {
    pub(crate) async fn connect(url: &str, namespace: &str) -> Self {
        let (connection, channel) = confirming(url).await.unwrap();
        Self {
            _connection: connection,
            channel,
            namespace: namespace.to_owned(),
        }
    }

    /// Publishes to the relay's exchange and waits for the confirm.
    pub async fn publish(&self, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        self.publish_to("events", routing_key, properties, body).await;
    }

    /// Publishes to one of the relay's exchanges, such as `return`, and waits for the confirm.
    pub async fn publish_to(
        &self,
        exchange: &str,
        routing_key: &str,
        properties: BasicProperties,
        body: &[u8],
    ) {
        let exchange = format!("{}.{exchange}", self.namespace);
        let options = BasicPublishOptions::default();
        let sent = self
            .channel
            .basic_publish(exchange.into(), routing_key.into(), options, body, properties)
            .await;
        assert_eq!(sent.unwrap().await.unwrap(), Confirmation::Ack(None));
    }

    /// Publishes an event in structured mode.
    pub async fn publish_structured(&self, routing_key: &str, body: &[u8]) {
        self.publish(routing_key, structured(), body).await;
    }

    /// Binds a queue of its own to one of the relay's exchanges, as an operator may.
    pub async fn watch(&self, exchange: &str, binding_key: &str) -> Watched<'_> {
        let options = QueueDeclareOptions {
            exclusive: true,
            ..Default::default()
        };
        let queue = self
            .channel
            .queue_declare(ShortString::default(), options, FieldTable::default())
            .await
            .unwrap();
        let exchange = format!("{}.{exchange}", self.namespace);
        self.channel
            .queue_bind(
                queue.name().clone(),
                exchange.into(),
                binding_key.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        Watched(&self.channel, queue.name().clone())
    }

    /// Binds a queue of its own to the attempt records.
    pub async fn watch_attempts(&self) -> Watched<'_> {
        self.watch("records", "").await
    }

    /// Deletes one of the relay's queues, as an operator may by mistake.
    pub async fn delete_queue(&self, queue: &str) {
        let queue = format!("{}.{queue}", self.namespace);
        let deleted = self
            .channel
            .queue_delete(queue.into(), QueueDeleteOptions::default());
        deleted.await.unwrap();
    }
}

/// A queue of the producer's own.
pub struct Watched<'a>(&'a Channel, ShortString);

impl Watched<'_> {
    /// Takes every message there is.
    pub async fn take_all(&self) -> Vec<Delivery> {
        let mut messages = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self.0.basic_get(self.1.clone(), options).await.unwrap() {
            messages.push(message.delivery);
        }
        messages
    }

    /// Takes every attempt record there is.
    pub async fn take(&self) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for message in self.take_all().await {
            let text = std::str::from_utf8(&message.data).unwrap();
            attempts.extend(
                text.lines()
                    .map(|line| serde_json::from_str::<Attempt>(line).unwrap()),
            );
        }
        attempts
    }
}

/// The properties of a persistent event in structured mode.
pub fn structured() -> BasicProperties {
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/cloudevents+json".into())
}

/// A header table of strings.
pub fn headers(entries: &[(&str, &str)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), AMQPValue::LongString((*value).into()));
    }
    table
}
