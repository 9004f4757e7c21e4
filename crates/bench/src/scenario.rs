//! What can be measured.

mod endpoints;
mod feed;
mod idle;
mod isolation;
mod latency;
mod memory;
mod outage;
mod recorder;
mod storm;
mod strangers;
mod throughput;

use std::pin::Pin;

use crate::report::Figure;

/// The kind of the events of a healthy endpoint, and the kind of the events of endpoints beside it.
const HEALTHY: usize = 0;
const OTHERS: usize = 1;

/// One thing to measure.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Deliveries a second against the floor, by every door, and to ten endpoints
    Throughput,
    /// Deliveries a second with 1,000 endpoints, each event to one of them
    Endpoints,
    /// From publish to receiver at a quarter of the greatest rate, against the floor
    Latency,
    /// A healthy endpoint beside 200 that accept and never answer
    Isolation,
    /// An endpoint that is away while 50,000 events arrive, and comes back
    Outage,
    /// 20,000 events that fail twice: how late their retries are
    Storm,
    /// Each process at its peak, with 1,000 endpoints and 100,000 events waiting
    Memory,
    /// `relay up` with nothing to do
    Idle,
    /// Deliveries a second to one endpoint, with a recorder and without
    Recorder,
    /// A healthy endpoint beside floods of connections and pings, and names that nobody answers
    Strangers,
    /// The feed, with 2,000 streams that wait, and polled with nothing new
    Feed,
}

/// How much is measured, where it is not to be as usual.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Scale {
    /// Events in each round [default: as many as the scenario says]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(10..))]
    events: Option<u32>,

    /// Rounds of each kind, in turns; a figure is the median of its rounds [default: 3, or 1 for memory]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Endpoints, where a scenario has many [default: as many as the scenario says]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    endpoints: Option<u32>,
}

impl Scale {
    fn events(self, usual: usize) -> usize {
        self.events.map_or(usual, |events| events as usize)
    }

    fn rounds(self, usual: usize) -> usize {
        self.rounds.map_or(usual, |rounds| rounds as usize)
    }

    fn endpoints(self, usual: usize) -> usize {
        self.endpoints.map_or(usual, |endpoints| endpoints as usize)
    }
}

type Figures = Pin<Box<dyn Future<Output = Vec<Figure>> + Send>>;

impl Scenario {
    /// Measures it.
    pub(crate) fn run(self, scale: Scale) -> Figures {
        match self {
            Self::Throughput => Box::pin(throughput::run(scale)),
            Self::Endpoints => Box::pin(endpoints::run(scale)),
            Self::Latency => Box::pin(latency::run(scale)),
            Self::Isolation => Box::pin(isolation::run(scale)),
            Self::Outage => Box::pin(outage::run(scale)),
            Self::Storm => Box::pin(storm::run(scale)),
            Self::Memory => Box::pin(memory::run(scale)),
            Self::Idle => Box::pin(idle::run()),
            Self::Recorder => Box::pin(recorder::run(scale)),
            Self::Strangers => Box::pin(strangers::run(scale)),
            Self::Feed => Box::pin(feed::run(scale)),
        }
    }
}
