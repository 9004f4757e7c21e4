//! The load: over AMQP and over HTTP, as fast as it is taken or at a fixed rate. It is the same for the
//! relay and for the floor.

use std::thread;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, options::BasicPublishOptions, types::ShortString,
};
use relay_testkit::confirming;
use tokio::sync::mpsc;

use crate::event::{EventBytes, Events, event_type};

/// Publishes awaiting their confirm at once.
const WINDOW: usize = 500;

/// A producer that speaks AMQP.
pub(crate) struct Producer {
    channel: Channel,
    exchange: ShortString,
    properties: BasicProperties,
    _connection: Connection,
}

impl Producer {
    /// Connects, to publish to the exchange of this namespace.
    pub(crate) async fn connect(amqp_url: &str, namespace: &str) -> Self {
        let (connection, channel) = confirming(amqp_url).await.unwrap();
        let structured = BasicProperties::default().with_content_type("application/cloudevents+json".into());
        Self {
            channel,
            exchange: format!("{namespace}.events").into(),
            properties: structured.with_delivery_mode(2),
            _connection: connection,
        }
    }

    /// Publishes all as fast as the broker confirms them.
    pub(crate) async fn publish(&self, events: &Events) {
        let mut bytes = EventBytes::new();
        let mut awaiting = FuturesUnordered::new();
        for (number, kind) in events.iter() {
            if awaiting.len() == WINDOW {
                confirmed(awaiting.next().await.unwrap());
            }
            awaiting.push(self.send(bytes.write(number, kind), kind).await);
        }
        awaiting.for_each(|confirm| async { confirmed(confirm) }).await;
    }

    /// Publishes at a fixed rate, whatever becomes of those before, and says when each was meant to be sent.
    pub(crate) async fn publish_at(&self, events: &Events, rate: f64) -> Vec<Instant> {
        let mut due = schedule(events.count(), rate);
        let mut bytes = EventBytes::new();
        let mut awaiting = FuturesUnordered::new();
        let (mut moments, mut events) = (Vec::new(), events.iter());
        loop {
            tokio::select! {
                biased;
                moment = due.recv() => {
                    let (Some(moment), Some((number, kind))) = (moment, events.next()) else { break };
                    moments.push(moment);
                    awaiting.push(self.send(bytes.write(number, kind), kind).await);
                }
                Some(confirm) = awaiting.next() => confirmed(confirm),
            }
        }
        awaiting.for_each(|confirm| async { confirmed(confirm) }).await;
        moments
    }

    async fn send(
        &self,
        event: &[u8],
        kind: usize,
    ) -> impl Future<Output = lapin::Result<Confirmation>> + use<> {
        let (exchange, key) = (self.exchange.clone(), event_type(kind).into());
        let options = BasicPublishOptions::default();
        let properties = self.properties.clone();
        let sent = self
            .channel
            .basic_publish(exchange, key, options, event, properties);
        sent.await.unwrap()
    }
}

fn confirmed(confirm: lapin::Result<Confirmation>) {
    assert_eq!(confirm.unwrap(), Confirmation::Ack(None));
}

/// Hands out each moment when it has come. A thread of its own, because tokio's timers tick in whole
/// milliseconds. There is room for all of them: a load that cannot be sent in time is not to come later.
fn schedule(count: usize, rate: f64) -> mpsc::Receiver<Instant> {
    const LEAD: Duration = Duration::from_millis(50);
    let (sender, due) = mpsc::channel(count.max(1));
    thread::spawn(move || {
        let began = Instant::now() + LEAD;
        for number in 0..count {
            #[allow(clippy::cast_precision_loss, reason = "a count of events")]
            let moment = began + Duration::from_secs_f64(number as f64 / rate);
            thread::sleep(moment.saturating_duration_since(Instant::now()));
            if sender.try_send(moment).is_err() {
                return;
            }
        }
    });
    due
}
