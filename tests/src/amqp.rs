use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldTable},
};
use relay_event::Attempt;

/// Any AMQP client: it knows the exchange's name and nothing of the relay's code.
pub struct Producer {
    _connection: Connection,
    channel: Channel,
    namespace: String,
}

impl Producer {
    pub(crate) async fn connect(url: &str, namespace: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel
            .confirm_select(ConfirmSelectOptions::default())
            .await
            .unwrap();
        Self {
            _connection: connection,
            channel,
            namespace: namespace.to_owned(),
        }
    }

    /// Publishes to the relay's exchange and waits for the confirm.
    pub async fn publish(&self, routing_key: &str, properties: BasicProperties, body: &[u8]) {
        let exchange = format!("{}.events", self.namespace);
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

    /// Takes every attempt record there is, for good.
    pub async fn take_attempts(&self) -> Vec<Attempt> {
        let queue = format!("{}.attempts", self.namespace);
        let mut attempts = Vec::new();
        let options = BasicGetOptions { no_ack: true };
        while let Some(message) = self
            .channel
            .basic_get(queue.as_str().into(), options)
            .await
            .unwrap()
        {
            let text = std::str::from_utf8(&message.delivery.data).unwrap().to_owned();
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
