use std::{error::Error as _, path::Path};

use relay_store::{Error, Store, StoreUrl};
use sqlx::{
    ConnectOptions, Connection, PgConnection, SqlSafeStr, migrate::Migrator, sqlite::SqliteConnectOptions,
};
use tempfile::TempDir;

/// An empty database of a test's own.
pub(crate) struct Place {
    pub(crate) url: StoreUrl,
    server: String,
    folder: Option<TempDir>,
}

const FILE: &str = "relay.db";

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            url: StoreUrl::sqlite(folder.path().join(FILE)),
            server: String::new(),
            folder: Some(folder),
        }
    }

    pub(crate) async fn postgres() -> Self {
        let server = relay_testkit::database().await;
        Self {
            url: server.parse().unwrap(),
            server,
            folder: None,
        }
    }

    /// Makes the tables that a relay made whose last migration was this one.
    pub(crate) async fn migrate_to(&self, last: i64) {
        let folder = match &self.folder {
            Some(_) => "sqlite",
            None => "postgres",
        };
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("migrations")
            .join(folder);
        let all = Migrator::new(folder).await.unwrap();
        let first = all.iter().filter(|migration| migration.version <= last);
        let migrator = Migrator::with_migrations(first.cloned().collect());
        match &self.folder {
            Some(folder) => {
                let options = SqliteConnectOptions::new().filename(folder.path().join(FILE));
                let options = options
                    .create_if_missing(true)
                    .pragma("application_id", "0x52656c79");
                migrator.run(&mut options.connect().await.unwrap()).await.unwrap();
            }
            None => {
                let mut connection = PgConnection::connect(&self.server).await.unwrap();
                migrator.run(&mut connection).await.unwrap();
            }
        }
    }

    /// Does something that the store would not.
    pub(crate) async fn execute(&self, sql: impl SqlSafeStr) {
        match &self.folder {
            Some(folder) => {
                let options = SqliteConnectOptions::new().filename(folder.path().join(FILE));
                let mut connection = options.connect().await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            }
            None => {
                let mut connection = PgConnection::connect(&self.server).await.unwrap();
                sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// Reads texts that the store does not show.
    pub(crate) async fn texts(&self, sql: &'static str) -> Vec<String> {
        match &self.folder {
            Some(folder) => {
                let options = SqliteConnectOptions::new().filename(folder.path().join(FILE));
                let mut connection = options.connect().await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
            None => {
                let mut connection = PgConnection::connect(&self.server).await.unwrap();
                sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap()
            }
        }
    }

    /// Connections of its own, as another process has them.
    pub(crate) async fn open(&self) -> Store {
        Store::open(&self.url).await.unwrap()
    }
}

/// Makes each of these functions, which take a [`Place`], a test on both databases.
macro_rules! on_both {
    ($($test:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::place::Place::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(crate::place::Place::postgres().await).await;
            })+
        }
    };
}
pub(crate) use on_both;

/// The text with its causes, as a process prints it.
pub(crate) fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
