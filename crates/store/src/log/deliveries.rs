use relay_event::{DeliveryState, EndpointId, Standing};
use sqlx::{Database, Encode, QueryBuilder, Type};

use super::{DeliveryFilter, LoggedDelivery, UnderWay, codes, held::held_of, place::Part};
use crate::{
    Error, Store,
    pool::{Transaction, on},
};

const COLUMNS: &str = "SELECT d.event, e.id, e.source, t.name, d.endpoint, d.run, d.attempts, d.state, d.at, \
     d.next_at, d.reason, d.status, d.error ";

const OF_EVENTS: &str = "JOIN events e ON e.sequence = d.event JOIN types t ON t.id = e.type ";

type Columns = (
    i64,
    String,
    String,
    String,
    Vec<u8>,
    i64,
    i64,
    i16,
    i64,
    Option<i64>,
    Option<i16>,
    Option<i32>,
    Option<i16>,
);

impl Store {
    /// How an event's deliveries stand, in the order of the endpoints' ids.
    ///
    /// # Errors
    /// The database failed.
    pub async fn deliveries_of(&self, sequence: i64) -> Result<Vec<LoggedDelivery>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let rows: Vec<Columns> = on!(&mut tx, tx => {
                let mut query = QueryBuilder::new(COLUMNS);
                query.push("FROM deliveries d ").push(OF_EVENTS);
                query.push("WHERE d.event = ").push_bind(sequence).push(" ORDER BY d.endpoint");
                query.build_query_as().fetch_all(&mut **tx).await?
            });
            with_holds(&mut tx, rows).await
        };
        self.within("read an event's deliveries from the log", work).await
    }

    /// Deliveries, those of the newest events first, and those of an event by falling endpoint ids;
    /// those that come after `after`, if one is given.
    ///
    /// # Errors
    /// The database failed.
    pub async fn logged_deliveries(
        &self,
        filter: &DeliveryFilter,
        after: Option<(i64, &EndpointId)>,
        limit: u32,
    ) -> Result<Vec<LoggedDelivery>, Error> {
        let work = async {
            let mut tx = self.pool.read().await?;
            let Some(part) = Part::recorded(&mut tx, filter.since, filter.until).await? else {
                return Ok(Vec::new());
            };
            let bounds = Bounds::of(part, after);
            let rows = page(&mut tx, filter, &bounds, limit).await?;
            with_holds(&mut tx, rows).await
        };
        self.within("read deliveries from the log", work).await
    }

    /// An endpoint's deliveries that are under way.
    ///
    /// # Errors
    /// The database failed.
    pub async fn under_way(&self, endpoint: &EndpointId) -> Result<UnderWay, Error> {
        let sql =
            "SELECT state, COUNT(*) FROM deliveries WHERE endpoint = $1 AND state IN ($2, $3) GROUP BY state";
        let work = async {
            let counts: Vec<(i16, i64)> = on!(&self.pool.reading, pool => sqlx::query_as(sql)
                .bind(endpoint.to_bytes().to_vec())
                .bind(codes::state_code(DeliveryState::Pending))
                .bind(codes::state_code(DeliveryState::Retrying))
                .fetch_all(pool)
                .await?);
            let mut under_way = UnderWay::default();
            for (state, count) in counts {
                let count = codes::duration(count)?;
                match codes::state(state)? {
                    DeliveryState::Pending => under_way.pending = count,
                    _ => under_way.retrying = count,
                }
            }
            Ok(under_way)
        };
        self.within(format!("count deliveries to {endpoint}"), work).await
    }
}

/// Those of events from one place on, and before a delivery.
struct Bounds {
    from: i64,
    before: (i64, Vec<u8>),
}

impl Bounds {
    fn of(part: Part, after: Option<(i64, &EndpointId)>) -> Self {
        let end = (part.before, Vec::new());
        let after = after.map(|(sequence, endpoint)| (sequence, endpoint.to_bytes().to_vec()));
        Self {
            from: part.from,
            before: after.map_or_else(|| end.clone(), |after| after.min(end.clone())),
        }
    }

    /// The conditions of one branch.
    fn push<'a, DB: Database>(
        &'a self,
        query: &mut QueryBuilder<DB>,
        endpoint: Option<&'a [u8]>,
        state: Option<i16>,
    ) where
        &'a [u8]: Encode<'a, DB> + Type<DB>,
    {
        query.push(format_args!("event >= {}", self.from));
        if let Some(endpoint) = endpoint {
            let end = self.end_for(endpoint);
            query.push(format_args!(" AND event < {end} AND endpoint = "));
            query.push_bind(endpoint);
        } else {
            let (event, before) = &self.before;
            query.push(format_args!(" AND (event, endpoint) < ({event}, "));
            query.push_bind(before.as_slice()).push(")");
        }
        if let Some(state) = state {
            query.push(format_args!(" AND state = {state}"));
            if state < codes::state_code(DeliveryState::Delivered) {
                // SQLite takes a partial index where it sees its very condition.
                query.push(" AND state < 3");
            }
        }
    }

    /// The same for the deliveries to one endpoint: the first event that is no longer of them.
    fn end_for(&self, endpoint: &[u8]) -> i64 {
        let (event, before) = &self.before;
        if endpoint < before.as_slice() {
            event.saturating_add(1)
        } else {
            *event
        }
    }
}

/// Each endpoint and each state has an index in the order of the page; that of a state is not for
/// "delivered", as nearly all deliveries are, so they are found by looking.
async fn page(
    tx: &mut Transaction,
    filter: &DeliveryFilter,
    bounds: &Bounds,
    limit: u32,
) -> Result<Vec<Columns>, sqlx::Error> {
    let endpoint = filter
        .endpoint
        .as_ref()
        .map(|endpoint| endpoint.to_bytes().to_vec());
    let states: Vec<Option<i16>> = match (filter.state, &endpoint) {
        (Some(state), _) => vec![Some(codes::state_code(state))],
        (None, Some(_)) => DeliveryState::ALL
            .map(|state| Some(codes::state_code(state)))
            .to_vec(),
        (None, None) => vec![None],
    };
    on!(tx, tx => {
        let mut query = QueryBuilder::new(COLUMNS);
        query.push("FROM (SELECT event, endpoint FROM (");
        for (number, state) in states.into_iter().enumerate() {
            query.push(if number == 0 { "" } else { " UNION ALL " });
            query.push("SELECT event, endpoint FROM (SELECT event, endpoint FROM deliveries WHERE ");
            bounds.push(&mut query, endpoint.as_deref(), state);
            query.push(format_args!(" ORDER BY event DESC, endpoint DESC LIMIT {limit}) AS branch"));
        }
        query.push(format_args!(") AS found ORDER BY event DESC, endpoint DESC LIMIT {limit}) AS k "));
        query.push("JOIN deliveries d ON d.event = k.event AND d.endpoint = k.endpoint ").push(OF_EVENTS);
        query.push("ORDER BY d.event DESC, d.endpoint DESC");
        query.build_query_as().persistent(false).fetch_all(&mut **tx).await
    })
}

/// The deliveries, with the reasons of those that are held.
async fn with_holds(tx: &mut Transaction, rows: Vec<Columns>) -> Result<Vec<LoggedDelivery>, sqlx::Error> {
    let deliveries: Result<Vec<_>, _> = rows.into_iter().map(delivery).collect();
    let mut deliveries = deliveries?;
    let unended = |delivery: &&LoggedDelivery| !delivery.standing.state.is_end();
    let waiting: Vec<_> = deliveries
        .iter()
        .filter(unended)
        .map(|delivery| (delivery.sequence, delivery.endpoint.clone()))
        .collect();
    if waiting.is_empty() {
        return Ok(deliveries);
    }
    let held = held_of(tx, &waiting).await?;
    for delivery in &mut deliveries {
        delivery.held = held.get(&(delivery.sequence, delivery.endpoint.clone())).copied();
    }
    Ok(deliveries)
}

fn delivery(row: Columns) -> Result<LoggedDelivery, sqlx::Error> {
    let (
        sequence,
        id,
        source,
        event_type,
        endpoint,
        run,
        attempts,
        state,
        at,
        next_at,
        reason,
        status,
        error,
    ) = row;
    Ok(LoggedDelivery {
        sequence,
        event_id: codes::parsed(&id)?,
        source,
        event_type: codes::parsed(&event_type)?,
        endpoint: codes::endpoint(endpoint)?,
        standing: Standing {
            run: codes::time(run)?,
            attempts: codes::attempts(attempts)?,
            state: codes::state(state)?,
            at: codes::time(at)?,
            next_at: codes::time_or_none(next_at)?,
            reason: codes::reason(reason)?,
            status: codes::status(status)?,
            error: codes::error(error)?,
        },
        held: None,
    })
}
