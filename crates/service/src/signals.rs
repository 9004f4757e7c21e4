use std::process;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What a shell reports of a program that was interrupted.
const INTERRUPTED: i32 = 130;

/// A token that SIGINT or SIGTERM cancels. A second signal ends the process at once.
///
/// # Panics
/// Outside a tokio runtime.
pub fn shutdown_on_signals() -> CancellationToken {
    let listen = |kind| signal(kind).expect("SIGINT and SIGTERM may be listened to");
    let mut interrupt = listen(SignalKind::interrupt());
    let mut terminate = listen(SignalKind::terminate());
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        let signal = either(&mut interrupt, &mut terminate).await;
        info!(
            signal,
            "draining: what is under way is finished, a second signal ends it at once"
        );
        token.cancel();
        let signal = either(&mut interrupt, &mut terminate).await;
        warn!(signal, "ended before everything under way was finished");
        process::exit(INTERRUPTED);
    });
    shutdown
}

async fn either(interrupt: &mut Signal, terminate: &mut Signal) -> &'static str {
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    }
}
