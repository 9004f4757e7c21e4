//! The relay's queues as the other crates know them.

use std::fmt;

/// A queue of the relay. Its name is for this crate alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Queue {
    /// Events on their way to the endpoints. Any number of consumers.
    Work,
    /// Events that [`Self::Work`] returned 20 times, or whose producer set an expiration that is over. One
    /// consumer at a time.
    WorkLate,
    /// Events on their way to the log. One consumer at a time, like all that follow except
    /// [`Self::Again`], [`Self::Dispatch`] and [`Self::Dead`].
    Archive,
    /// Events that [`Self::Archive`] returned 20 times, or whose producer set an expiration that is over.
    ArchiveLate,
    /// Events that claim to have been moved by a broker, which only a broker may say. They went nowhere else.
    Suspects,
    /// Retries that have come due, replays and redeliveries, each addressed to one endpoint.
    Again,
    /// Batches of held deliveries, each addressed to one endpoint.
    Dispatch,
    /// Records of attempts, and a copy of each dead letter, on their way to the log.
    Records,
    /// Records of held deliveries on their way to the log, and what [`Self::Again`] and [`Self::Dispatch`]
    /// returned 20 times.
    Holds,
    /// Records of matches that were made without the store, on their way to be looked at with it.
    BlindMatches,
    /// Dead letters.
    Dead,
}

impl Queue {
    /// Every queue.
    pub const ALL: [Self; 11] = [
        Self::Work,
        Self::WorkLate,
        Self::Archive,
        Self::ArchiveLate,
        Self::Suspects,
        Self::Again,
        Self::Dispatch,
        Self::Records,
        Self::Holds,
        Self::BlindMatches,
        Self::Dead,
    ];

    /// The word for the queue, as in metrics and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::WorkLate => "work_late",
            Self::Archive => "archive",
            Self::ArchiveLate => "archive_late",
            Self::Suspects => "suspects",
            Self::Again => "again",
            Self::Dispatch => "dispatch",
            Self::Records => "records",
            Self::Holds => "holds",
            Self::BlindMatches => "blind_matches",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
