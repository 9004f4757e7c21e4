use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// Both databases have the same tables by the same numbers. A released file never changes: a change is
/// a new file.
macro_rules! steps {
    ($folder:literal) => {
        [
            (
                1,
                "endpoints",
                include_str!(concat!("../migrations/", $folder, "/0001_endpoints.sql")),
            ),
            (
                2,
                "log",
                include_str!(concat!("../migrations/", $folder, "/0002_log.sql")),
            ),
            (
                3,
                "confirmed",
                include_str!(concat!("../migrations/", $folder, "/0003_confirmed.sql")),
            ),
            (
                4,
                "feed",
                include_str!(concat!("../migrations/", $folder, "/0004_feed.sql")),
            ),
            (
                5,
                "webhook_ids",
                include_str!(concat!("../migrations/", $folder, "/0005_webhook_ids.sql")),
            ),
            (
                6,
                "types",
                include_str!(concat!("../migrations/", $folder, "/0006_types.sql")),
            ),
            (
                7,
                "fleet",
                include_str!(concat!("../migrations/", $folder, "/0007_fleet.sql")),
            ),
            (
                8,
                "held",
                include_str!(concat!("../migrations/", $folder, "/0008_held.sql")),
            ),
            (
                9,
                "overtaken",
                include_str!(concat!("../migrations/", $folder, "/0009_overtaken.sql")),
            ),
        ]
    };
}

/// What brings an older SQLite file up to date.
pub(crate) fn sqlite() -> Migrator {
    migrator(&steps!("sqlite"))
}

/// What brings an older PostgreSQL database up to date.
pub(crate) fn postgres() -> Migrator {
    migrator(&steps!("postgres"))
}

fn migrator(steps: &[(i64, &'static str, &'static str)]) -> Migrator {
    let step = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(steps.iter().map(step).collect())
}
