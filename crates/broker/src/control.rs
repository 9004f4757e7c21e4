//! "An endpoint changed", told to every process at once. Only a hint: who hears it looks into the
//! store, and everybody looks now and then anyway.

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use lapin::{
    BasicProperties, Consumer,
    message::Delivery,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use relay_event::{EndpointId, EventId};

use crate::{
    publisher::{Outgoing, PublishError},
    session::{Error, Session},
};

/// The announcements, from the moment of listening.
pub struct Changes(Option<Consumer>);

impl Changes {
    /// Resolves when an endpoint changed. Many changes at once are one reason to look. Where
    /// announcements cannot be heard, or no longer, it never does: changes are found by looking then.
    pub async fn next(&mut self) {
        let Some(announced) = &mut self.0 else {
            return std::future::pending().await;
        };
        if heard(announced.next().await) {
            while announced.next().now_or_never().is_some_and(heard) {}
        } else {
            self.0 = None;
        }
    }
}

fn heard(announced: Option<lapin::Result<Delivery>>) -> bool {
    matches!(announced, Some(Ok(_)))
}

impl Session {
    /// Tells every process that an endpoint changed.
    ///
    /// # Errors
    /// The announcement is not confirmed; others learn of the change when they next look.
    pub async fn announce_change(&self, id: &EndpointId) -> Result<(), PublishError> {
        self.publish_once(Outgoing {
            exchange: self.topology().control(),
            routing_key: id.to_string(),
            properties: BasicProperties::default(),
            body: Bytes::new(),
            mandatory: false,
        })
        .await
    }

    /// Listens for changed endpoints. Announcements are a convenience: that they cannot be listened for
    /// is said in the log, and is no error.
    pub async fn changes(&self) -> Changes {
        let listening = async {
            self.listen()
                .await
                .map_err(Error::doing("listen for changed endpoints"))
        };
        let listening = self.while_it_lasts(listening).await;
        if let (Err(error), false) = (&listening, self.is_lost()) {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "changes of endpoints cannot be listened for; looking for them now and then"
            );
        }
        Changes(listening.ok())
    }

    async fn listen(&self) -> lapin::Result<Consumer> {
        let channel = self.consuming().create_channel().await?;
        let exclusive = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        // Named by us: a user's rights may end at the relay's namespace.
        let name = format!("{}.{}", self.topology().control(), EventId::generate());
        let queue = channel
            .queue_declare(name.into(), exclusive, FieldTable::default())
            .await?;
        let exchange = self.topology().control();
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
