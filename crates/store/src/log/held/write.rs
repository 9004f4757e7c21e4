//! Holds and ends among the records of a write.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use relay_event::{EndpointId, Hold, HoldReason, Timestamp};
use sqlx::QueryBuilder;

use super::{
    super::{
        Record,
        batch::{self, Key, Placed, Places, Rows, Stands},
        codes, insert,
    },
    LIVE, REPLAY, early,
    endpoints::{self, Changed},
    kept::{self, CaughtUp},
    lines::{End, Line, Way},
};
use crate::pool::{Transaction, on};

/// The changes of held deliveries in one write.
pub(crate) struct Held<'r> {
    /// Events that are not in the log, and of which something is held.
    kept: HashMap<Key<'r>, i64>,
    /// Holds that waited for an event that this write brings.
    waited: Vec<(i64, Hold)>,
    moved: Vec<CaughtUp>,
    /// Holds whose event is nowhere yet.
    too_early: Vec<&'r Hold>,
}

/// A held delivery: the endpoint's number, and the event's place.
pub(super) type At = (i64, i64);

impl<'r> Held<'r> {
    /// Finds, for each record, the event's place if the log has it not, and takes over what waited for new events.
    pub(crate) async fn begin(
        tx: &mut Transaction,
        records: &'r [Record],
        places: &Places<'r>,
        new: &[Placed<'r>],
    ) -> Result<Self, sqlx::Error> {
        let moved = kept::move_to_log(tx, new).await?;
        let unplaced: BTreeSet<Key<'r>> = records
            .iter()
            .map(batch::key_of)
            .filter(|key| !places.contains_key(key))
            .collect();
        let mut kept = kept::places(tx, unplaced.into_iter().collect()).await?;
        let holds = records.iter().filter_map(|record| match record {
            Record::Hold(hold) => Some(hold.as_ref()),
            _ => None,
        });
        let homeless = |hold: &&Hold, kept: &HashMap<Key<'r>, i64>| {
            let key = batch::key(&hold.event_id, &hold.event_source);
            !places.contains_key(&key) && !kept.contains_key(&key)
        };
        let unplaced: Vec<&Hold> = holds.filter(|hold| homeless(hold, &kept)).collect();
        let brought = kept::keep(tx, &unplaced).await?;
        let come: Vec<(Key<'r>, i64)> = new
            .iter()
            .map(|placed| (placed.key(), placed.sequence))
            .chain(brought.iter().map(|(key, place)| (key.clone(), *place)))
            .collect();
        kept.extend(brought);
        let too_early = unplaced
            .into_iter()
            .filter(|hold| homeless(hold, &kept))
            .collect();
        Ok(Self {
            waited: early::take(tx, &come).await?,
            moved,
            too_early,
            kept,
        })
    }

    /// Adds the status of the deliveries that are held.
    pub(crate) fn add_to(&self, rows: &mut Rows<'_>, records: &[Record], places: &Places<'_>) {
        for caught_up in &self.moved {
            rows.stands(caught_up.sequence, &caught_up.endpoint, caught_up.stands);
        }
        for (place, hold) in self.holds(records, places) {
            if place > 0 {
                rows.stands(place, &hold.endpoint, Stands::of_hold(hold));
            }
        }
    }

    /// All holds whose event has a place.
    fn holds<'a>(
        &'a self,
        records: &'a [Record],
        places: &'a Places<'_>,
    ) -> impl Iterator<Item = (i64, &'a Hold)> {
        let come = records.iter().filter_map(move |record| match record {
            Record::Hold(hold) => Some((self.place(record, places)?, hold.as_ref())),
            _ => None,
        });
        let waited = self.waited.iter().map(|(place, hold)| (*place, hold));
        come.chain(waited)
    }

    fn place(&self, record: &Record, places: &Places<'_>) -> Option<i64> {
        let key = batch::key_of(record);
        places.get(&key).or_else(|| self.kept.get(&key)).copied()
    }

    /// Writes what becomes of held deliveries, after the records are in the log. `caught_up` are records that waited
    /// for their event. Returns true if something was held, or a claim ended.
    pub(crate) async fn write(
        &self,
        tx: &mut Transaction,
        records: &[Record],
        caught_up: &[(i64, Record)],
        places: &Places<'_>,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        early::keep(tx, &self.too_early, now).await?;
        let holds: Vec<(i64, &Hold)> = self.holds(records, places).collect();
        let mut ends: Vec<(i64, &EndpointId, End)> = Vec::new();
        let placed = records
            .iter()
            .filter_map(|record| Some((self.place(record, places)?, record)));
        for (place, record) in placed.chain(caught_up.iter().map(|(place, record)| (*place, record))) {
            if let Some((endpoint, end)) = end_of(record) {
                ends.push((place, endpoint, end));
            }
        }
        let holding: BTreeSet<EndpointId> = holds.iter().map(|(_, hold)| hold.endpoint.clone()).collect();
        let mut ids: BTreeSet<EndpointId> = ends.iter().map(|(_, endpoint, _)| (*endpoint).clone()).collect();
        ids.extend(holding.iter().cloned());
        if ids.is_empty() {
            return Ok(false);
        }
        let mut numbers = endpoints::find(tx, &ids).await?;
        endpoints::add(tx, &holding, &mut numbers).await?;
        if numbers.is_empty() {
            return Ok(false);
        }
        let last = last_generations(tx, &holds).await?;
        let at = |(place, endpoint): (i64, &EndpointId)| Some((*numbers.get(endpoint)?, place));
        let held = holds.iter().map(|(place, hold)| (*place, &hold.endpoint));
        let all = held.chain(ends.iter().map(|(place, endpoint, _)| (*place, *endpoint)));
        let mut change = Change::begin(tx, all.filter_map(at).collect()).await?;
        for (place, endpoint, end) in ends {
            if let Some(number) = numbers.get(endpoint) {
                change.end((*number, place), end);
            }
        }
        for (place, hold) in holds {
            let line = Line::of(hold)?;
            let at = (numbers[&hold.endpoint], place);
            match last.get(&(place, hold.endpoint.to_bytes().to_vec())) {
                Some(last) if last.is_over(hold, &line) => change.end(at, last.end(&line)),
                _ => change.hold(at, line, way_of(hold)),
            }
        }
        change.write(tx).await
    }
}

fn end_of(record: &Record) -> Option<(&EndpointId, End)> {
    match record {
        Record::Attempt(attempt) => Some((&attempt.endpoint, End::of_attempt(attempt))),
        Record::Death(death) => {
            let end = End {
                run: codes::millis(death.standing.run),
                way: Way::Failed,
                hop: None,
            };
            Some((&death.endpoint, end))
        }
        Record::Event(_) | Record::Hold(_) => None,
    }
}

/// The way in which a hold ends the claim of its delivery.
fn way_of(hold: &Hold) -> Way {
    match hold.reason {
        HoldReason::InDoubt => Way::Overtaken,
        _ => Way::Returned,
    }
}

/// The last generation of a delivery, as the log shows it.
struct Last {
    generation: i64,
    is_end: bool,
}

impl Last {
    /// Returns true if nothing is to come of a hold: its generation has ended, or a later one has. If a later one is on its
    /// way still, a hold that is in doubt is overtaken by it. Any other is not: a message that comes again may have lost its
    /// generation, and be all that is left of the delivery.
    fn is_over(&self, hold: &Hold, line: &Line) -> bool {
        match self.is_end {
            true => line.run <= self.generation,
            false => hold.reason == HoldReason::InDoubt && 0 < line.run && line.run < self.generation,
        }
    }

    fn end(&self, line: &Line) -> End {
        End {
            run: if self.is_end { self.generation } else { line.run },
            way: Way::Overtaken,
            hop: None,
        }
    }
}

/// The last generations of these deliveries.
async fn last_generations(
    tx: &mut Transaction,
    holds: &[(i64, &Hold)],
) -> Result<HashMap<(i64, Vec<u8>), Last>, sqlx::Error> {
    let logged: Vec<_> = holds.iter().filter(|(place, _)| *place > 0).collect();
    let mut last = HashMap::new();
    for chunk in logged.chunks(insert::ROWS) {
        let found: Vec<(i64, Vec<u8>, i64, i16)> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new("SELECT event, endpoint, run, state FROM deliveries WHERE (event, endpoint) IN (");
            query.push_values(chunk, |mut row, (place, hold)| {
                row.push_bind(*place).push_bind(hold.endpoint.to_bytes().to_vec());
            });
            query.push(")").build_query_as().persistent(chunk.len() == insert::ROWS).fetch_all(&mut **tx).await?
        });
        for (event, endpoint, generation, state) in found {
            let is_end = codes::state(state)?.is_end();
            last.insert((event, endpoint), Last { generation, is_end });
        }
    }
    Ok(last)
}

/// Lines as they are stored, and as they are to be.
pub(super) struct Change {
    stored: BTreeMap<At, Line>,
    now: BTreeMap<At, Option<Line>>,
    changed: Changed,
}

impl Change {
    pub(super) async fn begin(tx: &mut Transaction, all: BTreeSet<At>) -> Result<Self, sqlx::Error> {
        let all: Vec<At> = all.into_iter().collect();
        Ok(Self {
            stored: load(tx, &all).await?,
            now: BTreeMap::new(),
            changed: Changed::default(),
        })
    }

    pub(super) fn line(&self, at: &At) -> Option<&Line> {
        match self.now.get(at) {
            Some(line) => line.as_ref(),
            None => self.stored.get(at),
        }
    }

    pub(super) fn end(&mut self, at: At, end: End) {
        let Some(line) = self.line(&at).filter(|line| end.ends(line)) else {
            return;
        };
        if line.is_claimed {
            self.changed.ended(at.0, end.way);
        }
        self.now.insert(at, None);
    }

    /// Holds a delivery, in the lane in which it is held already, if it is. A claim of it ends in this way.
    pub(super) fn hold(&mut self, at: At, mut line: Line, way: Way) {
        let is_claimed = match self.line(&at) {
            Some(there) if !line.replaces(there) => return,
            Some(there) => {
                line.lane = there.lane;
                there.is_claimed
            }
            None => false,
        };
        match is_claimed {
            true => self.changed.ended(at.0, way),
            false => self.changed.held(at.0),
        }
        self.now.insert(at, Some(line));
    }

    pub(super) async fn write(self, tx: &mut Transaction) -> Result<bool, sqlx::Error> {
        let mut gone: Vec<(At, i16)> = Vec::new();
        let mut held: Vec<(At, &Line)> = Vec::new();
        for (at, line) in &self.now {
            match (line, self.stored.get(at)) {
                (Some(line), _) => held.push((*at, line)),
                (None, Some(stored)) => gone.push((*at, stored.lane)),
                (None, None) => {}
            }
        }
        write(tx, &held).await?;
        remove(tx, &gone).await?;
        let kept: BTreeSet<i64> = self
            .now
            .keys()
            .map(|(_, place)| *place)
            .filter(|place| *place < 0)
            .collect();
        kept::remove_unheld(tx, &kept).await?;
        self.changed.write(tx).await?;
        Ok(!self.changed.is_empty())
    }
}

type Columns = (
    i64,
    i16,
    i64,
    i64,
    i64,
    i16,
    i64,
    Option<String>,
    i64,
    Option<i64>,
);

async fn load(tx: &mut Transaction, all: &[At]) -> Result<BTreeMap<At, Line>, sqlx::Error> {
    let mut lines = BTreeMap::new();
    let all: Vec<(At, i16)> = all.iter().flat_map(|at| [(*at, LIVE), (*at, REPLAY)]).collect();
    for chunk in all.chunks(insert::ROWS) {
        let found: Vec<Columns> = on!(&mut *tx, tx => {
            let mut query = QueryBuilder::new(
                "SELECT endpoint, lane, event, generation, attempts, reason, held_at, history, hop, claimed_at FROM held \
                 WHERE (endpoint, lane, event) IN (",
            );
            query.push_values(chunk, |mut row, ((endpoint, event), lane)| {
                row.push_bind(*endpoint).push_bind(*lane).push_bind(*event);
            });
            query
                .push(")")
                .build_query_as()
                .persistent(chunk.len() == insert::ROWS)
                .fetch_all(&mut **tx)
                .await?
        });
        for (endpoint, lane, event, run, attempts, reason, held_at, history, hop, claimed_at) in found {
            let line = Line {
                lane,
                run,
                attempts,
                reason,
                held_at,
                history,
                hop,
                is_claimed: claimed_at.is_some(),
            };
            lines.insert((endpoint, event), line);
        }
    }
    Ok(lines)
}

async fn write(tx: &mut Transaction, held: &[(At, &Line)]) -> Result<(), sqlx::Error> {
    for chunk in held.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut insert = QueryBuilder::new(
                "INSERT INTO held (endpoint, lane, event, generation, attempts, reason, held_at, history, hop) ",
            );
            insert.push_values(chunk, |mut row, ((endpoint, event), line)| {
                row.push_bind(*endpoint)
                    .push_bind(line.lane)
                    .push_bind(*event)
                    .push_bind(line.run)
                    .push_bind(line.attempts)
                    .push_bind(line.reason)
                    .push_bind(line.held_at)
                    .push_bind(line.history.as_deref())
                    .push_bind(line.hop);
            });
            insert.push(
                " ON CONFLICT (endpoint, lane, event) DO UPDATE SET generation = excluded.generation, \
                 attempts = excluded.attempts, reason = excluded.reason, held_at = excluded.held_at, \
                 history = excluded.history, hop = excluded.hop, epoch = NULL, claimed_at = NULL",
            );
            insert.build().persistent(chunk.len() == insert::ROWS).execute(&mut **tx).await?;
        });
    }
    Ok(())
}

async fn remove(tx: &mut Transaction, gone: &[(At, i16)]) -> Result<(), sqlx::Error> {
    for chunk in gone.chunks(insert::ROWS) {
        on!(&mut *tx, tx => {
            let mut delete = QueryBuilder::new("DELETE FROM held WHERE (endpoint, lane, event) IN (");
            delete.push_values(chunk, |mut row, ((endpoint, event), lane)| {
                row.push_bind(*endpoint).push_bind(*lane).push_bind(*event);
            });
            delete.push(")").build().persistent(chunk.len() == insert::ROWS).execute(&mut **tx).await?;
        });
    }
    Ok(())
}
