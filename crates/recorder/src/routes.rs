//! Which endpoints an event was routed to. The broker does the routing and does not tell; so it is
//! worked out again from the store's endpoints, where that is certain.

use std::{collections::HashMap, sync::Arc, time::Duration};

use relay_broker::Changes;
use relay_event::{Endpoint, EndpointId, EndpointState, EventType, Timestamp, TypePattern};
use relay_store::{Error, Store};
use tokio::{
    sync::{Mutex, watch},
    time::{MissedTickBehavior, timeout},
};

/// Types whose routes are remembered at once; a producer may make up any number of them.
const REMEMBERED: usize = 10_000;

/// How long a batch waits for endpoints to be read: what is not known then the first attempts tell.
const PATIENCE: Duration = Duration::from_secs(1);

/// An endpoint, as far as routing goes.
#[derive(Debug, Clone)]
struct Route {
    endpoint: EndpointId,
    types: Vec<TypePattern>,
    /// Since when it is bound by these types: how events were routed before is not known.
    since: Timestamp,
}

/// The endpoints that events are routed to, kept in step with the store.
#[derive(Debug)]
pub(crate) struct Routes {
    store: Store,
    known: watch::Sender<Arc<[Route]>>,
    /// Held while they are read.
    looking: Arc<Mutex<()>>,
}

impl Routes {
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            known: watch::Sender::default(),
            looking: Arc::default(),
        }
    }

    /// Reads the endpoints anew.
    ///
    /// # Errors
    /// They cannot be read. Those known before stay.
    pub(crate) async fn look(&self) -> Result<(), Error> {
        let endpoints = self.store.endpoints().await?;
        let routes = endpoints.into_iter().filter_map(|stored| route(stored.endpoint));
        self.known.send_replace(routes.collect());
        Ok(())
    }

    /// Reads them anew whenever one changed, and now and then, for ever.
    pub(crate) async fn follow(&self, mut changes: Changes, recheck: Duration) {
        let mut look = tokio::time::interval(recheck);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        look.tick().await; // They have just been read.
        let mut failing = false;
        loop {
            tokio::select! {
                () = changes.next() => {}
                _ = look.tick() => {}
            }
            let _looking = self.looking.lock().await;
            // That the store is away is said where it is written to.
            let unreadable = self.look().await.err().filter(|error| !error.is_unavailable());
            if let (Some(error), false) = (&unreadable, failing) {
                say_unreadable(error);
            }
            failing = unreadable.is_some();
        }
    }

    /// Somebody who asks where events went.
    pub(crate) fn router(&self) -> Router {
        Router {
            known: self.known.subscribe(),
            looking: Arc::clone(&self.looking),
            remembered: HashMap::new(),
        }
    }
}

pub(crate) fn say_unreadable(error: &Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(
        error,
        "the endpoints cannot be read; events are recorded as routed to those known before"
    );
}

/// A paused or disabled endpoint collects its events; one being removed gets no more.
fn route(endpoint: Endpoint) -> Option<Route> {
    let since = endpoint.bound_since?;
    let routed = !matches!(endpoint.state, EndpointState::Removed { .. });
    routed.then_some(Route {
        endpoint: endpoint.id,
        types: endpoint.types,
        since,
    })
}

/// Tells where events went.
#[derive(Debug)]
pub(crate) struct Router {
    known: watch::Receiver<Arc<[Route]>>,
    looking: Arc<Mutex<()>>,
    /// The endpoints with a matching pattern, and since when each is bound.
    remembered: HashMap<EventType, Arc<[(EndpointId, Timestamp)]>>,
}

impl Router {
    /// Returns once no change that was heard of is yet to be read, but waits no longer than is worth it.
    pub(crate) async fn up_to_date(&self) {
        let read = async {
            // The look under way may have read too early; who follows waits for the next turn by then.
            for _ in 0..2 {
                drop(self.looking.lock().await);
            }
        };
        let _ = timeout(PATIENCE, read).await;
    }

    /// The endpoints that an event surely went to. Of the others, such as all of an event that does not
    /// say when it was published, the first attempt will tell.
    pub(crate) fn routed_to(
        &mut self,
        event_type: &EventType,
        published_at: Option<Timestamp>,
    ) -> Vec<EndpointId> {
        let certain = |since: Timestamp| published_at.is_some_and(|published| since <= published);
        self.matching(event_type)
            .iter()
            .filter(|(_, since)| certain(*since))
            .map(|(endpoint, _)| endpoint.clone())
            .collect()
    }

    fn matching(&mut self, event_type: &EventType) -> Arc<[(EndpointId, Timestamp)]> {
        // Without a sender nothing changes any more.
        if self.known.has_changed().unwrap_or(false) || self.remembered.len() >= REMEMBERED {
            self.remembered.clear();
        }
        if let Some(found) = self.remembered.get(event_type) {
            return Arc::clone(found);
        }
        let known = Arc::clone(&self.known.borrow_and_update());
        let wants = |route: &&Route| route.types.iter().any(|pattern| pattern.matches(event_type));
        let wanting = known.iter().filter(wants);
        let found: Arc<[_]> = wanting
            .map(|route| (route.endpoint.clone(), route.since))
            .collect();
        self.remembered.insert(event_type.clone(), Arc::clone(&found));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000).unwrap()
    }

    fn endpoint(types: &[&str], bound: i64) -> Endpoint {
        let types = types.iter().map(|pattern| pattern.parse().unwrap()).collect();
        let url = "http://127.0.0.1/".parse().unwrap();
        let mut endpoint = Endpoint::new(url, types, relay_event::Secret::generate(), at(0));
        endpoint.bound_since = Some(at(bound));
        endpoint
    }

    struct Known {
        endpoints: Vec<EndpointId>,
        sender: watch::Sender<Arc<[Route]>>,
        router: Router,
    }

    impl Known {
        fn none() -> Self {
            let (sender, known) = watch::channel(Arc::default());
            let router = Router {
                known,
                looking: Arc::default(),
                remembered: HashMap::new(),
            };
            Self {
                endpoints: Vec::new(),
                sender,
                router,
            }
        }

        fn are(&mut self, endpoints: &[Endpoint]) {
            self.endpoints = endpoints.iter().map(|endpoint| endpoint.id.clone()).collect();
            let routes = endpoints.iter().cloned().filter_map(route);
            self.sender.send_replace(routes.collect());
        }

        /// The places, among those known, of the endpoints that the event went to.
        fn routed(&mut self, event_type: &str, published: Option<i64>) -> Vec<usize> {
            let (event_type, published) = (event_type.parse().unwrap(), published.map(at));
            let routed = self.router.routed_to(&event_type, published);
            let place = |id: &EndpointId| self.endpoints.iter().position(|known| known == id);
            routed.iter().map(|id| place(id).unwrap()).collect()
        }
    }

    #[test]
    fn an_event_goes_to_those_with_a_matching_pattern_once() {
        let mut known = Known::none();
        assert_eq!(known.routed("order.created", Some(1)), [0; 0]);
        known.are(&[endpoint(&["x", "order.*"], 0), endpoint(&["#", "order.#"], 0)]);
        assert_eq!(known.routed("order.created", Some(1)), [0, 1]);
        assert_eq!(known.routed("invoice.sent", Some(1)), [1]);
    }

    #[test]
    fn a_paused_or_disabled_endpoint_collects_and_a_removed_one_does_not() {
        let in_state = |state| Endpoint {
            state,
            ..endpoint(&["#"], 0)
        };
        let (reason, at) = (String::new(), at(0));
        let mut known = Known::none();
        known.are(&[
            in_state(EndpointState::Paused),
            in_state(EndpointState::Removed { at }),
            in_state(EndpointState::Disabled { reason, at }),
        ]);
        assert_eq!(known.routed("a", Some(1)), [0, 2]);
    }

    #[test]
    fn what_was_published_before_an_endpoint_was_bound_is_not_known_to_have_gone_there() {
        let mut known = Known::none();
        let unbound = Endpoint {
            bound_since: None,
            ..endpoint(&["a"], 0)
        };
        known.are(&[endpoint(&["a"], 10), endpoint(&["a"], 20), unbound]);
        assert_eq!(known.routed("a", Some(9)), [0; 0]);
        assert_eq!(known.routed("a", Some(19)), [0]);
        assert_eq!(known.routed("a", Some(20)), [0, 1]);
        assert_eq!(known.routed("a", None), [0; 0], "its producer did not say");
    }

    #[test]
    fn a_change_ends_what_is_remembered() {
        let mut known = Known::none();
        known.are(&[endpoint(&["a"], 0)]);
        assert_eq!(known.routed("a", Some(1)), [0]);
        known.are(&[endpoint(&["b"], 0), endpoint(&["a"], 0)]);
        assert_eq!(known.routed("a", Some(1)), [1]);
        assert_eq!(known.routed("b", Some(1)), [0]);
    }

    #[test]
    fn not_more_types_are_remembered_than_fit() {
        let mut known = Known::none();
        for number in 0..REMEMBERED + 10 {
            known.routed(&format!("type.{number}"), None);
            assert!(known.router.remembered.len() <= REMEMBERED);
        }
    }
}
