//! What the figures were measured on, and with.

use std::fs;
use std::path::Path;
use std::process::Command;

use relay_testkit::PrivateBroker;
use serde_json::{Value, json};

/// The machine and the versions, each with its name.
pub(crate) fn describe(broker: &PrivateBroker) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    json!({
        "relay": said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        "build": build,
        "rustc": said("rustc", &["--version"]),
        "broker": broker_version(broker.folder()),
        "cpu": after("/proc/cpuinfo", "model name"),
        "cores": cores,
        "memory": memory(),
        "kernel": fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
    })
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    output
        .ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(unknown)
}

/// What stands after a name and a colon in one of the kernel's files.
fn after(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.unwrap_or_else(unknown)
}

fn memory() -> String {
    let total = after("/proc/meminfo", "MemTotal");
    let kib = total.trim_end_matches(" kB").parse::<f64>();
    kib.map_or(total, |kib| format!("{:.1} GiB", kib / 1024.0 / 1024.0))
}

/// RabbitMQ and Erlang, as the broker's log says when it starts.
fn broker_version(folder: &Path) -> String {
    let logs = fs::read_dir(folder.join("log")).into_iter().flatten();
    let texts = logs.filter_map(|log| fs::read(log.ok()?.path()).ok());
    let mut found = texts.filter_map(|text| {
        let text = String::from_utf8_lossy(&text);
        let (_, version) = text.split_once("Starting RabbitMQ ")?;
        Some(format!("RabbitMQ {}", version.lines().next()?.trim()))
    });
    found.next().unwrap_or_else(unknown)
}

fn unknown() -> String {
    "unknown".to_owned()
}
