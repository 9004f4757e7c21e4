//! One run, from the first process to the last letter.

use std::{
    any::Any,
    fs,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use relay_store::Store;
use relay_testkit::{Proxy, namespace, private_postgres, wait_until_within};
use relay_tests::Api;
use tempfile::TempDir;
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    Args,
    balance::balance,
    cast::{Actor, Script},
    changes::Office,
    crowd::Crowd,
    evidence::Inspector,
    faults::{Stage, Struck},
    ledger::{Clock, Ledger},
    load::Load,
    nodes::{Held, Nodes},
    plan::{PRODUCERS, Plan, Role},
    report::Report,
};

/// For a first start, on a machine that does other work too.
const START_LIMIT: Duration = Duration::from_secs(120);

/// Faults that do not end, and producers that get no answer, hang.
const END_LIMIT: Duration = Duration::from_secs(180);

/// Deliveries that do not become fewer for this time are stuck. The claims of a killed recorder are given up after three
/// minutes. The time that all of it takes depends on the machine.
const DRAIN_LIMIT: Duration = Duration::from_secs(300);

/// How long nothing may have waited before it is taken for all.
const QUIET: Duration = Duration::from_secs(2);

/// Of what its queues hold the broker knows after this time, at the latest.
const COUNTED: Duration = Duration::from_secs(15);

/// What the broker holds between two queues is in neither, and is offered again after 10 s.
const LATECOMERS: Duration = Duration::from_secs(40);

/// A strike that takes so much longer than its trouble is said to.
const LONG: Duration = Duration::from_secs(10);

const PROGRESS: Duration = Duration::from_secs(10);

/// What a run stands on.
struct Run {
    stage: Arc<Stage>,
    ledger: Arc<Ledger>,
    inspector: Inspector,
    load: Arc<Load>,
    gateways: Vec<Api>,
    clock: Clock,
}

/// Runs a plan to its end, whatever that is.
pub(crate) async fn run(plan: &Plan, args: &Args) -> Report {
    let folder = tempfile::Builder::new()
        .prefix("relay-torture-")
        .tempdir()
        .unwrap();
    println!(
        "seed {}: the servers start, logs in {}",
        plan.seed,
        folder.path().display()
    );
    let run = prepare(plan, args, &folder).await;
    let story = AssertUnwindSafe(run.tell(plan)).catch_unwind().await;
    let mut report = story.unwrap_or_else(|panic| {
        let mut report = Report::new(plan, &run.stage.cast, Duration::ZERO);
        report.failed(said(&*panic));
        report
    });
    report.strikes = run.stage.struck.counts();
    if args.keep || !report.passed {
        run.stage.cast.iter().for_each(|actor| actor.write_last_log());
        run.stage.broker.copy_logs(folder.path()).await;
        println!("the logs are kept in {}", folder.keep().display());
    }
    report
}

/// Starts everything, and adds the endpoints.
async fn prepare(plan: &Plan, args: &Args, folder: &TempDir) -> Run {
    let clock = Clock::start();
    let broker = match plan.cluster {
        true => Nodes::cluster().await,
        false => Nodes::single().await,
    };
    let database = match plan.postgres {
        true => Some(private_postgres().await),
        false => None,
    };
    let file = format!("sqlite:{}", folder.path().join("relay.db").display());
    let store_url = database
        .as_ref()
        .map_or(file, |database| database.url().to_owned());
    let store = Store::open(&store_url.parse().unwrap()).await.unwrap();
    let namespace = namespace();
    let mut cast = Vec::new();
    for role in Role::ALL {
        for number in 0..role.count() {
            let script = Script {
                role,
                number,
                namespace: namespace.clone(),
                brokers: broker.urls().to_vec(),
                store: store_url.clone(),
                store_is_remote: database.is_some(),
                folder: folder.path().to_owned(),
                log: args.log.clone(),
            };
            cast.push(Arc::new(Actor::hire(script).await));
        }
    }
    for actor in &cast {
        actor.start();
        let actor = Arc::clone(actor);
        tokio::spawn(async move { actor.watch().await });
    }
    let mut producers = Vec::new();
    for _ in 0..PRODUCERS {
        producers.push(Arc::new(Proxy::start_among(broker.urls()).await));
    }
    let fronts = cast.iter().filter_map(|actor| actor.front.as_ref());
    let gateways: Vec<Api> = fronts.map(|front| Api::new(&front.addr().to_string())).collect();
    let crowd = Arc::new(Crowd::gather().await);
    let ledger = Arc::new(Ledger::new(clock));
    let load = Load {
        ledger: Arc::clone(&ledger),
        crowd: Arc::clone(&crowd),
        namespace: namespace.clone(),
        rate: args.rate / (2 * PRODUCERS) as f64,
        over: AtomicBool::new(false),
    };
    let inspector = Inspector {
        broker_url: broker.urls()[0].clone(),
        namespace,
        store,
    };
    let stage = Stage {
        office: Office::new(Arc::clone(&crowd), clock, gateways.clone()),
        broker,
        database: tokio::sync::Mutex::new(database),
        cast,
        crowd,
        producers,
        struck: Struck::default(),
        clock,
    };
    Run {
        stage: Arc::new(stage),
        ledger,
        inspector,
        load: Arc::new(load),
        gateways,
        clock,
    }
}

impl Run {
    async fn tell(&self, plan: &Plan) -> Report {
        self.all_are_ready(START_LIMIT).await;
        self.stage.office.open().await;
        self.stage.broker.check().await;
        self.stage.cast.iter().for_each(|actor| actor.forget_the_start());

        let mut producers = self.publish(plan.seed);
        self.strike(plan).await;
        self.stage.heal();
        println!("{} the troubles are over", self.stamp());
        let healed = Instant::now();
        self.stage.office.resume().await;
        self.load.over.store(true, Ordering::SeqCst);
        within(END_LIMIT, "the producers' last confirms", join(&mut producers)).await;
        self.all_are_ready(END_LIMIT).await;

        let mut settled = self.settle().await;
        let mut report = Report::new(plan, &self.stage.cast, healed.elapsed());
        if let Ok(by_nobody) = &settled
            && !by_nobody.is_empty()
        {
            println!("{} held for nobody: {}", self.stamp(), by_nobody.join("; "));
            report.held_by_nobody.clone_from(by_nobody);
            self.stage.broker.move_leaders().await;
            self.all_are_ready(END_LIMIT).await;
            settled = self.settle().await;
        }
        match settled {
            Ok(_) => self.account(&mut report).await,
            Err(waiting) => report.failed(format!("for {DRAIN_LIMIT:?} no less has been waiting: {waiting}")),
        }
        report
    }

    fn publish(&self, seed: u64) -> JoinSet<()> {
        let mut producers = JoinSet::new();
        for (number, wire) in self.stage.producers.iter().enumerate() {
            let (over_amqp, over_http) = (Arc::clone(&self.load), Arc::clone(&self.load));
            producers.spawn(over_amqp.over_amqp(number, Arc::clone(wire), seed));
            producers.spawn(over_http.over_http(number, self.gateways.clone(), seed));
        }
        producers
    }

    /// Lets the schedule strike, and returns when the last trouble is over.
    async fn strike(&self, plan: &Plan) {
        let began = Instant::now();
        let mut troubles = JoinSet::new();
        let mut progress = tokio::time::interval(PROGRESS);
        for strike in &plan.strikes {
            loop {
                tokio::select! {
                    () = sleep_until(began + strike.at) => break,
                    Some(ended) = troubles.join_next() => pass_on(ended),
                    _ = progress.tick() => self.say_progress(),
                }
            }
            println!("{} {strike}", self.stamp());
            let (stage, strike, clock) = (Arc::clone(&self.stage), strike.clone(), self.clock);
            troubles.spawn(async move {
                let began = clock.now();
                stage.strike(&strike).await;
                let took = clock.now() - began;
                if took > strike.lasts + LONG {
                    println!(
                        "{} {strike}: over after {:.1} s",
                        stamp(clock),
                        took.as_secs_f64()
                    );
                }
            });
        }
        sleep_until(began + plan.lasts).await;
        within(END_LIMIT, "the end of the last trouble", join(&mut troubles)).await;
    }

    fn say_progress(&self) {
        let (sent, confirmed) = self.ledger.count();
        let arrived = self.stage.crowd.arrived();
        println!(
            "{} {sent} published, {confirmed} confirmed, {arrived} requests where all go",
            self.stamp()
        );
    }

    fn stamp(&self) -> String {
        stamp(self.clock)
    }

    async fn all_are_ready(&self, limit: Duration) {
        wait_until_within(limit, "all processes to be ready", || async {
            let cast = self.stage.cast.iter();
            let late: Vec<String> = cast
                .filter(|actor| !actor.is_ready())
                .map(|actor| actor.name())
                .collect();
            if late.is_empty() {
                Ok(())
            } else {
                Err(late.join(", "))
            }
        })
        .await;
    }

    /// Waits until nothing waits any more; otherwise what does. Answers with what nobody will settle.
    async fn settle(&self) -> Result<Vec<String>, String> {
        let (mut least, mut since) = (u32::MAX, Instant::now());
        let mut quiet_since = None;
        loop {
            let (messages, mut waiting) = self.inspector.waiting(&self.stage.cast).await;
            if messages < least {
                (least, since) = (messages, Instant::now());
            }
            if !waiting.is_empty() {
                quiet_since = None;
            } else {
                let quiet = quiet_since.get_or_insert_with(Instant::now).elapsed();
                if quiet >= QUIET {
                    let Held {
                        by_somebody,
                        by_nobody,
                    } = self.stage.broker.held().await;
                    if by_somebody.is_empty() && (by_nobody.is_empty() || quiet >= COUNTED) {
                        return Ok(by_nobody);
                    }
                    waiting = by_somebody;
                }
            }
            if !waiting.is_empty() && since.elapsed() > DRAIN_LIMIT {
                return Err(waiting.join("; "));
            }
            sleep(QUIET / 8).await;
        }
    }

    /// Strikes the balance, again while something may yet come.
    async fn account(&self, report: &mut Report) {
        let deadline = Instant::now() + LATECOMERS;
        loop {
            println!("{} the balance is struck", self.stamp());
            let evidence = self.inspector.evidence(&self.ledger, &self.stage.crowd).await;
            let (problems, tally) = balance(&evidence);
            if problems.is_empty() || Instant::now() > deadline {
                return report.balanced(problems, tally);
            }
            println!("{} {} problems: looking again", self.stamp(), problems.len());
            sleep(QUIET).await;
            let _ = self.settle().await;
        }
    }
}

fn stamp(clock: Clock) -> String {
    format!("[{:>7.1} s]", clock.now().as_secs_f64())
}

async fn within(limit: Duration, what: &str, work: impl Future<Output = ()>) {
    let done = timeout(limit, work).await;
    assert!(done.is_ok(), "waited {limit:?} for {what}");
}

async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        pass_on(ended);
    }
}

/// A task that panicked takes the run along.
fn pass_on(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        std::panic::resume_unwind(error.into_panic());
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it ended with a panic".to_owned())
}

/// Copies the files of a folder, where there are any.
pub(crate) fn copy_files(from: &Path, to: &Path, prefix: &str) {
    for file in fs::read_dir(from).into_iter().flatten().flatten() {
        let name = format!("{prefix}{}", file.file_name().display());
        let _ = fs::copy(file.path(), to.join(name)); // a log that is gone is no failure
    }
}
