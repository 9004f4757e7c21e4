use std::time::Duration;

use backoff::{ExponentialBackoff, backoff::Backoff};

/// Growing waits with jitter, without end: from 100 ms to 5 s.
#[derive(Debug)]
pub struct Delays(ExponentialBackoff);

impl Delays {
    /// From the beginning.
    pub fn new() -> Self {
        Self(ExponentialBackoff {
            current_interval: Duration::from_millis(100),
            initial_interval: Duration::from_millis(100),
            randomization_factor: 0.3,
            multiplier: 2.0,
            max_interval: Duration::from_secs(5),
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    /// Waits the next delay.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.next()).await;
    }

    /// Begins again with the shortest wait.
    pub fn reset(&mut self) {
        self.0.reset();
    }

    fn next(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_and_never_end() {
        let mut delays = Delays::new();
        let waits: Vec<Duration> = (0..50).map(|_| delays.next()).collect();
        assert!(waits[0] < Duration::from_millis(200));
        assert!(waits[49] > Duration::from_secs(3) && waits[49] < Duration::from_secs(7));
        delays.reset();
        assert!(delays.next() < Duration::from_millis(200));
    }
}
