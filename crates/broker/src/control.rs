//! "An endpoint changed", told to every process at once. Only a hint: who hears it looks into the
//! store, and everybody looks now and then anyway.

use bytes::Bytes;
use futures_util::StreamExt;
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

/// The announcements, from the moment of listening.
pub struct Changes(Consumer);

impl Changes {
    /// Resolves when an endpoint changed; `false` once the session is over.
    pub async fn changed(&mut self) -> bool {
        matches!(self.0.next().await, Some(Ok(_)))
    }
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

    /// Listens for changed endpoints.
    ///
    /// # Errors
    /// The broker refuses, or went away.
    pub async fn changes(&self) -> Result<Changes, Error> {
        self.while_it_lasts(async {
            let listening = self.listen().await;
            let doing = "listen for changed endpoints";
            listening.map(Changes).map_err(Error::doing(doing))
        })
        .await
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
