use relay_event::{Attempt, AttemptId, DeliveryState, EndpointId, EventId, EventType, Timestamp};
use sqlx::QueryBuilder;

use super::{AttemptStats, codes};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

type Columns = (
    Vec<u8>,
    Vec<u8>,
    Option<i64>,
    i64,
    i64,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i32>,
    Option<i16>,
    i16,
    Option<i16>,
    String,
    Option<String>,
    String,
    i64,
);

impl Store {
    /// An event's attempts, oldest first; those after the record `after`, if one is given.
    ///
    /// # Errors
    /// The database failed.
    pub async fn attempts_of(
        &self,
        sequence: i64,
        endpoint: Option<&EndpointId>,
        after: Option<&AttemptId>,
        limit: u32,
    ) -> Result<Vec<Attempt>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let Some(event) = Named::at(&mut tx, sequence).await? else {
                return Ok(Vec::new());
            };
            let rows = page(&mut tx, sequence, endpoint, after, limit).await?;
            rows.into_iter().map(|row| attempt(&event, row)).collect()
        };
        self.within("read an event's attempts from the log", work).await
    }

    /// What came of an endpoint's attempts begun at `since` or later.
    ///
    /// # Errors
    /// The database failed.
    pub async fn attempt_stats(
        &self,
        endpoint: &EndpointId,
        since: Timestamp,
    ) -> Result<AttemptStats, Error> {
        let sql = "SELECT state, duration_ms, COUNT(*) FROM attempts WHERE endpoint = $1 AND at >= $2 \
             GROUP BY state, duration_ms ORDER BY duration_ms";
        let work = async {
            let groups: Vec<(i16, i64, i64)> = on!(&self.pool.reading, pool => sqlx::query_as(sql)
                .bind(endpoint.to_bytes().to_vec())
                .bind(codes::millis(since))
                .fetch_all(pool)
                .await?);
            stats(&groups)
        };
        self.within(format!("read what came of attempts to {endpoint}"), work)
            .await
    }
}

/// What all attempts of an event have in common.
struct Named {
    id: EventId,
    source: String,
    event_type: EventType,
}

impl Named {
    async fn at(tx: &mut Transaction, sequence: i64) -> Result<Option<Self>, sqlx::Error> {
        let sql =
            "SELECT e.id, e.source, t.name FROM events e JOIN types t ON t.id = e.type WHERE e.sequence = $1";
        let found: Option<(String, String, String)> = on!(tx, tx =>
            sqlx::query_as(sql).bind(sequence).fetch_optional(&mut **tx).await?);
        let Some((id, source, event_type)) = found else {
            return Ok(None);
        };
        Ok(Some(Self {
            id: codes::parsed(&id)?,
            source,
            event_type: codes::parsed(&event_type)?,
        }))
    }
}

async fn page(
    tx: &mut Transaction,
    sequence: i64,
    endpoint: Option<&EndpointId>,
    after: Option<&AttemptId>,
    limit: u32,
) -> Result<Vec<Columns>, sqlx::Error> {
    on!(tx, tx => {
        let mut query = QueryBuilder::new(
            "SELECT id, endpoint, published_at, attempt, at, duration_ms, first_byte_ms, next_at, status, error, \
             state, reason, deliverer, detail, answer, hop FROM attempts WHERE event = ",
        );
        query.push_bind(sequence);
        if let Some(endpoint) = endpoint {
            query.push(" AND endpoint = ").push_bind(endpoint.to_bytes().to_vec());
        }
        if let Some(after) = after {
            query.push(" AND (at, id) > (SELECT at, id FROM attempts WHERE event = ").push_bind(sequence);
            query.push(" AND id = ").push_bind(after.to_bytes().to_vec()).push(")");
        }
        query.push(" ORDER BY at, id LIMIT ").push_bind(i64::from(limit));
        query.build_query_as().fetch_all(&mut **tx).await
    })
}

fn attempt(event: &Named, row: Columns) -> Result<Attempt, sqlx::Error> {
    let (id, endpoint, published_at, attempt, at, duration_ms, first_byte_ms, next_at, ..) = row;
    let (.., status, error, state, reason, deliverer, detail, answer, hop) = row;
    Ok(Attempt {
        id: codes::attempt(id)?,
        event_id: event.id.clone(),
        event_source: event.source.clone(),
        event_type: event.event_type.clone(),
        published_at: codes::time_or_none(published_at)?,
        endpoint: codes::endpoint(endpoint)?,
        attempt: codes::attempts(attempt)?,
        hop: codes::attempts(hop)?,
        at: codes::time(at)?,
        duration_ms: codes::duration(duration_ms)?,
        first_byte_ms: first_byte_ms.map(codes::duration).transpose()?,
        status: codes::status(status)?,
        error: codes::error(error)?,
        detail,
        answer,
        state: codes::state(state)?,
        next_at: codes::time_or_none(next_at)?,
        reason: codes::reason(reason)?,
        deliverer,
    })
}

/// Of attempts in groups `(state, duration, how many)`, the shortest first.
fn stats(groups: &[(i16, i64, i64)]) -> Result<AttemptStats, sqlx::Error> {
    let mut stats = AttemptStats::default();
    let mut durations = Vec::with_capacity(groups.len());
    for (state, duration, count) in groups {
        let (duration, count) = (codes::duration(*duration)?, codes::duration(*count)?);
        match codes::state(*state)? {
            DeliveryState::Delivered => stats.delivered += count,
            _ => stats.failed += count,
        }
        durations.push((duration, count));
    }
    stats.p50_ms = percentile(&durations, 50);
    stats.p99_ms = percentile(&durations, 99);
    Ok(stats)
}

/// The shortest duration that so many percent of them do not exceed (nearest rank).
fn percentile(durations: &[(u64, u64)], percent: u64) -> Option<u64> {
    let all: u64 = durations.iter().map(|(_, count)| count).sum();
    let rank = (all * percent).div_ceil(100);
    let mut seen = 0;
    durations
        .iter()
        .find(|(_, count)| {
            seen += count;
            seen >= rank
        })
        .map(|(duration, _)| *duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_whole_list() {
        assert_eq!(percentile(&[], 50), None);
        assert_eq!(percentile(&[(7, 1)], 99), Some(7));
        let hundred: Vec<(u64, u64)> = (1..=100).map(|n| (n, 1)).collect();
        assert_eq!(percentile(&hundred, 50), Some(50));
        assert_eq!(percentile(&hundred, 99), Some(99));
        assert_eq!(percentile(&[(1, 98), (5, 1), (9, 1)], 99), Some(5));
        assert_eq!(percentile(&[(1, 1), (2, 1)], 50), Some(1));
    }
}
