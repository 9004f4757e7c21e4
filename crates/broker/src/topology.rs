//! Every exchange and queue of the relay. Queue arguments cannot be changed once a queue exists,
//! so a change here needs a new name or a migration.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::{Delay, EndpointId, TypePattern};

use crate::Namespace;

/// Returns of one message to an endpoint's queue before it is dead-lettered: enough for many
/// restarts, few enough to end a crash loop.
const ENDPOINT_DELIVERY_LIMIT: i32 = 200;

/// For queues whose messages must never leave by being returned, as peeking does. RabbitMQ 4 has a
/// default of 20, and up to 3.13 takes -1 for zero.
const UNREACHABLE_DELIVERY_LIMIT: i32 = i32::MAX;

/// The names of one relay's objects, and their declaration.
#[derive(Debug, Clone)]
pub struct Topology {
    namespace: Namespace,
}

impl Topology {
    /// The objects of this namespace.
    pub fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// The topic exchange producers publish to.
    pub fn events(&self) -> String {
        self.name("events")
    }

    /// The headers exchange that every event passes. What claims to have been moved by the broker goes to the
    /// archive alone, and all else to [`Self::routes`]: RabbitMQ before version 4 believes the form of `x-death`,
    /// and a forged one ends what moves dead letters, should the message expire in a queue that has any.
    fn guard(&self) -> String {
        self.name("guard")
    }

    /// The topic exchange that gives events to the queues that want them.
    fn routes(&self) -> String {
        self.name("routes")
    }

    /// The queue of every event, on its way to the log.
    pub fn archive(&self) -> String {
        self.name("archive")
    }

    /// An endpoint's queue.
    pub fn endpoint(&self, id: &EndpointId) -> String {
        self.name(&format!("endpoint.{id}"))
    }

    /// The endpoint whose queue this is.
    pub fn endpoint_of(&self, queue: &str) -> Option<EndpointId> {
        queue.strip_prefix(&self.name("endpoint."))?.parse().ok()
    }

    /// The fanout exchange, and the queue, where messages wait for `delay`.
    pub fn retry(&self, delay: Delay) -> String {
        self.name(&format!("retry.{delay}"))
    }

    /// The direct exchange that brings waited messages back, by endpoint id.
    pub fn return_(&self) -> String {
        self.name("return")
    }

    /// The fanout exchange, and the queue, of dead letters.
    pub fn dead(&self) -> String {
        self.name("dead")
    }

    /// The fanout exchange of attempt records, and the queue of those and of copies of dead letters, on
    /// their way to the log.
    pub fn attempts(&self) -> String {
        self.name("attempts")
    }

    /// The fanout exchange that tells every process of a changed endpoint.
    pub fn control(&self) -> String {
        self.name("control")
    }

    /// The fanout exchange that tells every process that something was recorded.
    pub fn recorded(&self) -> String {
        self.name("recorded")
    }

    fn name(&self, object: &str) -> String {
        format!("{}.{object}", self.namespace)
    }

    /// Declares what every relay has.
    pub(crate) async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        use ExchangeKind::{Direct, Fanout, Headers, Topic};
        exchange(channel, &self.events(), Topic, []).await?;
        exchange(channel, &self.routes(), Topic, []).await?;
        let otherwise = [("alternate-exchange", text(self.routes()))];
        exchange(channel, &self.guard(), Headers, otherwise).await?;
        let (options, all) = (ExchangeBindOptions::default(), FieldTable::default());
        channel
            .exchange_bind(
                self.guard().into(),
                self.events().into(),
                "#".into(),
                options,
                all,
            )
            .await?;
        exchange(channel, &self.dead(), Fanout, []).await?;
        exchange(channel, &self.attempts(), Fanout, []).await?;
        exchange(channel, &self.control(), Fanout, []).await?;
        exchange(channel, &self.recorded(), Fanout, []).await?;
        // A retry whose endpoint is gone would otherwise hold one of the few places of its delay
        // queue's dead-letter worker for ever, and 32 of them stop that delay for everybody.
        let alternate = [("alternate-exchange", text(self.dead()))];
        exchange(channel, &self.return_(), Direct, alternate).await?;

        let limit = || ("x-delivery-limit", UNREACHABLE_DELIVERY_LIMIT.into());
        queue(channel, &self.dead(), [limit()]).await?;
        bind(channel, &self.dead(), &self.dead(), "").await?;
        // One recorder writes, and the others stand by.
        let single = || ("x-single-active-consumer", AMQPValue::Boolean(true));
        queue(channel, &self.attempts(), [limit(), single()]).await?;
        bind(channel, &self.attempts(), &self.attempts(), "").await?;
        // The log learns of every death from here, for some are the broker's own doing.
        bind(channel, &self.attempts(), &self.dead(), "").await?;
        queue(channel, &self.archive(), [limit(), single()]).await?;
        // Every event is routed here, so no publish to the exchange is ever unroutable.
        bind(channel, &self.archive(), &self.routes(), "#").await?;
        let moved = table([
            ("x-match", text("any-with-x".to_owned())),
            ("x-death", AMQPValue::Void),
        ]);
        bind_by(channel, &self.archive(), &self.guard(), "", moved).await?;
        // Versions without the guard bound it so.
        unbind(channel, &self.archive(), &self.events(), "#").await
    }

    /// Declares where messages wait for `delay`.
    pub(crate) async fn declare_delay(&self, channel: &Channel, delay: Delay) -> lapin::Result<()> {
        let name = self.retry(delay);
        let millis = i64::try_from(delay.as_duration().as_millis()).unwrap_or(i64::MAX);
        exchange(channel, &name, ExchangeKind::Fanout, []).await?;
        let [to, strategy, overflow] = dead_letters_to(self.return_());
        let ttl = ("x-message-ttl", AMQPValue::LongLongInt(millis));
        let limit = ("x-delivery-limit", UNREACHABLE_DELIVERY_LIMIT.into());
        queue(channel, &name, [ttl, limit, to, strategy, overflow]).await?;
        bind(channel, &name, &name, "").await
    }

    /// Declares an endpoint's queue, with its way back from the delays but without its patterns.
    pub(crate) async fn declare_endpoint(&self, channel: &Channel, id: &EndpointId) -> lapin::Result<()> {
        let name = self.endpoint(id);
        let [to, strategy, overflow] = dead_letters_to(self.dead());
        let limit = ("x-delivery-limit", ENDPOINT_DELIVERY_LIMIT.into());
        queue(channel, &name, [limit, to, strategy, overflow]).await?;
        bind(channel, &name, &self.return_(), id.as_str()).await
    }

    /// Routes events that match `pattern` to the endpoint.
    pub(crate) async fn bind_pattern(
        &self,
        channel: &Channel,
        id: &EndpointId,
        pattern: &TypePattern,
    ) -> lapin::Result<()> {
        bind(channel, &self.endpoint(id), &self.routes(), pattern.as_str()).await?;
        // Versions without the guard bound it so.
        unbind(channel, &self.endpoint(id), &self.events(), pattern.as_str()).await
    }

    /// Stops routing by `pattern` to the endpoint; nothing happens if it was not bound.
    pub(crate) async fn unbind_pattern(
        &self,
        channel: &Channel,
        id: &EndpointId,
        pattern: &TypePattern,
    ) -> lapin::Result<()> {
        unbind(channel, &self.endpoint(id), &self.routes(), pattern.as_str()).await?;
        unbind(channel, &self.endpoint(id), &self.events(), pattern.as_str()).await
    }

    /// Sends the endpoint's waiting retries to the dead-letter queue instead, once they are due.
    pub(crate) async fn unbind_return(&self, channel: &Channel, id: &EndpointId) -> lapin::Result<()> {
        unbind(channel, &self.endpoint(id), &self.return_(), id.as_str()).await
    }
}

/// At-least-once dead-lettering needs all three, or it silently is at-most-once.
fn dead_letters_to(exchange: String) -> [(&'static str, AMQPValue); 3] {
    [
        ("x-dead-letter-exchange", text(exchange)),
        ("x-dead-letter-strategy", text("at-least-once".to_owned())),
        ("x-overflow", text("reject-publish".to_owned())),
    ]
}

fn text(value: String) -> AMQPValue {
    AMQPValue::LongString(value.into())
}

fn table<const N: usize>(arguments: [(&'static str, AMQPValue); N]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(ShortString::from(name), value);
    }
    table
}

async fn exchange<const N: usize>(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: [(&'static str, AMQPValue); N],
) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .exchange_declare(name.into(), kind, durable, table(arguments))
        .await
}

async fn queue<const N: usize>(
    channel: &Channel,
    name: &str,
    arguments: [(&'static str, AMQPValue); N],
) -> lapin::Result<()> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    let mut arguments = table(arguments);
    arguments.insert("x-queue-type".into(), text("quorum".to_owned()));
    channel.queue_declare(name.into(), durable, arguments).await?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    bind_by(channel, queue, exchange, key, FieldTable::default()).await
}

/// Binds a queue to a headers exchange by these arguments.
async fn bind_by(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    key: &str,
    arguments: FieldTable,
) -> lapin::Result<()> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), key.into(), options, arguments)
        .await
}

async fn unbind(channel: &Channel, queue: &str, exchange: &str, key: &str) -> lapin::Result<()> {
    channel
        .queue_unbind(queue.into(), exchange.into(), key.into(), FieldTable::default())
        .await
}
