//! Producers: two over AMQP, two over HTTP, that publish until they are told to stop, and do what real
//! ones do when they hear nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, options::BasicPublishOptions, types::AMQPValue,
};
use rand::{Rng as _, RngExt, SeedableRng, rngs::ChaCha8Rng};
use relay_testkit::{Proxy, confirming};
use relay_tests::{Api, amqp};
use reqwest::Method;
use tokio::time::{sleep, timeout};

use crate::{crowd::Crowd, ledger::Ledger};

/// Types with their shares.
const TYPES: [(&str, u32); 8] = [
    ("order.created", 30),
    ("order.paid", 20),
    ("order.line.added", 12),
    ("invoice.sent", 10),
    ("invoice.paid.late", 6),
    ("user.created", 12),
    ("user.left", 7),
    ("ping", 3),
];

/// Confirms an AMQP producer waits for at once.
const IN_THE_AIR: usize = 20;

/// Without an answer for so long a producer takes it that none will come.
const PATIENCE: Duration = Duration::from_secs(12);

/// Events on their way that make the producers wait for the deliverers.
const BACKLOG: usize = 2_000;

const PAUSE: Duration = Duration::from_millis(100);

/// What all producers share.
pub(crate) struct Load {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) crowd: Arc<Crowd>,
    /// The relay's namespace.
    pub(crate) namespace: String,
    /// Events a second of each producer.
    pub(crate) rate: f64,
    pub(crate) over: AtomicBool,
}

/// An event to be published.
#[derive(Clone)]
struct Draft {
    id: String,
    event_type: &'static str,
    source: String,
    data: String,
    /// Set if its producer says over AMQP that a broker has moved it before.
    claims_death: bool,
}

impl Draft {
    fn structured(&self) -> String {
        let Self {
            id,
            event_type,
            source,
            data,
            ..
        } = self;
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"{source}","type":"{event_type}","data":{data}}}"#
        )
    }
}

/// Where events come from: the same for the same seed.
struct Pen {
    name: String,
    random: ChaCha8Rng,
    count: usize,
}

impl Pen {
    fn new(name: String, seed: u64) -> Self {
        let stream = name
            .bytes()
            .map(u64::from)
            .fold(seed, |sum, byte| sum.wrapping_mul(257) ^ byte);
        let random = ChaCha8Rng::seed_from_u64(stream);
        Self {
            name,
            random,
            count: 0,
        }
    }

    fn draft(&mut self) -> Draft {
        self.count += 1;
        let mut share = self
            .random
            .random_range(0..TYPES.iter().map(|(_, share)| share).sum());
        let of_share = |(_, part): &&(&str, u32)| match share.checked_sub(*part) {
            Some(rest) => {
                share = rest;
                false
            }
            None => true,
        };
        let event_type = TYPES.iter().find(of_share).map_or("ping", |(name, _)| name);
        // Most are small, few are larger than a frame.
        let size = match self.random.random_range(0..100) {
            0 => 150_000,
            1..=9 => 4_000,
            _ => self.random.random_range(0..600),
        };
        let number = self.random.next_u64();
        // A space, so that whoever writes the data anew is found out.
        let data = format!(
            r#"{{"n": {}, "nonce":"{number:016x}", "pad":"{}"}}"#,
            self.count,
            "x".repeat(size)
        );
        Draft {
            id: format!("{}-{:06}", self.name, self.count),
            event_type,
            source: format!("/torture/{}", self.name),
            data,
            claims_death: self.random.random_ratio(1, 50),
        }
    }
}

impl Load {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Waits for the next moment of the rate, and for the deliverers.
    async fn pace(&self, events: usize) {
        #[allow(clippy::cast_precision_loss, reason = "a batch is small")]
        sleep(Duration::from_secs_f64(events as f64 / self.rate)).await;
        while !self.is_over() && self.ledger.count().1 > self.crowd.arrived() + BACKLOG {
            sleep(PAUSE).await;
        }
    }

    /// Publishes over AMQP. What was not confirmed is published again under its id, or left at that.
    pub(crate) async fn over_amqp(self: Arc<Self>, number: usize, wire: Arc<Proxy>, seed: u64) {
        let mut pen = Pen::new(format!("amqp-{number}"), seed);
        let mut unconfirmed: Vec<Draft> = Vec::new();
        while !(self.is_over() && unconfirmed.is_empty()) {
            let Ok(Some((_connection, channel))) = timeout(PATIENCE, connect(&wire.url())).await else {
                sleep(PAUSE).await;
                continue;
            };
            self.publish_on(&channel, &mut pen, &mut unconfirmed).await;
            unconfirmed.retain(|_| pen.random.random_ratio(3, 4));
        }
    }

    /// Publishes until something goes wrong or the load is over; what is unconfirmed then stays in the list.
    async fn publish_on(&self, channel: &Channel, pen: &mut Pen, unconfirmed: &mut Vec<Draft>) {
        let mut again = std::mem::take(unconfirmed);
        let mut in_the_air = FuturesUnordered::new();
        let mut sane = true;
        while sane {
            let draft = match again.pop() {
                Some(draft) => draft,
                None if self.is_over() => break,
                None => {
                    self.pace(1).await;
                    pen.draft()
                }
            };
            let structured = draft.data.len() % 3 > 0;
            let body = draft.structured();
            self.ledger.sending(
                &draft.id,
                draft.event_type,
                &draft.data,
                structured.then_some(body.as_str()),
            );
            unconfirmed.push(draft.clone());
            let payload = if structured {
                body.as_bytes()
            } else {
                draft.data.as_bytes()
            };
            let properties = if structured {
                amqp::structured()
            } else {
                binary(&draft)
            };
            let exchange = format!("{}.events", self.namespace);
            let sending = channel.basic_publish(
                exchange.into(),
                draft.event_type.into(),
                BasicPublishOptions::default(),
                payload,
                properties,
            );
            let Ok(Ok(confirm)) = timeout(PATIENCE, sending).await else {
                break;
            };
            let id = draft.id;
            in_the_air.push(async move { (id, timeout(PATIENCE, confirm).await) });
            while sane && (in_the_air.len() >= IN_THE_AIR || (again.is_empty() && self.is_over())) {
                let Some((id, confirm)) = in_the_air.next().await else {
                    break;
                };
                sane = self.note(
                    &id,
                    matches!(confirm, Ok(Ok(Confirmation::Ack(None)))),
                    unconfirmed,
                );
            }
        }
        while let Some((id, confirm)) = in_the_air.next().await {
            self.note(
                &id,
                matches!(confirm, Ok(Ok(Confirmation::Ack(None)))),
                unconfirmed,
            );
        }
        unconfirmed.append(&mut again);
    }

    fn note(&self, id: &str, confirmed: bool, unconfirmed: &mut Vec<Draft>) -> bool {
        if confirmed {
            self.ledger.confirmed(id, false);
            unconfirmed.retain(|draft| draft.id != id);
        }
        confirmed
    }

    /// Publishes over HTTP, one by one or in batches, each again until it is accepted.
    pub(crate) async fn over_http(self: Arc<Self>, number: usize, gateways: Vec<Api>, seed: u64) {
        let mut pen = Pen::new(format!("http-{number}"), seed);
        while !self.is_over() {
            let size = match pen.random.random_range(0..10) {
                0..7 => 1,
                _ => pen.random.random_range(2..=20),
            };
            self.pace(size).await;
            let batch: Vec<Draft> = (0..size).map(|_| pen.draft()).collect();
            let mut gateway = pen.random.random_range(0..gateways.len());
            while !self.offer(&gateways[gateway], &batch).await {
                // Whoever gets no answer tries the other one.
                gateway = (gateway + 1) % gateways.len();
                sleep(PAUSE).await;
            }
        }
    }

    async fn offer(&self, gateway: &Api, batch: &[Draft]) -> bool {
        let bodies: Vec<String> = batch.iter().map(Draft::structured).collect();
        for (draft, body) in batch.iter().zip(&bodies) {
            self.ledger
                .sending(&draft.id, draft.event_type, &draft.data, Some(body));
        }
        let (content_type, body) = match &*bodies {
            [one] => ("application/cloudevents+json", one.clone()),
            _ => (
                "application/cloudevents-batch+json",
                format!("[{}]", bodies.join(",")),
            ),
        };
        let request = gateway.request(Method::POST, "/v1/events").timeout(PATIENCE);
        let sent = request
            .header("content-type", content_type)
            .body(body)
            .send()
            .await;
        let Ok(answer) = sent else { return false };
        let repeat = answer.headers().contains_key("idempotent-replayed");
        match answer.status().as_u16() {
            202 => {
                let ids = batch.iter().map(|draft| &draft.id);
                ids.for_each(|id| self.ledger.confirmed(id, repeat));
                true
            }
            503 => false,
            other => panic!("an event is answered {other}: {}", bodies[0]),
        }
    }
}

/// The properties of a persistent event in binary mode.
fn binary(draft: &Draft) -> BasicProperties {
    let mut headers = amqp::headers(&[
        ("ce-specversion", "1.0"),
        ("ce-id", &draft.id),
        ("ce-source", &draft.source),
        ("ce-type", draft.event_type),
    ]);
    if draft.claims_death {
        let forged =
            AMQPValue::FieldArray(vec![AMQPValue::LongString("never written by RabbitMQ".into())].into());
        headers.insert("x-death".into(), forged);
    }
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_headers(headers)
}

async fn connect(url: &str) -> Option<(Connection, Channel)> {
    confirming(&format!("{url}?heartbeat=5")).await.ok()
}
