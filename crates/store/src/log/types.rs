//! Types of events, each by a number: what a pattern matches is known before the log is looked into.
//!
//! Producers may give each event a type of its own, so the number of types has no bound but that of the events
//! themselves. No read looks at all of them: it reads some [`NAMES`] of them to find those that it lists, or the name
//! of each event that it walks past.

use std::collections::{BTreeSet, HashMap};

use relay_event::{EventType, TypePattern};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{codes, insert};
use crate::pool::{Transaction, on};

/// The most names that are read to find the types that patterns match.
const NAMES: usize = 4_000;

/// The most types that a read lists by their numbers.
const LISTED: usize = 400;

/// The most ranges of names in a statement.
const RANGES: usize = 50;

/// The places of events `e` with the names of their types. There is a subquery for each event, lest a database
/// reads all types to join them.
pub(super) const NAMED: &str =
    "SELECT e.sequence, (SELECT name FROM types WHERE id = e.type) FROM events e WHERE ";

/// The types that a read asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// Events of any type.
    All,
    /// Events of the types with these numbers, which are at most [`LISTED`].
    These(Vec<i64>),
    /// Events whose type's name matches. These types are more than [`LISTED`], or are among more than [`NAMES`]:
    /// the events are looked at one by one.
    ByName,
}

impl Wanted {
    fn numbered(numbers: impl ExactSizeIterator<Item = i64>) -> Self {
        if numbers.len() <= LISTED {
            Self::These(numbers.collect())
        } else {
            Self::ByName
        }
    }
}

/// Returns `true` if any of the patterns matches the type of this name, or if there are no patterns.
pub(super) fn is_match(patterns: &[TypePattern], name: &str) -> Result<bool, sqlx::Error> {
    if patterns.is_empty() {
        return Ok(true);
    }
    let name: EventType = codes::parsed(name)?;
    Ok(patterns.iter().any(|pattern| pattern.matches(&name)))
}

/// Finds the types that any of the patterns matches; without patterns all.
pub(super) async fn matching(tx: &mut Transaction, patterns: &[TypePattern]) -> Result<Wanted, sqlx::Error> {
    if patterns.is_empty() || patterns.iter().any(|pattern| pattern.as_str() == "#") {
        return Ok(Wanted::All);
    }
    let names = Names::of_all(patterns);
    let (mut left, mut numbers) = (NAMES, BTreeSet::new());
    'chunks: for chunk in names.chunks(RANGES) {
        // Where most names match, few are enough to know that they are too many.
        for most in [left.min(LISTED), left] {
            let found = named(tx, chunk, most + 1).await?;
            for (number, name) in &found {
                if is_match(patterns, name)? {
                    numbers.insert(*number);
                }
            }
            if numbers.len() > LISTED {
                return Ok(Wanted::ByName);
            }
            if found.len() <= most {
                left -= found.len();
                continue 'chunks;
            }
        }
        return Ok(Wanted::ByName);
    }
    Ok(Wanted::numbered(numbers.into_iter()))
}

/// Finds the types of a source's events that any of the patterns matches; without patterns all. An index has the types of a source
/// in order: each is found behind the one before.
pub(super) async fn of_source(
    tx: &mut Transaction,
    source: &str,
    patterns: &[TypePattern],
) -> Result<Wanted, sqlx::Error> {
    let found: Vec<(i64, String)> = on!(tx, tx => {
        let mut query = QueryBuilder::new("WITH RECURSIVE found(type) AS (SELECT MIN(type) FROM events WHERE source = ");
        query.push_bind(source);
        query.push(" UNION ALL SELECT (SELECT MIN(e.type) FROM events e WHERE e.source = ");
        query.push_bind(source);
        query.push(" AND e.type > found.type) FROM found WHERE found.type IS NOT NULL) ");
        query.push("SELECT found.type, (SELECT name FROM types WHERE id = found.type) FROM found ");
        query.push(format_args!("WHERE found.type IS NOT NULL LIMIT {}", LISTED + 1));
        query.build_query_as().persistent(false).fetch_all(&mut **tx).await?
    });
    if found.len() > LISTED {
        return Ok(Wanted::ByName);
    }
    let mut numbers = Vec::new();
    for (number, name) in found {
        if is_match(patterns, &name)? {
            numbers.push(number);
        }
    }
    Ok(Wanted::These(numbers))
}

/// Names among which are all that a pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Names<'p> {
    /// Any names.
    All,
    /// This name.
    One(&'p str),
    /// The names that begin with these words: with more words, or without.
    Beginning(&'p str),
}

impl<'p> Names<'p> {
    /// The names to look at for these patterns.
    fn of_all(patterns: &'p [TypePattern]) -> Vec<Self> {
        let names: BTreeSet<Self> = patterns.iter().map(Self::of).collect();
        match names.first() {
            Some(Self::All) => vec![Self::All],
            _ => names.into_iter().collect(),
        }
    }

    fn of(pattern: &'p TypePattern) -> Self {
        let text = pattern.as_str();
        let mut begin: usize = 0;
        for word in text.split('.') {
            if matches!(word, "*" | "#") {
                let words = begin.checked_sub(1).and_then(|end| text.get(..end));
                return words.map_or(Self::All, Self::Beginning);
            }
            begin += word.len() + 1;
        }
        Self::One(text)
    }

    /// The condition for a type. Both databases have names in the order of their bytes, in which `/` comes next
    /// after `.`.
    fn push<'a, DB: Database>(self, query: &mut QueryBuilder<DB>)
    where
        'p: 'a,
        &'a str: Encode<'a, DB> + Type<DB>,
        String: Encode<'a, DB> + Type<DB>,
    {
        let select = "SELECT id, name FROM types";
        match self {
            Self::All => {
                query.push(select);
            }
            Self::One(name) => {
                query.push(select).push(" WHERE name = ").push_bind(name);
            }
            Self::Beginning(words) => {
                query.push(select).push(" WHERE name = ").push_bind(words);
                query.push(" UNION ALL ").push(select);
                query.push(" WHERE name >= ").push_bind(format!("{words}."));
                query.push(" AND name < ").push_bind(format!("{words}/"));
            }
        }
    }
}

/// Reads at most `most` types that have such names.
async fn named(
    tx: &mut Transaction,
    names: &[Names<'_>],
    most: usize,
) -> Result<Vec<(i64, String)>, sqlx::Error> {
    on!(tx, tx => {
        let mut query = QueryBuilder::new("");
        for (number, names) in names.iter().enumerate() {
            query.push(if number == 0 { "" } else { " UNION ALL " });
            names.push(&mut query);
        }
        query.push(format_args!(" LIMIT {most}"));
        query.build_query_as().persistent(false).fetch_all(&mut **tx).await
    })
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> TypePattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_pattern_says_which_names_to_look_at() {
        for (text, names) in [
            ("order.created", Names::One("order.created")),
            ("order.*", Names::Beginning("order")),
            ("order.item.#.added", Names::Beginning("order.item")),
            (".*", Names::Beginning("")),
            ("a..#", Names::Beginning("a.")),
            ("a*.b#", Names::One("a*.b#")),
            ("*.created", Names::All),
            ("#.created", Names::All),
        ] {
            assert_eq!(Names::of(&pattern(text)), names, "{text}");
        }
        let patterns = ["a.*", "b", "a.#", "b"].map(pattern);
        assert_eq!(
            Names::of_all(&patterns),
            [Names::One("b"), Names::Beginning("a")],
            "each once"
        );
        let patterns = ["a.*", "*.b"].map(pattern);
        assert_eq!(Names::of_all(&patterns), [Names::All]);
    }

    fn has(names: Names<'_>, name: &str) -> bool {
        match names {
            Names::All => true,
            Names::One(one) => name == one,
            Names::Beginning(words) => {
                name == words || (name >= &*format!("{words}.") && name < &*format!("{words}/"))
            }
        }
    }

    #[test]
    fn more_types_than_are_listed_are_told_by_name() {
        let numbers = |count: usize| Wanted::numbered((1..).take(count).collect::<Vec<i64>>().into_iter());
        assert_eq!(numbers(0), Wanted::These(Vec::new()));
        assert_eq!(numbers(2), Wanted::These(vec![1, 2]));
        assert!(matches!(numbers(LISTED), Wanted::These(these) if these.len() == LISTED));
        assert_eq!(numbers(LISTED + 1), Wanted::ByName);
    }

    proptest! {
        #[test]
        fn what_a_pattern_matches_is_among_its_names(
            words in prop::collection::vec("[ab.]?|[*#]|[-/0ü]", 1..5),
            name in prop::collection::vec("[ab.]?|[-/0ü]", 1..5),
        ) {
            let (words, name) = (words.join("."), name.join("."));
            let (Ok(pattern), Ok(event_type)) = (words.parse::<TypePattern>(), name.parse::<EventType>()) else {
                return Ok(());
            };
            prop_assert!(!pattern.matches(&event_type) || has(Names::of(&pattern), &name));
        }
    }
}
