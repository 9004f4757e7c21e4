use std::{
    fs::File,
    io::BufReader,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{
    NOT_SENT_AGAIN, NOTHING, PublishArgs, Via, amqp, http,
    lines::{self, Lines},
    window::Published,
};
use crate::{found::largest_event, output, progress::Progress, usage::stopped};

/// Publishes a file: first all of it is checked, then all of it is sent.
pub(super) async fn publish(path: &Path, args: &PublishArgs) -> anyhow::Result<()> {
    let stop = relay_service::shutdown_on_signals();
    let (mut lines, name) = open(path, &stop).await?;
    lines.skip_to(args.from_line)?;
    let total = lines::check(&mut lines, || !stop.is_cancelled()).context(name)?;
    if total == 0 {
        output::say("0 events confirmed: there are none in the file");
        return Ok(());
    }
    lines.rewind().context("cannot read the file again")?;
    lines.skip_to(args.from_line)?;

    let began = Instant::now();
    let progress = Progress::new(total, "events");
    let published = match args.via()? {
        Via::Amqp => amqp::publish(&args.relay(), &mut lines, &progress, &stop).await?,
        Via::Http => http::publish(&args.relay(), &mut lines, &progress, &stop).await?,
    };
    drop(progress);
    conclude(published, began.elapsed(), &stop)
}

/// The lines of a file, or of stdin, and what that is called.
async fn open(path: &Path, stop: &CancellationToken) -> anyhow::Result<(Lines<BufReader<File>>, String)> {
    let most = largest_event()?;
    if path != Path::new("-") {
        return Ok((lines::open(path, most)?, path.display().to_string()));
    }
    let kept = tokio::select! {
        kept = spawn_blocking(move || lines::keep_stdin(most)) => kept?,
        () = stop.cancelled() => return Err(stopped(NOTHING)),
    };
    Ok((kept?, "stdin".to_owned()))
}

fn conclude(published: Published, took: Duration, stop: &CancellationToken) -> anyhow::Result<()> {
    let confirmed = output::count(published.confirmed, "event");
    output::say(&format!("{confirmed} confirmed in {:.1} s", took.as_secs_f64()));
    if published.repeated > 0 {
        let repeated = output::count(published.repeated, "event");
        output::note(&format!(
            "of these, {repeated} had been published before: {NOT_SENT_AGAIN}"
        ));
    }
    if let Some(line) = published.go_on_from {
        let twice = if stop.is_cancelled() {
            ""
        } else {
            ", once that is mended"
        };
        output::note(&format!(
            "go on with --from-line {line}{twice}; some events after it may be published twice, with the same ids"
        ));
    }
    published.failure.map_or(Ok(()), Err)
}
