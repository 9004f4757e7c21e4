//! Types of events, each by a number: what a pattern matches is known before the log is looked into.

use std::collections::HashMap;

use relay_event::{EventType, TypePattern};
use sqlx::{Database, QueryBuilder};

use super::{codes, insert};
use crate::pool::{Transaction, on};

/// The types that are wanted.
pub(super) enum Wanted {
    /// Whatever there is.
    All,
    /// These numbers.
    These(Vec<i64>),
}

/// The types that any of the patterns matches; without patterns all.
pub(super) async fn matching(tx: &mut Transaction, patterns: &[TypePattern]) -> Result<Wanted, sqlx::Error> {
    if patterns.is_empty() || patterns.iter().any(|pattern| pattern.as_str() == "#") {
        return Ok(Wanted::All);
    }
    let mut these = Vec::new();
    let mut all = true;
    for (id, name) in known(tx).await? {
        let name: EventType = codes::parsed(&name)?;
        let wanted = patterns.iter().any(|pattern| pattern.matches(&name));
        all &= wanted;
        if wanted {
            these.push(id);
        }
    }
    Ok(if all { Wanted::All } else { Wanted::These(these) })
}

/// The numbers of all types.
pub(super) async fn all(tx: &mut Transaction) -> Result<Vec<i64>, sqlx::Error> {
    let known = known(tx).await?;
    Ok(known.into_iter().map(|(id, _)| id).collect())
}

async fn known(tx: &mut Transaction) -> Result<Vec<(i64, String)>, sqlx::Error> {
    let sql = "SELECT id, name FROM types";
    on!(tx, tx => sqlx::query_as(sql).fetch_all(&mut **tx).await)
}

/// The numbers of these types; new ones get one. Only one transaction at a time does this.
pub(super) async fn intern<'n>(
    tx: &mut Transaction,
    names: Vec<&'n str>,
) -> Result<HashMap<&'n str, i64>, sqlx::Error> {
    let mut numbers = HashMap::with_capacity(names.len());
    for chunk in names.chunks(insert::ROWS) {
        let found: Vec<(i64, String)> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("SELECT id, name FROM types WHERE name IN (");
            let mut list = query.separated(", ");
            for name in chunk {
                list.push_bind(*name);
            }
            query.push(")").build_query_as().persistent(false).fetch_all(&mut **tx).await?
        });
        let found: HashMap<String, i64> = found.into_iter().map(|(id, name)| (name, id)).collect();
        numbers.extend(chunk.iter().filter_map(|name| Some((*name, *found.get(*name)?))));
    }
    let new: Vec<&str> = names
        .into_iter()
        .filter(|name| !numbers.contains_key(name))
        .collect();
    numbers.extend(add(tx, &new).await?);
    Ok(numbers)
}

async fn add<'n>(tx: &mut Transaction, new: &[&'n str]) -> Result<Vec<(&'n str, i64)>, sqlx::Error> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let sql = "SELECT COALESCE(MAX(id), 0) FROM types";
    let last: i64 = on!(&mut *tx, tx => sqlx::query_scalar(sql).fetch_one(&mut **tx).await?);
    let numbered: Vec<(&str, i64)> = new.iter().copied().zip(last + 1..).collect();
    for chunk in numbered.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new("INSERT INTO types (id, name) ");
            insert.push_values(chunk, |mut row, (name, id)| {
                row.push_bind(*id).push_bind(*name);
            });
            insert.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(numbered)
}

/// Forgets those of these types that no event has any more; nothing but events refers to a type. The transaction
/// has its turn to write to the log ([`insert::begin`]), so no other one gives an event such a type meanwhile:
/// its turn comes later, and [`intern`] then finds no such type and makes a new one.
pub(super) async fn forget(tx: &mut Transaction, numbers: &[i64]) -> Result<(), sqlx::Error> {
    for chunk in numbers.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut delete = QueryBuilder::new("DELETE FROM types WHERE id IN (");
            push_list(&mut delete, chunk);
            delete.push(") AND NOT EXISTS (SELECT 1 FROM events WHERE events.type = types.id)");
            delete.build().persistent(false).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

/// Numbers separated by commas, written out: there may be more of them than parameters are allowed.
pub(super) fn push_list<DB: Database>(query: &mut QueryBuilder<DB>, numbers: &[i64]) {
    let mut list = query.separated(", ");
    for number in numbers {
        list.push(number);
    }
}
