//! Where the relay keeps what must outlive it: the endpoints, in a database. The only crate that
//! knows sqlx.

mod endpoints;
mod error;
mod schema;
mod sql;
mod sqlite;
mod url;

pub use endpoints::StoredEndpoint;
pub use error::Error;
pub use url::StoreUrl;

/// An open store. Clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    pool: sql::Pool,
}

impl Store {
    /// Opens the store, and creates its file and tables where they are missing. Any number of
    /// processes may have it open at once.
    ///
    /// # Errors
    /// It cannot be reached, is no store, or was written by a newer relay. It is unchanged then.
    pub async fn open(url: &StoreUrl) -> Result<Self, Error> {
        let pool = sqlite::open(url.path()).await?;
        Ok(Self { pool })
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn ping(&self) -> Result<(), Error> {
        sql::ping(&self.pool)
            .await
            .map_err(|source| Error::of("reach the store", source))
    }
}
