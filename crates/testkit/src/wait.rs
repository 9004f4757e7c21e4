//! Waiting until something is so. The limit is for a test that hangs, never a proof of speed.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// How long [`wait_until`] waits before it calls the test hung.
pub const WAIT_LIMIT: Duration = Duration::from_secs(30);

const PAUSE: Duration = Duration::from_millis(20);

/// What one look at the world shows: the awaited value, or what was there instead.
pub trait Seen {
    /// What the wait is for.
    type Value;

    /// The value, or the state to report if it never comes.
    fn value(self) -> Result<Self::Value, String>;
}

impl Seen for bool {
    type Value = ();

    fn value(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

impl<T> Seen for Option<T> {
    type Value = T;

    fn value(self) -> Result<T, String> {
        self.ok_or_else(|| "None".into())
    }
}

impl<T, E: Display> Seen for Result<T, E> {
    type Value = T;

    fn value(self) -> Result<T, String> {
        self.map_err(|state| state.to_string())
    }
}

/// Looks again and again until `look` shows a value, for at most [`WAIT_LIMIT`].
///
/// `look` answers with a bool, an `Option`, or a `Result` whose error tells the state it saw instead.
///
/// # Panics
/// When the limit passes, with what was waited for and the last state seen.
#[track_caller]
pub fn wait_until<S, F, Fut>(what: impl Display, look: F) -> impl Future<Output = S::Value>
where
    S: Seen,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    wait_until_within(WAIT_LIMIT, what, look)
}

/// [`wait_until`] with a limit of its own.
///
/// # Panics
/// When the limit passes, with what was waited for and the last state seen.
#[track_caller]
pub fn wait_until_within<S, F, Fut>(
    limit: Duration,
    what: impl Display,
    mut look: F,
) -> impl Future<Output = S::Value>
where
    S: Seen,
    F: FnMut() -> Fut,
    Fut: Future<Output = S>,
{
    let place = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        let mut last = "nothing: the first look never ended".to_owned();
        loop {
            match timeout_at(deadline, look()).await.map(Seen::value) {
                Ok(Ok(value)) => return value,
                Ok(Err(state)) => last = state,
                Err(_) => give_up(place, &what, limit, &last),
            }
            if Instant::now() + PAUSE > deadline {
                give_up(place, &what, limit, &last);
            }
            sleep(PAUSE).await;
        }
    }
}

fn give_up(place: &Location<'_>, what: &dyn Display, limit: Duration, last: &str) -> ! {
    panic!("waited {limit:?} for {what} (at {place}); last seen: {last}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;

    use super::*;

    const SOON: Duration = Duration::from_millis(60);

    #[tokio::test]
    async fn looks_again_until_the_value_is_there() {
        let looks = Cell::new(0);
        let value = wait_until("the third look", || async {
            looks.set(looks.get() + 1);
            (looks.get() == 3).then_some("here")
        })
        .await;
        assert_eq!((value, looks.get()), ("here", 3));
    }

    #[tokio::test]
    #[should_panic(expected = "for a full bucket (at crates/testkit/src/wait.rs")]
    async fn gives_up_saying_what_and_where() {
        wait_until_within(SOON, "a full bucket", || async { false }).await;
    }

    #[tokio::test]
    #[should_panic(expected = "last seen: look 2")]
    async fn gives_up_saying_the_last_state() {
        let looks = Cell::new(0);
        wait_until_within(SOON, "a full bucket", || async {
            looks.set(looks.get() + 1);
            if looks.get() > 2 {
                pending::<()>().await;
            }
            Err::<(), _>(format!("look {}", looks.get()))
        })
        .await;
    }

    #[tokio::test]
    #[should_panic(expected = "the first look never ended")]
    async fn gives_up_on_a_look_that_hangs() {
        wait_until_within(SOON, "an answer", pending::<bool>).await;
    }

    #[tokio::test]
    async fn can_wait_on_another_task() {
        let there = tokio::spawn(wait_until("a spawned look", || async { Some(7) }));
        assert_eq!(there.await.unwrap(), 7);
    }
}
