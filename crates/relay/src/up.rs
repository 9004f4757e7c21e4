//! `relay up`: gateway, deliverer, recorder and, unless there is one to use, a private broker in one
//! process.

mod banner;
mod lock;
mod private_broker;

use std::{fs::File, net::SocketAddr, path::PathBuf, process::ExitCode, str::FromStr, time::Duration};

use anyhow::Context as _;
use clap::{ArgMatches, Command};
use relay_broker::{Broker, BrokerUrl, Namespace};
use relay_event::Invalid;
use relay_service::{Context, ServiceArgs, args::Unshown};
use relay_store::{Store, StoreUrl};

use crate::{
    data::{DataArgs, DataFolder, Running},
    output,
    up::private_broker::PrivateBroker,
};

/// The settings of the all-in-one. Those of its parts are taken from the environment too, by the names
/// their own `--help` tells.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  relay up --data ./relay-data --listen 127.0.0.1:8080

Environment: also every setting of relay-gateway, relay-deliverer and relay-recorder, as
their --help tells, such as RELAY_MAX_EVENT_BYTES, RELAY_SOURCE, RELAY_CONFIRM_TIMEOUT,
RELAY_DRAIN_TIMEOUT, RELAY_RETAIN_EVENTS and RELAY_RETAIN_ATTEMPTS.")]
pub(crate) struct UpArgs {
    /// The data folder: the endpoints, the log, the API token, and the private broker with its events
    /// [default: $XDG_DATA_HOME/event-relay, else ~/.local/share/event-relay]
    #[arg(long, alias = "data-dir", env = "RELAY_DATA", value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Where HTTP requests are taken; every request needs the API token
    #[arg(
        long,
        env = "RELAY_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7400"
    )]
    listen: SocketAddr,

    /// The broker to use [default: a private one, started here]
    #[arg(long, env = "RELAY_AMQP_URL", value_name = "URL", hide_env_values = true, value_parser = Unshown::<BrokerUrl>::new(unshown))]
    amqp_url: Option<BrokerUrl>,

    /// The rabbitmq-server command of the private broker [default: looked for in the usual places]
    #[arg(long, env = "RELAY_RABBITMQ_SERVER", value_name = "COMMAND")]
    rabbitmq_server: Option<PathBuf>,

    /// The first word of the names of all exchanges and queues of this relay
    #[arg(long, env = "RELAY_NAMESPACE", value_name = "WORD", default_value = "relay")]
    namespace: Namespace,

    /// Where the endpoints and the log are kept: `sqlite:` and a file's path, or
    /// postgres://user:password@host/database [default: relay.db in the data folder]
    #[arg(long, env = "RELAY_STORE_URL", value_name = "URL", hide_env_values = true, value_parser = Unshown::<StoreUrl>::new(unshown))]
    store: Option<StoreUrl>,

    #[command(flatten)]
    service: ServiceArgs,
}

/// The parts of a relay that run in one process.
const PARTS: [&str; 3] = [relay_gateway::PART, relay_deliverer::PART, relay_recorder::PART];

/// Runs everything in one process.
pub(crate) fn run(args: UpArgs) -> ExitCode {
    // Before anything is listened on: the other relay on the folder has the addresses too.
    let (folder, _lock) = match own_folder(&args) {
        Ok(owned) => owned,
        Err(error) => {
            output::note(&format!("relay: {}", output::causes(&error)));
            return ExitCode::FAILURE;
        }
    };
    let service = args.service.clone();
    relay_service::run("relay", &PARTS, &service, |context| up(args, folder, context))
}

fn own_folder(args: &UpArgs) -> anyhow::Result<(DataFolder, File)> {
    let folder = DataArgs {
        data_dir: args.data.clone(),
    }
    .folder()?;
    folder.create()?;
    let lock = lock::lock(&folder)?;
    Ok((folder, lock))
}

async fn up(args: UpArgs, folder: DataFolder, context: Context) -> anyhow::Result<()> {
    let listener = relay_service::bind(args.listen, "--listen").await?;
    let address = listener.local_addr().context("could not read the HTTP address")?;

    let Some(private) = private_broker(&args, &folder, &context).await? else {
        return Ok(()); // Told to stop before there was a broker.
    };
    let parts = Parts::new(&args, &folder, &private.url()?)?;
    let store = Store::open(&parts.gateway.store).await?;
    let metrics = relay_broker::Metrics::register(&context.registry)?;
    let broker = Broker::start(parts.deliverer.broker("relay"), Some(metrics));
    let running = Running {
        url: format!("http://{address}"),
        metrics_url: format!("http://{}", context.metrics_address),
        amqp_url: parts.gateway.amqp_url.as_str().to_owned(),
        namespace: args.namespace.to_string(),
        pid: std::process::id(),
    };
    folder.write_running(&running)?;
    let serving = async {
        tokio::try_join!(
            relay_gateway::run(&parts.gateway, &context, &broker, &store, listener),
            relay_deliverer::run(&parts.deliverer, &context, &broker, &store),
            relay_recorder::run(&parts.recorder, &context, &broker, &store),
            private.attend(&context.shutdown),
            announce(&context, &folder, &running, &parts),
        )
    };
    let served = broker.serve(serving).await;
    folder.remove_running()?;
    broker.close().await;
    private.stop().await?;
    served.map(drop)
}

/// The private broker, or a stand-in for the one that is given; `None` if told to stop meanwhile.
async fn private_broker(
    args: &UpArgs,
    folder: &DataFolder,
    context: &Context,
) -> anyhow::Result<Option<PrivateBroker>> {
    if let Some(url) = &args.amqp_url {
        return Ok(Some(PrivateBroker::none(url.clone())));
    }
    let mut config = relay_local_broker::Config::new(folder.path().join("broker"));
    config.server.clone_from(&args.rabbitmq_server);
    let max_event_bytes = from_environment::<relay_gateway::Config>().max_event_bytes;
    config.settings = format!("max_message_size = {}", largest_message(max_event_bytes));
    tokio::select! {
        () = context.shutdown.cancelled() => Ok(None),
        started = PrivateBroker::start(config) => started.map(Some),
    }
}

/// The settings of what runs in here.
struct Parts {
    gateway: relay_gateway::Config,
    deliverer: relay_deliverer::Config,
    recorder: relay_recorder::Config,
    token: String,
}

impl Parts {
    fn new(args: &UpArgs, folder: &DataFolder, amqp_url: &BrokerUrl) -> anyhow::Result<Self> {
        let mut gateway: relay_gateway::Config = from_environment();
        let mut deliverer: relay_deliverer::Config = from_environment();
        let mut recorder: relay_recorder::Config = from_environment();
        let token = match std::env::var("RELAY_TOKEN")
            .ok()
            .filter(|_| gateway.token.is_some())
        {
            // Kept, so that the other commands find it.
            Some(given) => folder.keep_token(&given)?,
            None => folder.token_or_new()?,
        };
        let token = token.as_str().to_owned();
        gateway.token = Some(token.parse().context("the API token")?);
        gateway.listen = args.listen;
        gateway.limits.files_of_others = relay_deliverer::files(deliverer.max_attempts);
        let store = args
            .store
            .clone()
            .unwrap_or_else(|| StoreUrl::sqlite(folder.path().join("relay.db")));
        (gateway.store, deliverer.store, recorder.store) = (store.clone(), store.clone(), store);
        let url = || amqp_url.clone();
        (gateway.amqp_url, deliverer.amqp_url, recorder.amqp_url) = (url(), url(), url());
        let namespace = || args.namespace.clone();
        (gateway.namespace, deliverer.namespace, recorder.namespace) =
            (namespace(), namespace(), namespace());
        Ok(Self {
            gateway,
            deliverer,
            recorder,
            token,
        })
    }
}

fn unshown<T: FromStr<Err = Invalid>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|refused: Invalid| refused.problem)
}

/// The largest message that the private broker takes, in bytes: an event of the largest size with room for
/// what the relay puts around it, and a batch of attempt records, which has 1.7 MiB at the very most.
fn largest_message(max_event_bytes: usize) -> usize {
    const AT_LEAST: usize = 2 * 1024 * 1024;
    const BROKERS_OWN: usize = 512 * 1024 * 1024;
    max_event_bytes.saturating_mul(2).clamp(AT_LEAST, BROKERS_OWN)
}

/// A part's settings as its own program would take them from the environment.
fn from_environment<A: clap::Args>() -> A {
    let matches: ArgMatches = A::augment_args(Command::new("relay up")).get_matches_from(["relay up"]);
    A::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

/// Says how to go on, once everything is ready.
async fn announce(
    context: &Context,
    folder: &DataFolder,
    running: &Running,
    parts: &Parts,
) -> anyhow::Result<()> {
    const LOOK: Duration = Duration::from_millis(20);
    while !context.health.is_ready() {
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    banner::print(folder.path(), running, &parts.token);
    Ok(())
}
