//! What many requests ask the store at the same moment is one question: by itself each would cost more
//! than all else that is done for a small event.

use std::sync::Arc;

use relay_event::EventId;
use relay_store::{Error, Store};
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait to be asked for.
const ROOM: usize = 1_024;

/// Requests in one question.
const TOGETHER: usize = 64;

/// An event's name.
type Name = (EventId, String);

type Answer = Result<Vec<bool>, Arc<Error>>;

/// What one request asks.
struct Look {
    names: Vec<Name>,
    answer: oneshot::Sender<Answer>,
}

/// Asks the store which events are noted as confirmed: one question at a time, and while it is under way
/// the next collects.
pub(super) struct Looks(mpsc::Sender<Look>);

impl Looks {
    pub(super) fn start(store: Store) -> Self {
        let (looks, waiting) = mpsc::channel(ROOM);
        tokio::spawn(answer_all(store, waiting));
        Self(looks)
    }

    /// Which of these are confirmed.
    pub(super) async fn confirmed(&self, names: Vec<Name>) -> Answer {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send(Look { names, answer }).await;
        // The task lives as long as this does.
        answered.await.unwrap_or_else(|_| Ok(Vec::new()))
    }
}

async fn answer_all(store: Store, mut waiting: mpsc::Receiver<Look>) {
    let mut looks: Vec<Look> = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut looks, TOGETHER).await > 0 {
        looks.retain(|look| !look.answer.is_closed());
        let names: Vec<Name> = looks.iter().flat_map(|look| look.names.iter().cloned()).collect();
        let found = store.are_confirmed(&names).await.map_err(Arc::new);
        let mut rest = found.as_deref().unwrap_or_default();
        for Look { names, answer } in looks.drain(..) {
            let (own, others) = rest.split_at(names.len().min(rest.len()));
            rest = others;
            let own = found.as_ref().map(|_| own.to_vec()).map_err(Arc::clone);
            let _ = answer.send(own);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use relay_event::Timestamp;
    use relay_store::StoreUrl;

    use super::*;

    #[tokio::test]
    async fn each_request_gets_its_own_answer() {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::sqlite(folder.path().join("relay.db"));
        let store = Store::open(&url).await.unwrap();
        let name = |n: usize| (format!("event-{n}").parse::<EventId>().unwrap(), "/x".to_owned());
        let even: Vec<Name> = (0..1_000).step_by(2).map(name).collect();
        store.note_confirmed(&even, Timestamp::now()).await.unwrap();

        let looks = Looks::start(store);
        let asked = (0..200).map(async |request| {
            let numbers = request * 5..request * 5 + request % 5;
            let noted = looks
                .confirmed(numbers.clone().map(name).collect())
                .await
                .unwrap();
            assert_eq!(noted, numbers.map(|n| n % 2 == 0).collect::<Vec<_>>());
        });
        join_all(asked).await;
    }
}
