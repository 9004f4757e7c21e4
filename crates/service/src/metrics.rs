//! The registry that a process's metrics are kept in.

use std::time::{SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, IntGaugeVec, Opts, Registry};

/// A registry of its own, with the version and the start of this process in it.
pub fn registry() -> Registry {
    let registry = Registry::new();
    let build = IntGaugeVec::new(
        Opts::new("relay_build_info", "The relay's version, as a label; always 1."),
        &["version"],
    )
    .expect("the name and the label are valid");
    build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    let started = Gauge::new(
        "process_start_time_seconds",
        "When this process started, in seconds since 1970.",
    )
    .expect("the name is valid");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    started.set(now.as_secs_f64());
    registry
        .register(Box::new(build))
        .and_then(|()| registry.register(Box::new(started)))
        .expect("a fresh registry holds neither yet");
    registry
}
