use sqlx::{
    SqlSafeStr,
    migrate::{Migration, MigrationType, Migrator},
};

/// The files of `migrations/`, oldest first. A released one never changes: a change is a new file.
const MIGRATIONS: [(i64, &str, &str); 1] =
    [(1, "endpoints", include_str!("../migrations/0001_endpoints.sql"))];

/// What brings an older database up to date.
pub(crate) fn migrator() -> Migrator {
    let step = |(version, name, sql): (i64, &'static str, &'static str)| {
        Migration::new(
            version,
            name.into(),
            MigrationType::Simple,
            sql.into_sql_str(),
            false,
        )
    };
    Migrator::with_migrations(MIGRATIONS.into_iter().map(step).collect())
}
