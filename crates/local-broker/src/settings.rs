//! How the server is told what to do.

use std::env;
use std::ffi::OsString;
use std::path::Path;

use crate::folder::Owned;
use crate::identity::{Identity, USER, secret};
use crate::ports::Ports;
use crate::{Config, Error, Member};

/// Data belongs to this name, so it never changes. Each broker that stands alone has an epmd of its own.
const NODE: &str = "relay@localhost";

/// What of our environment the server needs. Nothing else gets through: RabbitMQ takes
/// settings even from names as common as `LOG` and `DEFAULT_USER`.
const INHERITED: [&str; 3] = ["PATH", "TMPDIR", "TZ"];

/// For every Erlang program that is started: nodes talk on loopback only.
const ERLANG_FLAGS: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

/// Of Erlang's own answer to partitions, which is at odds with RabbitMQ's; from 3.11 on it does this itself.
const MEMBER_FLAGS: &str = "-kernel prevent_overlapping_partitions false";

/// What has no name in `rabbitmq.conf`. A dead letter that comes due while the broker is starting can
/// find no exchange yet; it is offered again after this time, and not after the default of 3 minutes.
const ADVANCED: &str = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 10000}]}].\n";

/// Writes what the server reads: its settings, no plugins, and the secret of its node.
pub(crate) fn write(folder: &Owned, identity: &Identity, config: &Config) -> Result<(), Error> {
    let conf = conf(identity, &config.settings);
    folder.write(&file(folder, "rabbitmq.conf"), conf.as_bytes())?;
    folder.write(&file(folder, "advanced.config"), ADVANCED.as_bytes())?;
    folder.write(&file(folder, "enabled_plugins"), b"[].\n")?;
    let cookie = file(folder, ".erlang.cookie");
    if !cookie.exists() {
        let shared = config.member.as_ref().map(|member| member.secret.clone());
        folder.write(&cookie, shared.unwrap_or_else(secret).as_bytes())?;
    }
    Ok(())
}

fn conf(identity: &Identity, more: &str) -> String {
    let password = &identity.password;
    format!(
        "# Written at every start.
default_user = {USER}
default_pass = {password}

# The write-ahead log of the quorum queues grows to this size, on disk and in memory.
raft.wal_max_size_bytes = 67108864

# Publishers are blocked before the disk is full, whatever the size of the machine's memory.
disk_free_limit.absolute = 256MB

log.file = rabbit.log
log.file.rotation.size = 10485760
log.file.rotation.count = 3

{more}
"
    )
}

/// The environment of the server, complete.
pub(crate) fn environment(
    folder: &Owned,
    ports: &Ports,
    member: Option<&Member>,
) -> Vec<(&'static str, OsString)> {
    let inherited = INHERITED
        .into_iter()
        .filter_map(|name| env::var_os(name).map(|value| (name, value)));
    inherited
        .chain(places(folder))
        .chain(network(ports, member))
        .chain(manners())
        .collect()
}

/// Everything in our folder, and nothing from the system's settings.
fn places(folder: &Owned) -> Vec<(&'static str, OsString)> {
    vec![
        ("HOME", folder.path().into()),
        ("RABBITMQ_CONF_ENV_FILE", "/dev/null".into()),
        ("RABBITMQ_CONFIG_FILE", file(folder, "rabbitmq.conf").into()),
        ("RABBITMQ_CONFIG_FILES", file(folder, "conf.d/*.conf").into()),
        (
            "RABBITMQ_ADVANCED_CONFIG_FILE",
            file(folder, "advanced.config").into(),
        ),
        (
            "RABBITMQ_ENABLED_PLUGINS_FILE",
            file(folder, "enabled_plugins").into(),
        ),
        ("RABBITMQ_MNESIA_BASE", folder.data().into()),
        ("RABBITMQ_LOG_BASE", folder.logs().into()),
        ("RABBITMQ_PID_FILE", folder.pid_file().into()),
    ]
}

/// On loopback, all of it.
fn network(ports: &Ports, member: Option<&Member>) -> Vec<(&'static str, OsString)> {
    let node = member.map_or(NODE, |member| &member.node);
    let epmd_port = member.map_or(ports.epmd, |member| member.epmd_port);
    let flags = member.map_or(ERLANG_FLAGS.to_owned(), |_| {
        format!("{ERLANG_FLAGS} {MEMBER_FLAGS}")
    });
    vec![
        ("RABBITMQ_NODENAME", node.into()),
        ("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1".into()),
        ("RABBITMQ_NODE_PORT", ports.amqp.to_string().into()),
        ("RABBITMQ_DIST_PORT", ports.dist.to_string().into()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
        ("ERL_EPMD_PORT", epmd_port.to_string().into()),
        ("ERL_AFLAGS", flags.into()),
    ]
}

/// A good neighbour on a machine that has other work to do.
fn manners() -> Vec<(&'static str, OsString)> {
    vec![
        ("LC_ALL", "C.UTF-8".into()),
        // The script replaces itself with the VM, as it does for a service manager.
        ("RUNNING_UNDER_SYSTEMD", "true".into()),
        // A dump of a dying VM takes long, fills the disk, and tells nobody here anything.
        ("ERL_CRASH_DUMP_SECONDS", "0".into()),
        // The schedulers neither spin while idle nor sit on the same cores as those of the next VM.
        ("RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD", "none".into()),
        ("RABBITMQ_SCHEDULER_BIND_TYPE", "u".into()),
    ]
}

fn file(folder: &Owned, name: &str) -> std::path::PathBuf {
    Path::new(folder.path()).join(name)
}
