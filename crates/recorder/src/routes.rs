//! The endpoints that an event surely goes to. Deliverers match each event and tell of it only with its first attempt
//! or hold; so it is worked out here too, from the store's endpoints, where that is certain.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

use relay_broker::Changes;
use relay_event::{
    BlindMatch, EarlierSelection, Endpoint, EndpointId, EventAttributes, Selection, SelectionIndex, Timestamp,
};
use relay_store::{Changed, Changes as StoreChanges, Error, KnownEndpoints, Store};
use tokio::{
    sync::Mutex,
    time::{MissedTickBehavior, timeout},
};

/// How long a batch waits for endpoints to be read: what is not known then the first attempts tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint, as far as routing goes.
#[derive(Debug, PartialEq)]
struct Route {
    selection: Selection,
    /// The time from which it has this selection.
    since: Timestamp,
    earlier: Vec<EarlierSelection>,
}

/// The endpoints that events are routed to, kept in step with the store. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Routes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    store: Store,
    /// Locked while they are read.
    reading: Mutex<()>,
    known: RwLock<Known>,
}

#[derive(Debug)]
struct Known {
    endpoints: KnownEndpoints<Route>,
    index: SelectionIndex<EndpointId>,
}

impl Routes {
    pub(crate) fn new(store: Store) -> Self {
        let known = Known {
            endpoints: KnownEndpoints::new(route),
            index: SelectionIndex::default(),
        };
        Self(Arc::new(Shared {
            store,
            reading: Mutex::default(),
            known: RwLock::new(known),
        }))
    }

    /// Reads the endpoints that changed.
    ///
    /// # Errors
    /// They cannot be read. Those known before stay.
    pub(crate) async fn look(&self) -> Result<(), Error> {
        let _reading = self.0.reading.lock().await;
        let version = self.known().endpoints.version().cloned();
        let changes = self.0.store.changes_since(version.as_ref()).await?;
        self.apply(changes);
        Ok(())
    }

    /// Reads all endpoints. Numbers do not tell of a change that a database has lost, if it made as many others since
    /// it was restored or failed over.
    ///
    /// # Errors
    /// They cannot be read. Those known before stay.
    async fn look_at_all(&self) -> Result<(), Error> {
        let _reading = self.0.reading.lock().await;
        let changes = self.0.store.changes_since(None).await?;
        self.apply(changes);
        Ok(())
    }

    fn apply(&self, changes: StoreChanges) {
        let mut known = self.0.known.write().unwrap_or_else(PoisonError::into_inner);
        let Known { endpoints, index } = &mut *known;
        for Changed { id, before } in endpoints.apply(changes) {
            if let Some(before) = before {
                index.remove(&before.selection, &id);
            }
            if let Some(route) = endpoints.get(&id) {
                index.insert(&route.selection, &id);
            }
        }
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.0.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what changed whenever an endpoint did, and all endpoints now and then, for ever.
    pub(crate) async fn follow(&self, mut changes: Changes, recheck: Duration) {
        let mut look = tokio::time::interval(recheck);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.tick().await; // They have just been read.
        let mut failing = false;
        loop {
            let looked = tokio::select! {
                () = changes.next() => self.look().await,
                _ = look.tick() => self.look_at_all().await,
            };
            // That the store is away is said where it is written to.
            let unreadable = looked.err().filter(|error| !error.is_unavailable());
            if let (Some(error), false) = (&unreadable, failing) {
                say_unreadable(error);
            }
            failing = unreadable.is_some();
        }
    }

    /// Returns once no change that was heard of is yet to be read, but waits no longer than is worth it.
    pub(crate) async fn up_to_date(&self) {
        let read = async {
            // The look under way may have read too early; who follows waits for the next turn by then.
            for _ in 0..2 {
                drop(self.0.reading.lock().await);
            }
        };
        let _ = timeout(PATIENCE, read).await;
    }

    /// The endpoints that an event surely goes to. Of the others, such as all of an event that does not
    /// say when it was published, the first attempt will tell.
    pub(crate) fn routed_to(
        &self,
        event: EventAttributes<'_>,
        published_at: Option<Timestamp>,
    ) -> Vec<EndpointId> {
        let Some(published_at) = published_at else {
            return Vec::new();
        };
        self.matching(event, |route| route.since <= published_at)
    }

    /// The endpoints that want the event of a match, and that the record is about, and for which it was not taken.
    pub(crate) fn missed_by(&self, matched: &BlindMatch) -> Vec<EndpointId> {
        let (event, at) = (matched.attributes(), matched.wanted_at());
        let wants = |route: &Route| relay_event::wants(route.since, &route.earlier, event, at);
        let taken: HashSet<&EndpointId> = matched.endpoints.iter().collect();
        let mut missed = self.matching(event, wants);
        missed.retain(|endpoint| matched.is_about(endpoint) && !taken.contains(endpoint));
        missed
    }

    fn matching(&self, event: EventAttributes<'_>, is_wanted: impl Fn(&Route) -> bool) -> Vec<EndpointId> {
        let known = self.known();
        let matching = known.index.matching(event).into_iter();
        let wanted = matching.filter(|id| known.endpoints.get(id).is_some_and(&is_wanted));
        wanted.cloned().collect()
    }
}

pub(crate) fn say_unreadable(error: &Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        error,
        "the endpoints cannot be read; events are recorded as routed to those known before"
    );
}

/// Every endpoint has a route: the events of a paused or disabled one are held.
fn route(endpoint: Endpoint) -> Route {
    Route {
        selection: endpoint.selection,
        since: endpoint.selected_since,
        earlier: endpoint.earlier,
    }
}

#[cfg(test)]
mod tests {
    use relay_event::EndpointState;
    use relay_store::StoreUrl;
    use tempfile::TempDir;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000).unwrap()
    }

    fn endpoint(types: &[&str], since: i64) -> Endpoint {
        let types = types.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let url = "http://127.0.0.1/".parse().unwrap();
        let mut endpoint = Endpoint::new(url, types, relay_event::Secret::generate(), at(0));
        endpoint.selected_since = at(since);
        endpoint
    }

    struct Known {
        endpoints: Vec<EndpointId>,
        routes: Routes,
        _folder: TempDir,
    }

    impl Known {
        async fn none() -> Self {
            let folder = TempDir::new().unwrap();
            let url = StoreUrl::sqlite(folder.path().join("relay.db"));
            Self {
                endpoints: Vec::new(),
                routes: Routes::new(Store::open(&url).await.unwrap()),
                _folder: folder,
            }
        }

        async fn add(&mut self, endpoint: Endpoint) {
            self.routes.0.store.insert(&endpoint).await.unwrap();
            self.endpoints.push(endpoint.id);
            self.routes.look().await.unwrap();
        }

        async fn change(&self, place: usize, change: impl Fn(&mut Endpoint)) {
            let change = |endpoint: &mut Endpoint| {
                change(endpoint);
                Ok(())
            };
            let changed = self.routes.0.store.update(&self.endpoints[place], change).await;
            changed.unwrap().unwrap();
            self.routes.look().await.unwrap();
        }

        async fn remove(&self, place: usize) {
            let removed = self.routes.0.store.delete(&self.endpoints[place], at(9)).await;
            removed.unwrap();
            self.routes.look().await.unwrap();
        }

        /// The places, among those added, of the endpoints that the event went to.
        fn routed(&self, event_type: &str, published: Option<i64>) -> Vec<usize> {
            self.routed_about(event_type, None, published)
        }

        /// The same for an event with this subject.
        fn routed_about(
            &self,
            event_type: &str,
            subject: Option<&str>,
            published: Option<i64>,
        ) -> Vec<usize> {
            let event = EventAttributes {
                event_type: &event_type.parse().unwrap(),
                source: "/s",
                subject,
            };
            self.places(self.routes.routed_to(event, published.map(at)))
        }

        fn places(&self, endpoints: Vec<EndpointId>) -> Vec<usize> {
            let place = |id: &EndpointId| self.endpoints.iter().position(|known| known == id);
            let mut places: Vec<usize> = endpoints.iter().map(|id| place(id).unwrap()).collect();
            places.sort_unstable();
            places
        }
    }

    #[tokio::test]
    async fn an_event_goes_to_those_with_a_matching_pattern_once() {
        let mut known = Known::none().await;
        assert_eq!(known.routed("order.created", Some(1)), [0; 0]);
        known.add(endpoint(&["x", "order.*"], 0)).await;
        known.add(endpoint(&["#", "order.#"], 0)).await;
        assert_eq!(known.routed("order.created", Some(1)), [0, 1]);
        assert_eq!(known.routed("invoice.sent", Some(1)), [1]);
    }

    #[tokio::test]
    async fn events_of_a_paused_or_disabled_endpoint_go_there() {
        let in_state = |state| Endpoint {
            state,
            ..endpoint(&["#"], 0)
        };
        let (reason, at) = (String::new(), at(0));
        let mut known = Known::none().await;
        known.add(in_state(EndpointState::Paused)).await;
        known.add(in_state(EndpointState::Disabled { reason, at })).await;
        assert_eq!(known.routed("a", Some(1)), [0, 1]);
    }

    #[tokio::test]
    async fn what_was_published_before_an_endpoint_wanted_it_is_not_known_to_have_gone_there() {
        let mut known = Known::none().await;
        known.add(endpoint(&["a"], 10)).await;
        known.add(endpoint(&["a"], 20)).await;
        assert_eq!(known.routed("a", Some(9)), [0; 0]);
        assert_eq!(known.routed("a", Some(19)), [0]);
        assert_eq!(known.routed("a", Some(20)), [0, 1]);
        assert_eq!(known.routed("a", None), [0; 0], "its producer did not say");
    }

    #[tokio::test]
    async fn an_event_goes_to_those_that_want_its_source_and_subject() {
        let of = |source: Option<&str>, subject: Option<&str>| {
            let mut endpoint = endpoint(&["a"], 0);
            endpoint.selection.source = source.map(str::to_owned);
            endpoint.selection.subject = subject.map(str::to_owned);
            endpoint
        };
        let mut known = Known::none().await;
        for (source, subject) in [
            (None, None),
            (Some("/s"), None),
            (None, Some("x")),
            (Some("/s"), Some("x")),
            (Some("/t"), Some("x")),
        ] {
            known.add(of(source, subject)).await;
        }
        assert_eq!(known.routed_about("a", Some("x"), Some(1)), [0, 1, 2, 3]);
        assert_eq!(known.routed_about("a", Some("y"), Some(1)), [0, 1]);
        assert_eq!(known.routed("a", Some(1)), [0, 1]);
        known
            .change(3, |endpoint| {
                let narrower = Selection {
                    subject: Some("y".to_owned()),
                    ..endpoint.selection.clone()
                };
                endpoint.select(narrower, at(5));
            })
            .await;
        assert_eq!(known.routed_about("a", Some("x"), Some(9)), [0, 1, 2]);
        assert_eq!(known.routed_about("a", Some("y"), Some(4)), [0, 1]);
        assert_eq!(known.routed_about("a", Some("y"), Some(5)), [0, 1, 3]);
    }

    #[tokio::test]
    async fn a_match_missed_those_that_wanted_the_event_and_are_not_in_it() {
        let mut known = Known::none().await;
        for (types, since) in [("a", 0), ("a", 0), ("b", 0), ("a", 69), ("a", 71)] {
            known.add(endpoint(&[types], since)).await;
        }
        let mut matched = BlindMatch {
            event_id: "1".parse().unwrap(),
            event_source: "/s".to_owned(),
            event_type: "a".parse().unwrap(),
            event_subject: None,
            published_at: Some(at(9)),
            at: at(11),
            endpoints: vec![known.endpoints[0].clone()],
            after: None,
            through: None,
            event: None,
        };
        let missed = |matched: &BlindMatch| known.places(known.routes.missed_by(matched));
        assert_eq!(
            missed(&matched),
            [1, 3],
            "a minute after it was published at most"
        );
        matched.published_at = None;
        assert_eq!(missed(&matched), [1, 3, 4], "a minute after the match");
        for through in known.endpoints.clone() {
            let [mut lower, mut upper] = [matched.clone(), matched.clone()];
            (lower.through, upper.after) = (Some(through.clone()), Some(through));
            let mut both = [missed(&lower), missed(&upper)].concat();
            both.sort_unstable();
            assert_eq!(both, [1, 3, 4], "each of them once");
        }
        let narrow = |endpoint: &mut Endpoint| endpoint.selection.subject = Some("x".to_owned());
        known.change(1, narrow).await;
        let missed = |matched: &BlindMatch| known.places(known.routes.missed_by(matched));
        assert_eq!(missed(&matched), [3, 4], "without a subject");
        matched.event_subject = Some("x".to_owned());
        assert_eq!(missed(&matched), [1, 3, 4]);
    }

    #[tokio::test]
    async fn a_change_counts_and_what_was_before_it_does_not() {
        let mut known = Known::none().await;
        known.add(endpoint(&["a", "a.#"], 1)).await;
        known.add(endpoint(&["a"], 1)).await;
        assert_eq!(known.routed("a", Some(1)), [0, 1]);
        known
            .change(0, |endpoint| {
                endpoint.selection.types = vec!["b".parse().unwrap()];
                endpoint.selected_since = at(5);
            })
            .await;
        assert_eq!(known.routed("a", Some(9)), [1]);
        assert_eq!(known.routed("b", Some(4)), [0; 0]);
        assert_eq!(known.routed("b", Some(5)), [0]);
        known.remove(1).await;
        assert_eq!(known.routed("a", Some(9)), [0; 0]);
        known.remove(0).await;
        assert_eq!(known.routed("b", Some(9)), [0; 0]);
    }
}
