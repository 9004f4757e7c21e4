//! What strikes when: a pure function of the seed, the duration and the kind of broker.

use std::{fmt, time::Duration};

use rand::{RngExt, SeedableRng, rngs::ChaCha8Rng, seq::SliceRandom};
use serde::Serialize;

/// Between one strike and the next, in milliseconds: several troubles at once, and all kinds of them
/// within a minute.
const GAP: std::ops::RangeInclusive<u64> = 400..=1_700;

/// Nothing strikes so near the end.
const CALM: Duration = Duration::from_secs(3);

/// Runs of at least this long also have troubles that outlast heartbeats.
const LONG_RUN: Duration = Duration::from_secs(180);

/// How many there are of each.
pub(crate) const GATEWAYS: usize = 2;
pub(crate) const DELIVERERS: usize = 3;
pub(crate) const RECORDERS: usize = 2;
pub(crate) const PRODUCERS: usize = 2;
pub(crate) const RECEIVERS: usize = 8;
pub(crate) const NODES: usize = 3;

/// Which of the relay's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    Gateway,
    Deliverer,
    Recorder,
}

impl Role {
    pub(crate) const ALL: [Self; 3] = [Self::Gateway, Self::Deliverer, Self::Recorder];

    pub(crate) fn count(self) -> usize {
        match self {
            Self::Gateway => GATEWAYS,
            Self::Deliverer => DELIVERERS,
            Self::Recorder => RECORDERS,
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Deliverer => "deliverer",
            Self::Recorder => "recorder",
        }
    }
}

/// Whose connections, and to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// A relay process's to the broker.
    Broker(Role),
    /// A relay process's to the database.
    Database,
    /// An AMQP producer's to the broker.
    Producer,
    /// A client's to a gateway.
    Gateway,
    /// Everybody's to a receiver.
    Receiver,
}

/// What happens to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Harm {
    /// Ended by a RST.
    Cut,
    /// Ended by a FIN.
    Close,
    /// Open, but no byte goes through.
    Freeze,
    /// Ended, and no new ones for a while.
    Refuse,
    /// Ended, and the next one once so many bytes have gone to the client.
    CutDown,
    /// The same for bytes to the server.
    CutUp,
}

/// What becomes of a server that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fall {
    /// SIGKILL, and started again.
    Kill,
    /// Stopped in good order, and started again.
    Stop,
}

/// What is done to an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Change {
    Add,
    Remove,
    Patterns,
    Pause,
    Move,
}

/// A kind of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Deed {
    Kill(Role),
    Terminate(Role),
    Wire(Wire, Harm),
    /// The only broker, or one node of it.
    Broker(Fall),
    /// A node that neither hears nor says anything for longer than the others wait for it.
    Isolate,
    /// All nodes at once.
    KillAllNodes,
    /// The broker takes no publishes for want of memory.
    Alarm,
    Database(Fall),
    /// A receiver listens no more for a while.
    Receiver,
    Endpoint(Change),
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(role) => write!(f, "kill -9 of a {}", role.as_str()),
            Self::Terminate(role) => write!(f, "SIGTERM of a {}", role.as_str()),
            Self::Wire(wire, harm) => {
                let harm = match harm {
                    Harm::Cut => "cut",
                    Harm::Close => "closed",
                    Harm::Freeze => "frozen",
                    Harm::Refuse => "refused",
                    Harm::CutDown => "cut amid answers",
                    Harm::CutUp => "cut amid requests",
                };
                match wire {
                    Wire::Broker(role) => write!(f, "{} to broker {harm}", role.as_str()),
                    Wire::Database => write!(f, "process to database {harm}"),
                    Wire::Producer => write!(f, "producer to broker {harm}"),
                    Wire::Gateway => write!(f, "client to gateway {harm}"),
                    Wire::Receiver => write!(f, "deliverer to receiver {harm}"),
                }
            }
            Self::Broker(Fall::Kill) => f.write_str("kill -9 of the broker or a node"),
            Self::Broker(Fall::Stop) => f.write_str("stop of the broker or a node"),
            Self::Isolate => f.write_str("node isolated"),
            Self::KillAllNodes => f.write_str("kill -9 of all nodes"),
            Self::Alarm => f.write_str("memory alarm of the broker"),
            Self::Database(Fall::Kill) => f.write_str("kill -9 of the database"),
            Self::Database(Fall::Stop) => f.write_str("stop of the database"),
            Self::Receiver => f.write_str("receiver stopped"),
            Self::Endpoint(Change::Add) => f.write_str("endpoint added"),
            Self::Endpoint(Change::Remove) => f.write_str("endpoint removed"),
            Self::Endpoint(Change::Patterns) => f.write_str("endpoint's patterns changed"),
            Self::Endpoint(Change::Pause) => f.write_str("endpoint paused"),
            Self::Endpoint(Change::Move) => f.write_str("endpoint's URL changed"),
        }
    }
}

/// One strike of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Strike {
    /// When, from the beginning of the load.
    pub(crate) at: Duration,
    /// What.
    pub(crate) deed: Deed,
    /// Which of those it may hit.
    pub(crate) target: usize,
    /// For how long the trouble stays, where it stays.
    pub(crate) lasts: Duration,
    /// After how many bytes, where they matter.
    pub(crate) bytes: usize,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deed, target, .. } = self;
        write!(f, "{deed} [{}]", target + 1)?;
        match deed {
            Deed::Wire(_, Harm::CutDown | Harm::CutUp) => write!(f, " after {} bytes", self.bytes),
            Deed::Wire(_, Harm::Cut | Harm::Close) => Ok(()),
            Deed::Endpoint(change) if *change != Change::Pause => Ok(()),
            _ => write!(f, " for {:.1} s", self.lasts.as_secs_f64()),
        }
    }
}

/// All that the seed decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) lasts: Duration,
    pub(crate) cluster: bool,
    pub(crate) postgres: bool,
    pub(crate) strikes: Vec<Strike>,
}

impl Plan {
    /// Every kind of trouble comes once before any comes again.
    pub(crate) fn new(seed: u64, lasts: Duration, cluster: bool) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        // Not drawn, so that seeds next to each other have both.
        let postgres = seed % 2 == 1;
        let (mut strikes, mut deck) = (Vec::new(), Vec::new());
        let mut at = Duration::from_secs(1);
        while at + CALM < lasts {
            if deck.is_empty() {
                deck = deeds(cluster, postgres);
                deck.shuffle(&mut random);
            }
            let Some(deed) = deck.pop() else { break };
            strikes.push(strike(at, deed, lasts, &mut random));
            at += Duration::from_millis(random.random_range(GAP));
        }
        Self {
            seed,
            lasts,
            cluster,
            postgres,
            strikes,
        }
    }
}

fn strike(at: Duration, deed: Deed, run: Duration, random: &mut ChaCha8Rng) -> Strike {
    let millis = match deed {
        // Longer than two heartbeats: only then an end notices by itself.
        Deed::Wire(_, Harm::Freeze) if run >= LONG_RUN && random.random_ratio(1, 4) => 22_000..=30_000,
        Deed::Wire(_, Harm::Freeze) => 500..=6_000,
        Deed::Isolate => 12_000..=16_000,
        Deed::Kill(_) | Deed::Terminate(_) => 0..=2_000,
        _ => 500..=4_000,
    };
    // Small enough to fall into a handshake, large enough to fall into the flow.
    let magnitude = random.random_range(4..=17_u32);
    Strike {
        at,
        deed,
        target: random.random_range(0..targets(deed)),
        lasts: Duration::from_millis(random.random_range(millis)),
        bytes: random.random_range(0..1_usize << magnitude),
    }
}

/// How many things a deed may hit.
fn targets(deed: Deed) -> usize {
    match deed {
        Deed::Kill(role) | Deed::Terminate(role) | Deed::Wire(Wire::Broker(role), _) => role.count(),
        Deed::Wire(Wire::Database, _) => GATEWAYS + DELIVERERS + RECORDERS,
        Deed::Wire(Wire::Producer, _) => PRODUCERS,
        Deed::Wire(Wire::Gateway, _) => GATEWAYS,
        Deed::Wire(Wire::Receiver, _) | Deed::Receiver => RECEIVERS,
        Deed::Broker(_) | Deed::Isolate | Deed::Alarm => NODES,
        Deed::KillAllNodes | Deed::Database(_) | Deed::Endpoint(_) => 1,
    }
}

/// Every kind of trouble there can be.
fn deeds(cluster: bool, postgres: bool) -> Vec<Deed> {
    use Harm::{Close, Cut, CutDown, CutUp, Freeze, Refuse};
    let mut deeds = Vec::new();
    for role in Role::ALL {
        deeds.extend([Deed::Kill(role), Deed::Terminate(role)]);
    }
    let to_broker = [Cut, Close, Freeze, Refuse, CutDown, CutUp];
    for (number, harm) in to_broker.into_iter().enumerate() {
        deeds.push(Deed::Wire(Wire::Broker(Role::Deliverer), harm));
        let other = [Role::Gateway, Role::Recorder][number % 2];
        deeds.push(Deed::Wire(Wire::Broker(other), harm));
    }
    deeds.extend([Cut, Refuse, CutUp].map(|harm| Deed::Wire(Wire::Producer, harm)));
    deeds.extend([Cut, CutDown].map(|harm| Deed::Wire(Wire::Gateway, harm)));
    deeds.extend([Cut, Freeze, CutDown, CutUp].map(|harm| Deed::Wire(Wire::Receiver, harm)));
    deeds.extend([Deed::Receiver, Deed::Alarm]);
    deeds.extend([Fall::Kill, Fall::Stop].map(Deed::Broker));
    if cluster {
        deeds.extend([Deed::Broker(Fall::Kill), Deed::Isolate, Deed::KillAllNodes]);
    }
    if postgres {
        deeds.extend([Cut, Close, Freeze, Refuse, CutDown].map(|harm| Deed::Wire(Wire::Database, harm)));
        deeds.extend([Fall::Kill, Fall::Stop].map(Deed::Database));
    }
    use Change::{Add, Move, Patterns, Pause, Remove};
    deeds.extend([Add, Add, Remove, Patterns, Patterns, Pause, Move, Move].map(Deed::Endpoint));
    deeds
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_same_seed_gives_the_same_schedule() {
        for cluster in [false, true] {
            let plan = Plan::new(7, 5 * MINUTE, cluster);
            assert_eq!(plan, Plan::new(7, 5 * MINUTE, cluster));
            assert_ne!(plan.strikes, Plan::new(9, 5 * MINUTE, cluster).strikes);
        }
    }

    /// So that a seed means the same next year, and on another machine.
    #[test]
    fn a_seed_is_for_good() {
        let plan = Plan::new(1, MINUTE, false);
        let first: Vec<String> = plan.strikes.iter().take(3).map(Strike::to_string).collect();
        assert_eq!(first, FIRST_OF_SEED_1);
    }

    const FIRST_OF_SEED_1: [&str; 3] = [
        "receiver stopped [8] for 2.2 s",
        "endpoint added [1]",
        "kill -9 of a deliverer [3] for 2.0 s",
    ];

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        for (cluster, seed) in [(false, 1), (false, 2), (true, 3), (true, 4)] {
            let plan = Plan::new(seed, MINUTE, cluster);
            let all: HashSet<Deed> = deeds(cluster, plan.postgres).into_iter().collect();
            let round = deeds(cluster, plan.postgres).len();
            let struck: HashSet<Deed> = plan
                .strikes
                .iter()
                .take(round)
                .map(|strike| strike.deed)
                .collect();
            assert_eq!(struck, all);
        }
    }

    #[test]
    fn strikes_are_in_order_within_the_run_and_hit_something() {
        let plan = Plan::new(3, 10 * MINUTE, true);
        assert!(plan.strikes.is_sorted_by_key(|strike| strike.at));
        assert!(
            plan.strikes
                .last()
                .is_some_and(|last| last.at + CALM < plan.lasts)
        );
        assert!(
            plan.strikes
                .iter()
                .all(|strike| strike.target < targets(strike.deed))
        );
    }
}
