//! The version of all endpoints together, and what changed since one.

use std::{io::ErrorKind, time::Duration};

use relay_event::{Endpoint, EndpointId};

use crate::{
    Error, Store,
    endpoints::read,
    pool::{self, Own, Pool, TransactionOn, on},
    postgres,
    sql::{self, Fleet, Row},
};

/// The longest time PostgreSQL may take to tell the version on a reader's own connection.
const ANSWER: Duration = Duration::from_millis(250);

/// The version of all endpoints together. Every change of an endpoint makes the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetVersion {
    /// 16 lower-case hexadecimal digits, made with the store's tables. Numbers of another lineage tell nothing.
    pub lineage: String,
    /// The number of changes so far.
    pub number: i64,
    /// The id of the last change: 32 lower-case hexadecimal digits, or empty before the first. Two changes may
    /// have the same number if the store was restored, or failed over, between them.
    pub change: String,
}

/// The endpoints at a version, as far as a reader of another one does not know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The version.
    pub version: FleetVersion,
    /// The endpoints.
    pub endpoints: ChangedEndpoints,
}

/// All endpoints, or those that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangedEndpoints {
    /// All, in the order of their ids. What the reader knows beside them is not there any more.
    All(Vec<Endpoint>),
    /// Those that changed since the version that the reader knows; the others are as it knows them.
    Since {
        /// Those that were added or changed, in the order of their last changes.
        changed: Vec<Endpoint>,
        /// Those that were removed. The reader may never have known them.
        removed: Vec<EndpointId>,
    },
}

impl Store {
    /// The version of all endpoints: one row, whatever their number.
    ///
    /// # Errors
    /// The database failed.
    pub async fn fleet_version(&self) -> Result<FleetVersion, Error> {
        let reading = sql::fleet(&self.pool);
        Ok(self.within("read the endpoints' version", reading).await?.into())
    }

    /// The endpoints that changed since `known`, and the version that they are read at. They are all if nothing is
    /// known, if `known` is of another lineage or is not one that this store had, or if removals since then
    /// are forgotten. If nothing changed, only the version is read.
    ///
    /// # Errors
    /// The database failed, or an endpoint in it does not read.
    pub async fn changes_since(&self, known: Option<&FleetVersion>) -> Result<Changes, Error> {
        if let Some(known) = known
            && self.fleet_version().await? == *known
        {
            return Ok(Changes::none(known.clone()));
        }
        let reading = async { rows_since(&mut self.pool.read().await?, known).await };
        changes(self.within("read the endpoints", reading).await?)
    }

    /// Returns a reader with a connection of its own.
    pub fn change_reader(&self) -> ChangeReader {
        ChangeReader {
            pool: self.pool.clone(),
            connection: None,
        }
    }
}

/// Reads which endpoints changed on a connection of its own, so that it waits for no other reader.
pub struct ChangeReader {
    pool: Pool,
    /// Taken out while it is used: one whose answer was not waited for is closed.
    connection: Option<Own>,
}

impl ChangeReader {
    /// The changes since `known`, as [`Store::changes_since`] returns them. PostgreSQL has 250 ms to tell the
    /// version. It has 5 s to let the reader in and 5 s for the first answer, which is only necessary first and after
    /// an error, and 40 s to send endpoints. Nothing is lost if this is dropped.
    ///
    /// # Errors
    /// The database failed or did not answer in time, or an endpoint in it does not read.
    pub async fn changes_since(&mut self, known: Option<&FleetVersion>) -> Result<Changes, Error> {
        let asking = Box::pin(self.version());
        let (version, mut connection) = asking
            .await
            .map_err(|source| Error::of("read the endpoints' version", source))?;
        let changes = if known == Some(&version) {
            Changes::none(version)
        } else {
            let reading = async {
                let mut tx = pool::read_on(&mut connection).await?;
                let rows = rows_since(&mut tx, known).await?;
                on!(tx, tx => tx.rollback().await?);
                Ok(rows)
            };
            let rows = Box::pin(self.pool.within(reading)).await;
            changes(rows.map_err(|source| Error::of("read the endpoints", source))?)?
        };
        self.connection = Some(connection);
        Ok(changes)
    }

    /// The version, and the connection by which it was read.
    async fn version(&mut self) -> Result<(FleetVersion, Own), sqlx::Error> {
        if let Some(mut connection) = self.connection.take() {
            match self.ask(&mut connection, ANSWER).await {
                Ok(version) => return Ok((version, connection)),
                Err(sqlx::Error::Io(error)) if error.kind() == ErrorKind::TimedOut => {
                    return Err(error.into());
                }
                Err(_) => {} // The server may have been started again.
            }
        }
        let mut connection = self.pool.connect().await?;
        // A new connection needs more round trips for its first answer.
        let version = self.ask(&mut connection, postgres::CONNECT).await?;
        Ok((version, connection))
    }

    async fn ask(&self, connection: &mut Own, within: Duration) -> Result<FleetVersion, sqlx::Error> {
        let asking = self.pool.within_time(within, sql::fleet_on(connection));
        asking.await.map(FleetVersion::from)
    }
}

/// The fleet's row, the endpoints' rows, and the ids of the removed ones, if the rows are not those of all.
type Rows = (Fleet, Vec<Row>, Option<Vec<String>>);

async fn rows_since(tx: &mut TransactionOn<'_>, known: Option<&FleetVersion>) -> Result<Rows, sqlx::Error> {
    let fleet = sql::fleet_in(tx).await?;
    Ok(match known.filter(|known| fleet.tells_since(known)) {
        None => (fleet, sql::endpoints_in(tx).await?, None),
        Some(known) => {
            let changed = sql::changed_in(tx, known.number).await?;
            (fleet, changed, Some(sql::removed_in(tx, known.number).await?))
        }
    })
}

fn changes((fleet, rows, removed): Rows) -> Result<Changes, Error> {
    let changed = rows.iter().map(read).collect::<Result<_, _>>()?;
    let endpoints = match removed {
        None => ChangedEndpoints::All(changed),
        Some(removed) => ChangedEndpoints::Since {
            changed,
            // No reader knows one whose id does not read.
            removed: removed.iter().filter_map(|id| id.parse().ok()).collect(),
        },
    };
    Ok(Changes {
        version: fleet.into(),
        endpoints,
    })
}

impl Changes {
    fn none(version: FleetVersion) -> Self {
        let endpoints = ChangedEndpoints::Since {
            changed: Vec::new(),
            removed: Vec::new(),
        };
        Self { version, endpoints }
    }
}

impl Fleet {
    /// Returns true if every change since a known version can be told.
    fn tells_since(&self, known: &FleetVersion) -> bool {
        let is_same = known.number == self.number && known.change == self.change;
        known.lineage == self.lineage
            && known.number >= self.forgotten
            && (is_same || known.number < self.number)
    }
}

impl From<Fleet> for FleetVersion {
    fn from(fleet: Fleet) -> Self {
        Self {
            lineage: fleet.lineage,
            number: fleet.number,
            change: fleet.change,
        }
    }
}
