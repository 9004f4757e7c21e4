//! "An endpoint changed", "something was recorded", told to every process at once. Only hints: who hears
//! one looks into the store, and everybody looks now and then anyway.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    BasicProperties, Consumer,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use relay_event::{EndpointId, EventId};

use crate::{
    publisher::{Outgoing, PublishError},
    session::{Error, Session},
};

/// Announcements, from the moment of listening.
struct Heard(Option<Consumer>);

impl Heard {
    /// The next. Where they cannot be heard, or no longer, there never is one.
    async fn next(&mut self) -> Vec<u8> {
        let Some(announced) = &mut self.0 else {
            return std::future::pending().await;
        };
        if let Some(Ok(delivery)) = announced.next().await {
            return delivery.data;
        }
        self.0 = None;
        std::future::pending().await
    }

    /// Another that has come already.
    fn more(&mut self) -> Option<Vec<u8>> {
        self.next().now_or_never()
    }
}

/// Announcements of changed endpoints, from the moment of listening.
pub struct Changes(Heard);

impl Changes {
    /// Resolves when an endpoint changed. Many changes at once are one reason to look. Where
    /// announcements cannot be heard, or no longer, it never does: changes are found by looking then.
    pub async fn next(&mut self) {
        self.0.next().await;
        while self.0.more().is_some() {}
    }
}

/// Announcements of what was recorded, from the moment of listening.
pub struct Recordings(Heard);

impl Recordings {
    /// Resolves when something was recorded, with the places in the log of events of which a delivery may
    /// stand otherwise now. Where announcements cannot be heard, or no longer, it never does.
    pub async fn next(&mut self) -> Vec<i64> {
        let mut places = read(&self.0.next().await);
        while let Some(more) = self.0.more() {
            places.extend(read(&more));
        }
        places
    }
}

/// What says nothing that can be understood is a reason to look all the same.
fn read(places: &[u8]) -> Vec<i64> {
    serde_json::from_slice(places).unwrap_or_default()
}

impl Session {
    /// Tells every process that an endpoint changed.
    ///
    /// # Errors
    /// The announcement is not confirmed; others learn of the change when they next look.
    pub async fn announce_change(&self, id: &EndpointId) -> Result<(), PublishError> {
        self.announce(self.topology().control(), id.to_string(), Bytes::new())
            .await
    }

    /// Tells every process that something was recorded, and at which places of the log deliveries may
    /// stand otherwise now.
    ///
    /// # Errors
    /// The announcement is not confirmed; others learn of it when they next look.
    pub async fn announce_recorded(&self, stand_anew: &[i64]) -> Result<(), PublishError> {
        let places = serde_json::to_vec(stand_anew).unwrap_or_default();
        self.announce(self.topology().recorded(), String::new(), places.into())
            .await
    }

    async fn announce(&self, exchange: String, routing_key: String, body: Bytes) -> Result<(), PublishError> {
        self.publish_once(|| Outgoing {
            exchange,
            routing_key,
            properties: BasicProperties::default(),
            body,
            mandatory: false,
        })
        .await
    }

    /// Listens for changed endpoints. Announcements are a convenience: that they cannot be listened for
    /// is said in the log, and is no error.
    pub async fn changes(&self) -> Changes {
        let heard = self.heard(self.topology().control(), "changes of endpoints");
        Changes(heard.await)
    }

    /// Listens for what is recorded, in the same way.
    pub async fn recordings(&self) -> Recordings {
        let heard = self.heard(self.topology().recorded(), "what is recorded");
        Recordings(heard.await)
    }

    async fn heard(&self, exchange: String, what: &str) -> Heard {
        let listening = async {
            let listening = self.listen(&exchange).await;
            listening.map_err(Error::doing(format!("listen for {what}")))
        };
        let listening = self.while_it_lasts(listening).await;
        if let (Err(error), false) = (&listening, self.is_lost()) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(error, "{what} cannot be listened for; looking now and then");
        }
        Heard(listening.ok())
    }

    async fn listen(&self, exchange: &str) -> lapin::Result<Consumer> {
        let channel = self.consuming().create_channel().await?;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        // Named by us: a user's rights may end at the relay's namespace.
        let name = format!("{exchange}.{}", EventId::generate());
        let queue = channel
            .queue_declare(name.into(), exclusive, FieldTable::default())
            .await?;
        let (bind, arguments) = (QueueBindOptions::default(), FieldTable::default());
        channel
            .queue_bind(
                queue.name().clone(),
                exchange.into(),
                ShortString::default(),
                bind,
                arguments,
            )
            .await?;
        // An announcement is settled by being heard.
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        channel
            .basic_consume(
                queue.name().clone(),
                ShortString::default(),
                options,
                FieldTable::default(),
            )
            .await
    }
}
