use std::time::Duration;

use relay_event::{Endpoint, EndpointId, Invalid, Timestamp};

use crate::{
    Error, Store,
    sql::{self, Expired, Row},
};

/// The time for which a removal is known. A reader that knows the endpoints of an earlier time reads all.
const REMOVALS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// All endpoints in the order of their ids.
    ///
    /// # Errors
    /// The database failed, or an endpoint in it does not read.
    pub async fn endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        let rows = self
            .within("read the endpoints", sql::endpoints(&self.pool))
            .await?;
        rows.iter().map(read).collect()
    }

    /// One endpoint, if it is there.
    ///
    /// # Errors
    /// The database failed, or what it holds of the endpoint does not read.
    pub async fn endpoint(&self, id: &EndpointId) -> Result<Option<Endpoint>, Error> {
        self.row(id).await?.as_ref().map(read).transpose()
    }

    /// Adds an endpoint.
    ///
    /// # Errors
    /// It does not pass [`Endpoint::check`], its id is taken or was that of an endpoint that was deleted within
    /// the last week, or the database failed.
    pub async fn insert(&self, endpoint: &Endpoint) -> Result<(), Error> {
        endpoint.check()?;
        let row = write(endpoint, 1)?;
        let inserted = self
            .pool
            .within(sql::insert(&self.pool, &row, &sql::new_change()))
            .await;
        inserted.map_err(|source| match source.as_database_error() {
            Some(refused) if refused.is_unique_violation() => Error::Exists {
                id: endpoint.id.clone(),
            },
            _ => Error::of(format!("add endpoint {}", endpoint.id), source),
        })
    }

    /// Changes an endpoint; `None` if there is none. Where another process changed it at the same
    /// time, `change` is called again with what that left, so nobody's change is lost. A change
    /// that leaves the endpoint as it was writes nothing.
    ///
    /// # Errors
    /// `change` refused, the result does not pass [`Endpoint::check`], or the database failed.
    /// Nothing is changed then.
    pub async fn update<T>(
        &self,
        id: &EndpointId,
        mut change: impl FnMut(&mut Endpoint) -> Result<T, Invalid>,
    ) -> Result<Option<(Endpoint, T)>, Error> {
        loop {
            let Some(row) = self.row(id).await? else {
                return Ok(None);
            };
            let old = read(&row)?;
            let mut new = old.clone();
            let answer = change(&mut new)?;
            if new.id != *id {
                return Err(Invalid::new("id", "cannot be changed").into());
            }
            new.check()?;
            if new == old {
                return Ok(Some((new, answer)));
            }
            let next = write(&new, row.version)?;
            if self.write(id, &next).await? {
                return Ok(Some((new, answer)));
            }
        }
    }

    /// Deletes an endpoint; that there is none is no error. For a week at least, until another one is deleted,
    /// readers of what changed are told that it is removed.
    ///
    /// # Errors
    /// The database failed.
    pub async fn delete(&self, id: &EndpointId, now: Timestamp) -> Result<(), Error> {
        self.remove(id, None, now.as_millis()).await.map(drop)
    }

    /// Deletes an endpoint whose [`Endpoint::expires_at`] is over by the database's clock, as [`Self::delete`] does.
    /// `false` if nothing was deleted: its time is not over, the endpoint was changed or deleted meanwhile, or the
    /// epoch is over.
    ///
    /// # Errors
    /// The database failed, or what it holds of the endpoint does not read.
    pub async fn expire(&self, epoch: i64, id: &EndpointId) -> Result<bool, Error> {
        let Some(row) = self.row(id).await? else {
            return Ok(false);
        };
        let Some(expires_at) = read(&row)?.expires_at else {
            return Ok(false);
        };
        let reading = async { sql::now(&mut self.pool.read().await?).await };
        let now = self.within("read the time", reading).await?;
        if now < expires_at.as_millis() {
            return Ok(false);
        }
        let expired = Expired {
            version: row.version,
            epoch,
        };
        self.remove(id, Some(expired), now).await
    }

    async fn remove(&self, id: &EndpointId, expired: Option<Expired>, now: i64) -> Result<bool, Error> {
        let kept = i64::try_from(REMOVALS_KEPT.as_millis()).unwrap_or(i64::MAX);
        let (change, forget) = (sql::new_change(), now.saturating_sub(kept));
        let removing = sql::remove(&self.pool, id.as_str(), &change, expired, now, forget);
        self.within(format!("delete endpoint {id}"), removing).await
    }

    async fn row(&self, id: &EndpointId) -> Result<Option<Row>, Error> {
        let reading = sql::endpoint(&self.pool, id.as_str());
        self.within(format!("read endpoint {id}"), reading).await
    }

    async fn write(&self, id: &EndpointId, row: &Row) -> Result<bool, Error> {
        let change = sql::new_change();
        let changing = sql::update(&self.pool, row, &change);
        self.within(format!("change endpoint {id}"), changing).await
    }
}

pub(crate) fn read(row: &Row) -> Result<Endpoint, Error> {
    let endpoint: Result<Endpoint, _> = serde_json::from_str(&row.document);
    let mut endpoint = endpoint.map_err(|source| Error::Unreadable {
        id: row.id.clone(),
        source,
    })?;
    endpoint.overtaken = row.overtaken;
    Ok(endpoint)
}

fn write(endpoint: &Endpoint, version: i64) -> Result<Row, Error> {
    let id = endpoint.id.to_string();
    match serde_json::to_string(endpoint) {
        Ok(document) => Ok(Row {
            id,
            document,
            version,
            overtaken: endpoint.overtaken,
        }),
        Err(source) => Err(Error::Unreadable { id, source }),
    }
}
