//! Looking at queues that may not be there. The broker closes a channel that asks for a missing queue, and
//! lapin never gives such a channel's number away again without an error; a connection has 2,047 of them.
//! So what looks has a connection of its own, which is replaced before it runs out.

use lapin::{Channel, Connection, options::QueueDeclareOptions, types::FieldTable};
use tokio::{sync::Mutex, time::timeout};

use crate::{
    Config,
    connection::{connect, open_channel},
    session::{CONNECT_TIMEOUT, Error, QueueDepth},
};

/// Missing queues that one connection is asked for.
const MISSES: usize = 1_000;

const NOT_FOUND: u16 = 404;

pub(crate) struct Inspector {
    config: Config,
    open: Mutex<Option<Open>>,
}

struct Open {
    connection: Connection,
    channel: Option<Channel>,
    misses: usize,
}

impl Inspector {
    /// Connects at the first look.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            open: Mutex::default(),
        }
    }

    /// Ends the connection, lest the broker takes it for broken off.
    pub(crate) async fn close(&self) {
        if let Some(open) = self.open.lock().await.take() {
            let _ = open.connection.close(200, "OK".into()).await;
        }
    }

    /// How full a queue is; `None` if there is no such queue.
    pub(crate) async fn look_at(&self, queue: &str) -> Result<Option<QueueDepth>, Error> {
        // Whatever fails or is cut off leaves nothing open for the next.
        let mut place = self.open.lock().await;
        let looking = async {
            let mut open = match place.take().filter(Open::is_usable) {
                Some(open) => open,
                None => Open::new(&self.config).await?,
            };
            let depth = open.look_at(queue).await?;
            *place = Some(open);
            Ok(depth)
        };
        timeout(CONNECT_TIMEOUT, looking).await.unwrap_or_else(|_| {
            let to = self.config.url.to_string();
            Err(Error::Timeout { to })
        })
    }
}

impl Open {
    async fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self {
            connection: connect(config, "inspect").await?,
            channel: None,
            misses: 0,
        })
    }

    fn is_usable(&self) -> bool {
        self.misses < MISSES && self.connection.status().connected()
    }

    async fn look_at(&mut self, queue: &str) -> Result<Option<QueueDepth>, Error> {
        let doing = || Error::doing(format!("look at {queue}"));
        let channel = match self.channel.take().filter(|channel| channel.status().connected()) {
            Some(channel) => channel,
            None => open_channel(&self.connection).await?,
        };
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        match channel
            .queue_declare(queue.into(), passive, FieldTable::default())
            .await
        {
            Ok(found) => {
                self.channel = Some(channel);
                Ok(Some(QueueDepth {
                    ready: found.message_count(),
                    consumers: found.consumer_count(),
                }))
            }
            Err(error) if reply_code(&error) == Some(NOT_FOUND) => {
                self.misses += 1;
                Ok(None)
            }
            Err(error) => Err(doing()(error)),
        }
    }
}

pub(crate) fn reply_code(error: &lapin::Error) -> Option<u16> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => Some(error.get_id()),
        _ => None,
    }
}
