//! Every exchange and queue of the relay. None depends on how many endpoints there are. Queue arguments cannot
//! be changed once a queue exists, so a change here needs a new name or a migration.

use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use relay_event::Delay;

use crate::{Namespace, Queue, inspector::reply_code};

/// The broker's answer to a declaration that differs from what is there.
const PRECONDITION_FAILED: u16 = 406;

/// Returns of one message before the queue moves it on: enough for some restarts, few enough to end a crash
/// loop.
const DELIVERY_LIMIT: i32 = 20;

/// For queues whose messages must never leave by being returned, as peeking does. RabbitMQ 4 has a
/// default of 20, and up to 3.13 takes -1 for zero.
const UNREACHABLE_DELIVERY_LIMIT: i32 = i32::MAX;

/// The queue that is declared last: where it is, all others are.
pub(crate) const LAST_DECLARED: Queue = Queue::Work;

/// An object that the broker refused to declare or bind.
#[derive(Debug)]
pub(crate) struct Undeclared {
    /// Its kind and name, such as `queue relay.work`.
    pub(crate) object: String,
    /// The broker's error.
    pub(crate) error: lapin::Error,
}

impl Undeclared {
    fn of(object: String) -> impl FnOnce(lapin::Error) -> Self {
        |error| Self { object, error }
    }
}

/// The names of one relay's objects, and their declaration.
#[derive(Debug, Clone)]
pub(crate) struct Topology {
    namespace: Namespace,
}

impl Topology {
    /// The objects of this namespace.
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self { namespace }
    }

    /// The topic exchange producers publish to.
    pub(crate) fn events(&self) -> String {
        self.name("events")
    }

    /// The headers exchange that every event passes. What claims to have been moved by the broker goes to
    /// [`Queue::Suspects`] alone, and all else to [`Self::routes`]: RabbitMQ before version 4 believes the form
    /// of `x-death`, and a forged one ends what moves dead letters, should the queue that the message is in have
    /// to move it.
    fn guard(&self) -> String {
        self.name("guard")
    }

    /// The fanout exchange that gives each event to the archive and to the work queue.
    fn routes(&self) -> String {
        self.name("routes")
    }

    /// The name of a queue. The exchange that only this queue is bound to has the same name, except that of
    /// [`Queue::Again`], which is [`Self::return_`].
    pub(crate) fn queue(&self, queue: Queue) -> String {
        self.name(match queue {
            Queue::Work => "work",
            Queue::WorkLate => "work.late",
            Queue::Archive => "archive",
            Queue::ArchiveLate => "archive.late",
            Queue::Suspects => "suspects",
            Queue::Again => "again",
            Queue::Dispatch => "dispatch",
            Queue::Records => "records",
            Queue::Holds => "holds",
            Queue::BlindMatches => "blind",
            Queue::Dead => "dead",
        })
    }

    /// The fanout exchange, and the queue, where messages wait for `delay`.
    pub(crate) fn retry(&self, delay: Delay) -> String {
        self.name(&format!("retry.{delay}"))
    }

    /// The fanout exchange that brings waited messages back.
    pub(crate) fn return_(&self) -> String {
        self.name("return")
    }

    /// The fanout exchange of batches of held deliveries.
    pub(crate) fn dispatch(&self) -> String {
        self.queue(Queue::Dispatch)
    }

    /// The fanout exchange of dead letters.
    pub(crate) fn dead(&self) -> String {
        self.queue(Queue::Dead)
    }

    /// The fanout exchange of attempt records.
    pub(crate) fn records(&self) -> String {
        self.queue(Queue::Records)
    }

    /// The fanout exchange of records of held deliveries.
    pub(crate) fn holds(&self) -> String {
        self.queue(Queue::Holds)
    }

    /// The fanout exchange that tells every process of a changed endpoint.
    pub(crate) fn control(&self) -> String {
        self.name("control")
    }

    /// The fanout exchange that tells every process that something was recorded.
    pub(crate) fn recorded(&self) -> String {
        self.name("recorded")
    }

    /// Tells whether the broker refused an object because an older relay declared one of the same name: before there
    /// was one queue for all endpoints, the exchange for retries was direct and that of routes a topic exchange.
    /// Anything else that differs is the work of an operator or of another program.
    pub(crate) fn is_of_an_older_relay(&self, undeclared: &Undeclared) -> bool {
        let Undeclared { object, error } = undeclared;
        let before = match object.strip_prefix("exchange ") {
            Some(name) if name == self.return_() => "direct",
            Some(name) if name == self.routes() => "topic",
            _ => return false,
        };
        // RabbitMQ says: inequivalent arg 'type' for exchange …: received 'fanout' but current is 'direct'.
        reply_code(error) == Some(PRECONDITION_FAILED)
            && error.to_string().contains(&format!("is '{before}'"))
    }

    fn name(&self, object: &str) -> String {
        format!("{}.{object}", self.namespace)
    }

    /// Declares what every relay has.
    ///
    /// # Errors
    /// The first object that the broker refused to declare or bind.
    pub(crate) async fn declare(&self, channel: &Channel) -> Result<(), Undeclared> {
        use ExchangeKind::{Fanout, Headers, Topic};
        // The exchange of an older relay is of another kind, and is refused before anything else is declared.
        exchange(channel, &self.return_(), Fanout, []).await?;
        exchange(channel, &self.events(), Topic, []).await?;
        exchange(channel, &self.routes(), Fanout, []).await?;
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
            .await
            .map_err(Undeclared::of(format!(
                "binding of the exchange {}",
                self.guard()
            )))?;
        for fanout in [
            self.queue(Queue::WorkLate),
            self.queue(Queue::ArchiveLate),
            self.dispatch(),
            self.records(),
            self.holds(),
            self.queue(Queue::BlindMatches),
            self.dead(),
            self.control(),
            self.recorded(),
        ] {
            exchange(channel, &fanout, Fanout, []).await?;
        }
        // A queue is there before anything is moved to it, and bound before that too.
        for queue in [
            Queue::Dead,
            Queue::Holds,
            Queue::BlindMatches,
            Queue::Records,
            Queue::Suspects,
            Queue::ArchiveLate,
            Queue::WorkLate,
            Queue::Dispatch,
            Queue::Again,
            Queue::Archive,
            LAST_DECLARED,
        ] {
            self.declare_queue(channel, queue).await?;
        }
        Ok(())
    }

    async fn declare_queue(&self, channel: &Channel, queue: Queue) -> Result<(), Undeclared> {
        let name = self.queue(queue);
        let mut arguments = table([("x-delivery-limit", delivery_limit(queue).into())]);
        if is_taken_by_one(queue) {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        if let Some(next) = moves_to(queue) {
            insert(&mut arguments, dead_letters_to(self.queue(next)));
        }
        declare(channel, &name, arguments).await?;
        match queue {
            Queue::Work | Queue::Archive => bind(channel, &name, &self.routes()).await,
            Queue::Again => bind(channel, &name, &self.return_()).await,
            Queue::Records => {
                bind(channel, &name, &name).await?;
                // The log learns of every death from here, for some are the broker's own doing.
                bind(channel, &name, &self.dead()).await
            }
            Queue::Suspects => {
                let moved = table([
                    ("x-match", text("any-with-x".to_owned())),
                    ("x-death", AMQPValue::Void),
                ]);
                bind_by(channel, &name, &self.guard(), moved).await
            }
            Queue::WorkLate
            | Queue::ArchiveLate
            | Queue::Dispatch
            | Queue::Holds
            | Queue::BlindMatches
            | Queue::Dead => bind(channel, &name, &name).await,
        }
    }

    /// Declares where messages wait for `delay`.
    ///
    /// # Errors
    /// The object that the broker refused to declare or bind.
    pub(crate) async fn declare_delay(&self, channel: &Channel, delay: Delay) -> Result<(), Undeclared> {
        let name = self.retry(delay);
        let millis = i64::try_from(delay.as_duration().as_millis()).unwrap_or(i64::MAX);
        exchange(channel, &name, ExchangeKind::Fanout, []).await?;
        let mut arguments = table([
            ("x-message-ttl", AMQPValue::LongLongInt(millis)),
            ("x-delivery-limit", UNREACHABLE_DELIVERY_LIMIT.into()),
        ]);
        insert(&mut arguments, dead_letters_to(self.return_()));
        declare(channel, &name, arguments).await?;
        bind(channel, &name, &name).await
    }
}

/// The queue to which a queue moves what it returned too often, what a consumer rejects, and what expires in it:
/// at least once, so none of it may be what a producer can forge a death on.
pub(crate) fn moves_to(queue: Queue) -> Option<Queue> {
    match queue {
        Queue::Work => Some(Queue::WorkLate),
        Queue::Archive => Some(Queue::ArchiveLate),
        Queue::WorkLate | Queue::ArchiveLate | Queue::Holds | Queue::BlindMatches => Some(Queue::Dead),
        Queue::Again | Queue::Dispatch => Some(Queue::Holds),
        Queue::Suspects | Queue::Records | Queue::Dead => None,
    }
}

fn delivery_limit(queue: Queue) -> i32 {
    match queue {
        Queue::Work
        | Queue::WorkLate
        | Queue::Archive
        | Queue::ArchiveLate
        | Queue::Again
        | Queue::Dispatch => DELIVERY_LIMIT,
        Queue::Suspects | Queue::Records | Queue::Holds | Queue::BlindMatches | Queue::Dead => {
            UNREACHABLE_DELIVERY_LIMIT
        }
    }
}

/// Tells whether one consumer takes from the queue and the others stand by.
fn is_taken_by_one(queue: Queue) -> bool {
    !matches!(queue, Queue::Work | Queue::Again | Queue::Dispatch | Queue::Dead)
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
    insert(&mut table, arguments);
    table
}

fn insert<const N: usize>(table: &mut FieldTable, arguments: [(&'static str, AMQPValue); N]) {
    for (name, value) in arguments {
        table.insert(ShortString::from(name), value);
    }
}

async fn exchange<const N: usize>(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
    arguments: [(&'static str, AMQPValue); N],
) -> Result<(), Undeclared> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..Default::default()
    };
    channel
        .exchange_declare(name.into(), kind, durable, table(arguments))
        .await
        .map_err(Undeclared::of(format!("exchange {name}")))
}

async fn declare(channel: &Channel, name: &str, mut arguments: FieldTable) -> Result<(), Undeclared> {
    let durable = QueueDeclareOptions {
        durable: true,
        ..Default::default()
    };
    arguments.insert("x-queue-type".into(), text("quorum".to_owned()));
    let declared = channel.queue_declare(name.into(), durable, arguments).await;
    declared.map_err(Undeclared::of(format!("queue {name}")))?;
    Ok(())
}

async fn bind(channel: &Channel, queue: &str, exchange: &str) -> Result<(), Undeclared> {
    bind_by(channel, queue, exchange, FieldTable::default()).await
}

async fn bind_by(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    arguments: FieldTable,
) -> Result<(), Undeclared> {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), exchange.into(), "".into(), options, arguments)
        .await
        .map_err(Undeclared::of(format!(
            "binding of the queue {queue} to the exchange {exchange}"
        )))
}
