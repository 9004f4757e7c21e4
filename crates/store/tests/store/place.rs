use std::error::Error as _;

use relay_store::{Error, Store, StoreUrl};
use tempfile::TempDir;

/// An empty database of a test's own.
pub(crate) struct Place {
    pub(crate) url: StoreUrl,
    _folder: Option<TempDir>,
}

impl Place {
    pub(crate) fn sqlite() -> Self {
        let folder = TempDir::new().unwrap();
        Self {
            url: StoreUrl::sqlite(folder.path().join("relay.db")),
            _folder: Some(folder),
        }
    }

    pub(crate) async fn postgres() -> Self {
        Self {
            url: relay_testkit::database().await.parse().unwrap(),
            _folder: None,
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
