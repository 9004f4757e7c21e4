//! Where the relay keeps what must outlive it: the endpoints, the log of events, and the log of their
//! deliveries, in SQLite or PostgreSQL. The only crate that knows sqlx.

mod endpoints;
mod error;
mod fleet;
mod known;
mod log;
mod pool;
mod postgres;
mod schema;
mod sql;
mod sqlite;
mod url;

pub use error::Error;
pub use fleet::{ChangeReader, ChangedEndpoints, Changes, FleetVersion};
pub use known::{Changed, KnownEndpoints};
pub use log::{
    AttemptStats, ClaimEnds, ClaimFrom, ClaimRequest, Claimed, Claims, Consumer, DeliveryFilter, EventFilter,
    EventPage, Extent, FeedPage, Forgotten, HeldAgain, HeldChange, HeldChanges, HeldDelivery, HeldFor,
    HeldNow, LoggedDelivery, LoggedEvent, NewEvent, Only, Record, Retention, ReturnedFor, Undelivered,
    UnderWay, WholeEvent, Written,
};
pub use url::StoreUrl;

use std::time::Duration;

use crate::{pool::Pool, url::Place};

/// How long to wait for a database that is not there, before the next look.
const PAUSE: Duration = Duration::from_secs(1);

/// An open store. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: Pool,
}

impl Store {
    /// Opens the store, and creates its tables, and an SQLite file, where they are missing. Any number
    /// of processes may have it open at once.
    ///
    /// # Errors
    /// It cannot be reached, is no store, or was written by a newer relay. It is unchanged then.
    pub async fn open(url: &StoreUrl) -> Result<Self, Error> {
        let pool = match &url.0 {
            Place::Sqlite(path) => sqlite::open(path).await?,
            Place::Postgres(server) => postgres::open(url, server).await?,
        };
        Ok(Self { pool })
    }

    /// Opens the store as soon as it is there: as long as it is unavailable it tries again every second.
    /// `on_wait` is told the first time.
    ///
    /// # Errors
    /// As [`Self::open`], but not that it is unavailable.
    pub async fn open_when_there(url: &StoreUrl, on_wait: impl Fn(&Error)) -> Result<Self, Error> {
        let mut told = false;
        loop {
            match Self::open(url).await {
                Err(error) if error.is_unavailable() => {
                    if !told {
                        on_wait(&error);
                        told = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                opened => return opened,
            }
        }
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), Error> {
        self.within("reach the store", sql::ping(&self.pool)).await
    }

    /// Does `work`, and names what failed of it.
    fn within<T>(
        &self,
        operation: impl Into<String>,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, Error>> {
        // Two databases' futures in one are large, and those who wait for them many.
        let done = Box::pin(self.pool.within(work));
        async move { done.await.map_err(|source| Error::of(operation, source)) }
    }
}
