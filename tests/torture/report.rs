//! What a run comes to, for people and for programs.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde::Serialize;

use crate::{
    balance::{Problem, Tally},
    cast::Actor,
    plan::{Plan, Role},
};

/// Problems that are shown.
const SHOWN: usize = 20;

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: u64,
    pub(crate) cluster: bool,
    pub(crate) database: &'static str,
    pub(crate) passed: bool,
    pub(crate) tally: Tally,
    /// How often each kind of trouble struck, and how often it could not.
    pub(crate) strikes: BTreeMap<String, (u32, u32)>,
    /// From the end of the troubles until everything was delivered and recorded, in seconds.
    pub(crate) settled_after: f64,
    pub(crate) processes: BTreeMap<Role, Process>,
    /// What RabbitMQ held for consumers that are no more, until its queue got another leader.
    pub(crate) held_by_nobody: Vec<String>,
    pub(crate) problems: Vec<Problem>,
}

/// The worst of one kind of process.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Process {
    /// The longest time one was not ready, its restarts included, in seconds.
    pub(crate) longest_unready: f64,
    pub(crate) most_memory_mb: u64,
}

impl Report {
    pub(crate) fn new(plan: &Plan, cast: &[std::sync::Arc<Actor>], settled_after: Duration) -> Self {
        let mut report = Self {
            seed: plan.seed,
            seconds: plan.lasts.as_secs(),
            cluster: plan.cluster,
            database: if plan.postgres { "PostgreSQL" } else { "SQLite" },
            passed: false,
            tally: Tally::default(),
            strikes: BTreeMap::new(),
            settled_after: settled_after.as_secs_f64(),
            processes: BTreeMap::new(),
            held_by_nobody: Vec::new(),
            problems: Vec::new(),
        };
        for actor in cast {
            let past = actor.past();
            let worst = report.processes.entry(actor.role).or_default();
            worst.longest_unready = worst.longest_unready.max(past.longest_unready.as_secs_f64());
            worst.most_memory_mb = worst.most_memory_mb.max(past.most_memory_kb / 1024);
            report
                .problems
                .extend(past.ended_by_itself.into_iter().map(|what| Problem {
                    event: "-".to_owned(),
                    endpoint: None,
                    what: format!("{}: {what}", actor.name()),
                    known: String::new(),
                }));
        }
        report
    }

    /// Adds what the balance came to.
    pub(crate) fn balanced(&mut self, problems: Vec<Problem>, tally: Tally) {
        self.problems.extend(problems);
        self.tally = tally;
        self.passed = self.problems.is_empty();
    }

    /// A run that came to no balance.
    pub(crate) fn failed(&mut self, what: String) {
        self.passed = false;
        self.problems.push(Problem {
            event: "-".to_owned(),
            endpoint: None,
            what,
            known: String::new(),
        });
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tally, .. } = self;
        let broker = if self.cluster { "three nodes" } else { "one node" };
        writeln!(
            f,
            "\nseed {}, {} s, {broker}, {}\n",
            self.seed, self.seconds, self.database
        )?;
        let dead: usize = tally.dead.values().sum();
        let rows: [(&str, u64); 12] = [
            ("events confirmed", tally.confirmed as u64),
            ("events neither confirmed nor refused", tally.unknown as u64),
            ("events sent again by their producers", tally.sent_again as u64),
            ("events in the log", tally.logged as u64),
            ("endpoints", tally.endpoints as u64),
            ("deliveries owed for certain", tally.owed as u64),
            ("delivered", tally.delivered as u64),
            ("  of these more than once", tally.delivered_twice as u64),
            ("  the most of one", u64::from(tally.most_of_one)),
            ("requests that were no delivery", tally.failed_attempts),
            ("dead letters", dead as u64),
            ("problems", self.problems.len() as u64),
        ];
        for (name, value) in rows {
            writeln!(f, "{name:<40} {value:>9}")?;
        }
        for (reason, count) in &tally.dead {
            writeln!(f, "{:<40} {count:>9}", format!("dead: {reason}"))?;
        }
        writeln!(f, "{:<40} {:>9.1}", "settled after, s", self.settled_after)?;
        for (role, process) in &self.processes {
            let role = role.as_str();
            writeln!(
                f,
                "{:<40} {:>9.1}",
                format!("{role} longest not ready, s"),
                process.longest_unready
            )?;
            writeln!(
                f,
                "{:<40} {:>9}",
                format!("{role} most memory, MiB"),
                process.most_memory_mb
            )?;
        }
        writeln!(f)?;
        for (deed, (times, skipped)) in &self.strikes {
            let skipped = if *skipped > 0 {
                format!(" ({skipped} skipped)")
            } else {
                String::new()
            };
            writeln!(f, "{deed:<40} {times:>9}{skipped}")?;
        }
        for held in &self.held_by_nobody {
            write!(f, "\nHELD for a consumer that is no more: {held}")?;
        }
        for Problem {
            event,
            endpoint,
            what,
            known,
        } in self.problems.iter().take(SHOWN)
        {
            let endpoint = endpoint
                .as_ref()
                .map(|name| format!(" → {name}"))
                .unwrap_or_default();
            write!(f, "\nPROBLEM {event}{endpoint}: {what}\n        {known}")?;
        }
        if self.problems.len() > SHOWN {
            write!(f, "\n… and {} more", self.problems.len() - SHOWN)?;
        }
        Ok(())
    }
}
