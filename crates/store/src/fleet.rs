//! The version of all endpoints together, and what changed since one.

use relay_event::EndpointId;

use crate::{
    Error, Store, StoredEndpoint,
    endpoints::read,
    sql::{self, Fleet},
};

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
    All(Vec<StoredEndpoint>),
    /// Those that changed since the version that the reader knows; the others are as it knows them.
    Since {
        /// Those that were added or changed, in the order of their last changes.
        changed: Vec<StoredEndpoint>,
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
            return Ok(Changes {
                version: known.clone(),
                endpoints: ChangedEndpoints::NONE,
            });
        }
        let reading = async {
            let mut tx = self.pool.read().await?;
            let fleet = sql::fleet_in(&mut tx).await?;
            let rows = match known.filter(|known| fleet.tells_since(known)) {
                None => (sql::endpoints_in(&mut tx).await?, None),
                Some(known) => {
                    let changed = sql::changed_in(&mut tx, known.number).await?;
                    (changed, Some(sql::removed_in(&mut tx, known.number).await?))
                }
            };
            Ok((fleet, rows))
        };
        let (fleet, (rows, removed)) = self.within("read the endpoints", reading).await?;
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
}

impl ChangedEndpoints {
    const NONE: Self = Self::Since {
        changed: Vec::new(),
        removed: Vec::new(),
    };
}

impl Fleet {
    /// Whether every change since a known version can be told.
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
