//! What many requests ask the store at the same moment is one question: by itself each would cost more
//! than all else that is done for a small event.

use std::{error::Error, sync::Arc, time::Duration};

use relay_event::EventId;
use relay_store::Store;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Requests that may wait to be asked for.
const ROOM: usize = 1_024;

/// Requests in one question: those of batches, at most 1,000 events each, are asked for one by one.
const TOGETHER: usize = 64;
const NAMES: usize = 1_000;

/// How long a question may take. Who asks waits no longer either.
const PATIENCE: Duration = Duration::from_secs(1);

/// An event's name.
type Name = (EventId, String);

/// Why there is no answer, told to all who wait for it.
type Failure = Arc<dyn Error + Send + Sync>;

type Answer = Result<Vec<bool>, Failure>;

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
        answered.await.unwrap_or_else(|gone| Err(Arc::new(gone)))
    }
}

async fn answer_all(store: Store, mut waiting: mpsc::Receiver<Look>) {
    let mut looks = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut looks, TOGETHER).await > 0 {
        looks.retain(|look| !look.answer.is_closed());
        while !looks.is_empty() {
            let rest = looks.split_off(question(&looks));
            answer(&store, std::mem::replace(&mut looks, rest)).await;
        }
    }
}

/// How many of these are one question: never none.
fn question(looks: &[Look]) -> usize {
    let mut names = 0;
    let fits = |look: &&Look| {
        let first = names == 0;
        names += look.names.len().max(1);
        first || names <= NAMES
    };
    looks.iter().take_while(fits).count()
}

async fn answer(store: &Store, looks: Vec<Look>) {
    let names: Vec<Name> = looks.iter().flat_map(|look| look.names.iter().cloned()).collect();
    let found = match timeout(PATIENCE, store.are_confirmed(&names)).await {
        Ok(found) => found.map_err(|error| Arc::new(error) as Failure),
        Err(elapsed) => Err(Arc::new(elapsed) as Failure),
    };
    let mut rest = found.as_deref().unwrap_or_default();
    for Look { names, answer } in looks {
        let (own, others) = rest.split_at(names.len().min(rest.len()));
        rest = others;
        let own = found.as_ref().map(|_| own.to_vec()).map_err(Arc::clone);
        let _ = answer.send(own);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use relay_event::Timestamp;
    use relay_store::StoreUrl;

    use super::*;

    fn look(names: usize) -> Look {
        let name = ("1".parse().unwrap(), "/x".to_owned());
        let (answer, _) = oneshot::channel();
        Look {
            names: vec![name; names],
            answer,
        }
    }

    #[test]
    fn small_requests_are_asked_together_and_batches_apart() {
        let looks = |sizes: &[usize]| sizes.iter().copied().map(look).collect::<Vec<_>>();
        assert_eq!(question(&looks(&[1; 64])), 64);
        assert_eq!(question(&looks(&[1_000, 1])), 1);
        assert_eq!(question(&looks(&[400, 600, 1])), 2);
        assert_eq!(question(&looks(&[2_000])), 1);
    }

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
