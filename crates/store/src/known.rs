//! Endpoints that a process keeps in memory, in step with the store.

use std::collections::BTreeMap;

use relay_event::{Endpoint, EndpointId};

use crate::{ChangedEndpoints, Changes, Error, FleetVersion, Store};

/// The endpoints as the store last had them, and what a reader keeps of each.
#[derive(Debug)]
pub struct KnownEndpoints<T> {
    keep: fn(Endpoint) -> T,
    version: Option<FleetVersion>,
    kept: BTreeMap<EndpointId, T>,
}

/// An endpoint of which a reader keeps something else than before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed<T> {
    /// The endpoint.
    pub id: EndpointId,
    /// The value that was kept of it; `None` if nothing was. [`KnownEndpoints::get`] has the one that is kept now.
    pub before: Option<T>,
}

impl<T: PartialEq> KnownEndpoints<T> {
    /// Knows no endpoint before the first [`Self::refresh`].
    pub fn new(keep: fn(Endpoint) -> T) -> Self {
        Self {
            keep,
            version: None,
            kept: BTreeMap::new(),
        }
    }

    /// Reads what changed in the store, and returns each endpoint of which something else is kept now. If nothing
    /// changed, one row is read. Nothing is lost if this is dropped.
    ///
    /// # Errors
    /// The endpoints cannot be read. Those known before stay.
    pub async fn refresh(&mut self, store: &Store) -> Result<Vec<Changed<T>>, Error> {
        let changes = store.changes_since(self.version()).await?;
        Ok(self.apply(changes))
    }

    /// Does the same by reading all endpoints. Numbers do not tell of a change that a database has lost, if it made
    /// as many others since it was restored or failed over, nor of one that a relay made that did not know numbers.
    ///
    /// # Errors
    /// The endpoints cannot be read. Those known before stay.
    pub async fn refresh_all(&mut self, store: &Store) -> Result<Vec<Changed<T>>, Error> {
        let changes = store.changes_since(None).await?;
        Ok(self.apply(changes))
    }

    /// The version at which the endpoints are known, if they were ever read.
    pub fn version(&self) -> Option<&FleetVersion> {
        self.version.as_ref()
    }

    /// Takes over what was read since [`Self::version`], and returns each endpoint of which something else is kept
    /// now.
    pub fn apply(&mut self, changes: Changes) -> Vec<Changed<T>> {
        self.version = Some(changes.version);
        match changes.endpoints {
            ChangedEndpoints::All(all) => self.replace(all),
            ChangedEndpoints::Since { changed, removed } => {
                let changed = changed.into_iter().map(|endpoint| {
                    let id = endpoint.id.clone();
                    (id, Some((self.keep)(endpoint)))
                });
                let removed = removed.into_iter().map(|id| (id, None));
                let now: Vec<_> = changed.chain(removed).collect();
                now.into_iter()
                    .filter_map(|(id, now)| self.set(id, now))
                    .collect()
            }
        }
    }

    /// Returns what is kept of an endpoint.
    pub fn get(&self, id: &EndpointId) -> Option<&T> {
        self.kept.get(id)
    }

    /// All endpoints, in the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&EndpointId, &T)> {
        self.kept.iter()
    }

    fn replace(&mut self, all: Vec<Endpoint>) -> Vec<Changed<T>> {
        let mut before = std::mem::take(&mut self.kept);
        let mut changed = Vec::new();
        for endpoint in all {
            let id = endpoint.id.clone();
            let now = (self.keep)(endpoint);
            let before = before.remove(&id);
            if before.as_ref() != Some(&now) {
                changed.push(Changed {
                    id: id.clone(),
                    before,
                });
            }
            self.kept.insert(id, now);
        }
        let gone = before.into_iter().map(|(id, before)| Changed {
            id,
            before: Some(before),
        });
        changed.extend(gone);
        changed
    }

    fn set(&mut self, id: EndpointId, now: Option<T>) -> Option<Changed<T>> {
        if self.kept.get(&id) == now.as_ref() {
            return None;
        }
        let before = match now {
            Some(now) => self.kept.insert(id.clone(), now),
            None => self.kept.remove(&id),
        };
        Some(Changed { id, before })
    }
}
