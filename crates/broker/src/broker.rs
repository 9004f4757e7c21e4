use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use relay_event::{Event, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    Config, Metrics, Namespace,
    publisher::PublishError,
    reconnect::Delays,
    session::{Error, Session},
};

/// A session that lived this long was no failure to connect.
const STEADY: Duration = Duration::from_secs(10);

/// Before the first try has ended.
const CONNECTING: &str = "connecting";

/// How things stand with the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Not connected, and why.
    Down(String),
    /// Connected.
    Up,
    /// Connected, but an alarm (memory, disk) keeps the broker from taking publishes.
    Blocked,
}

impl Status {
    /// What keeps the broker from being used, if anything does.
    pub fn trouble(&self) -> Option<&str> {
        match self {
            Self::Up => None,
            Self::Down(why) => Some(why),
            Self::Blocked => Some("the broker takes no publishes because of a memory or disk alarm"),
        }
    }
}

/// The supervised connection: when it is lost a new one is made, with growing waits between tries,
/// and each change is said once. Cheap to clone; the last clone ends it.
#[derive(Clone)]
pub struct Broker {
    session: watch::Receiver<Option<Session>>,
    status: watch::Receiver<Status>,
    refused: watch::Receiver<Option<Refusal>>,
    closing: CancellationToken,
    _ends_with_the_last: Arc<DropGuard>,
}

impl Broker {
    /// Starts connecting and returns at once.
    pub fn start(config: Config, metrics: Option<Metrics>) -> Self {
        let (session_tx, session) = watch::channel(None);
        let (status_tx, status) = watch::channel(Status::Down(CONNECTING.to_owned()));
        let (refused_tx, refused) = watch::channel(None);
        let closing = CancellationToken::new();
        let supervisor = Supervisor {
            config,
            metrics,
            session: session_tx,
            status: status_tx,
            refused: refused_tx,
            closing: closing.clone(),
        };
        tokio::spawn(supervisor.run());
        let guard = Arc::new(closing.clone().drop_guard());
        Self {
            session,
            status,
            refused,
            closing,
            _ends_with_the_last: guard,
        }
    }

    /// How things stand, and when they change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The present session, waiting for one if there is none. Pending for ever once closed.
    pub async fn session(&self) -> Session {
        let mut sessions = self.session.clone();
        loop {
            if let Some(session) = sessions
                .borrow_and_update()
                .clone()
                .filter(|session| !session.is_lost())
            {
                return session;
            }
            if sessions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// The present session, if there is one.
    pub fn current(&self) -> Option<Session> {
        self.session.borrow().clone().filter(|session| !session.is_lost())
    }

    /// Publishes an event and waits for the broker's confirm; never waits for a connection.
    ///
    /// # Errors
    /// [`PublishError::Unavailable`]: nothing was sent. Otherwise the event may have arrived, and
    /// publishing it again with the same id is right.
    pub async fn publish_event(&self, event: &Event, now: Timestamp) -> Result<(), PublishError> {
        let trouble = self.status.borrow().trouble().map(str::to_owned);
        match (self.current(), trouble) {
            (Some(session), None) => session.publish_event(event, now).await,
            (_, Some(trouble)) => Err(PublishError::Unavailable(trouble)),
            (None, None) => Err(PublishError::Unavailable("reconnecting".to_owned())),
        }
    }

    /// Does `work` to its end, unless the broker turns out to hold the objects of an older relay.
    ///
    /// # Errors
    /// `work` failed, or [`Error::OlderRelay`].
    pub async fn serve<T, E: From<Error>>(&self, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::select! {
            done = work => done,
            error = self.refusal() => Err(error.into()),
        }
    }

    async fn refusal(&self) -> Error {
        let mut refused = self.refused.clone();
        if let Ok(refused) = refused.wait_for(Option::is_some).await
            && let Some(Refusal { to, namespace }) = refused.clone()
        {
            return Error::OlderRelay { to, namespace };
        }
        std::future::pending().await
    }

    /// Ends the connection; what was taken and not settled returns to its queue.
    pub async fn close(&self) {
        self.closing.cancel();
        let mut status = self.status.clone();
        // The supervisor drops its sender when it is done.
        while status.changed().await.is_ok() {}
    }
}

/// The objects of an older relay.
#[derive(Debug, Clone)]
struct Refusal {
    to: String,
    namespace: Namespace,
}

struct Supervisor {
    config: Config,
    metrics: Option<Metrics>,
    session: watch::Sender<Option<Session>>,
    status: watch::Sender<Status>,
    refused: watch::Sender<Option<Refusal>>,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(self) {
        let mut delays = Delays::new();
        let closing = self.closing.clone();
        while !closing.is_cancelled() {
            let opened = tokio::select! {
                () = closing.cancelled() => return,
                opened = Session::open(&self.config, self.metrics.clone()) => opened,
            };
            match opened {
                Ok(session) => {
                    let opened = Instant::now();
                    self.attend(&session).await;
                    session.close().await;
                    // What ends every session as soon as it begins must not end many a second.
                    if opened.elapsed() > STEADY {
                        delays.reset();
                    }
                }
                Err(Error::OlderRelay { to, namespace }) => {
                    self.refused.send_replace(Some(Refusal { to, namespace }));
                    return; // No other try would change it.
                }
                Err(error) => self.say_down(&chain(&error)),
            }
            tokio::select! {
                () = closing.cancelled() => {}
                () = delays.wait() => {}
            }
        }
    }

    /// Stays with a session until it is lost or the relay closes.
    async fn attend(&self, session: &Session) {
        tracing::info!(broker = %self.config.url, "connected to the broker");
        if let Some(metrics) = &self.metrics {
            metrics.reconnects.inc();
        }
        self.session.send_replace(Some(session.clone()));
        let mut blocked = session.blocked();
        loop {
            self.say(if *blocked.borrow_and_update() {
                Status::Blocked
            } else {
                Status::Up
            });
            tokio::select! {
                () = self.closing.cancelled() => break,
                () = session.lost() => break,
                changed = blocked.changed() => if changed.is_err() { break },
            }
        }
        self.session.send_replace(None);
        if !self.closing.is_cancelled() {
            self.say_down("the connection was lost");
        }
    }

    /// Says so in the log when it is news.
    fn say_down(&self, why: &str) {
        let was_down = self.status.send_replace(Status::Down(why.to_owned()));
        let is_news = match was_down {
            Status::Down(before) => before == CONNECTING,
            _ => true,
        };
        if is_news {
            tracing::warn!(broker = %self.config.url, error = why, "no connection to the broker; trying again until there is");
        }
        self.count(0, 0);
    }

    fn say(&self, status: Status) {
        let before = self.status.send_replace(status.clone());
        match (&before, &status) {
            (Status::Up, Status::Blocked) => {
                tracing::warn!("the broker takes no publishes because of a memory or disk alarm; waiting")
            }
            (Status::Blocked, Status::Up) => tracing::info!("the broker takes publishes again"),
            _ => {}
        }
        self.count(1, i64::from(status == Status::Blocked));
    }

    fn count(&self, connected: i64, blocked: i64) {
        if let Some(metrics) = &self.metrics {
            metrics.connected.set(connected);
            metrics.blocked.set(blocked);
        }
    }
}

/// An error with its causes, in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
