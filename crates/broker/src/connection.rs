//! One connection: making it, and noticing its end.

use futures_util::{Stream, StreamExt};
use lapin::{Channel, Connection, ConnectionProperties, Event as ConnectionEvent};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    session::{CONNECT_TIMEOUT, Error},
    topology::Topology,
    transport::{self, Limits},
};

pub(crate) async fn connect(config: &Config, purpose: &str) -> Result<Connection, Error> {
    let to = config.url.to_string();
    let name = format!("{} {purpose}", config.name);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let uri = config.url.uri();
    let topology = Topology::new(config.namespace.clone());
    let frame_max = uri.query.frame_max.unwrap_or_default();
    let limits = Limits::new(&topology, config.max_event_bytes, frame_max);
    match timeout(CONNECT_TIMEOUT, transport::connect(uri, properties, limits)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(source)) => Err(Error::Connect { to, source }),
        Err(_) => Err(Error::Timeout { to }),
    }
}

pub(crate) async fn open_channel(connection: &Connection) -> Result<Channel, Error> {
    connection
        .create_channel()
        .await
        .map_err(Error::doing("open a channel"))
}

pub(crate) async fn watch_connection(
    events: impl Stream<Item = ConnectionEvent>,
    lost: CancellationToken,
    blocking: Option<watch::Sender<bool>>,
) {
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            () = lost.cancelled() => return,
            event = events.next() => event,
        };
        match (event, &blocking) {
            (Some(ConnectionEvent::ConnectionBlocked(_)), Some(blocking)) => drop(blocking.send(true)),
            (Some(ConnectionEvent::ConnectionUnblocked), Some(blocking)) => drop(blocking.send(false)),
            // A channel's error is told here too; it is for whoever used the channel.
            (Some(ConnectionEvent::Error(error)), _) if error.is_amqp_soft_error() => {}
            (Some(ConnectionEvent::Error(_)) | None, _) => return lost.cancel(),
            _ => {}
        }
    }
}
