use std::{fmt, time::Duration};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::output;

/// A bar on a terminal; nothing where stderr is none.
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar for `total` steps of something, such as `events`.
    pub(crate) fn new(total: u64, what: &'static str) -> Self {
        // A bar moves the cursor, which a terminal may not be able to.
        let target = match std::env::var_os("TERM") {
            Some(term) if term == "dumb" => ProgressDrawTarget::hidden(),
            _ => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let template = format!("{{bar:40}} {{pos}} of {{len}} {what}, {{rate}}, {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
                let _ = write!(text, "{:.0}/s", state.per_sec());
            };
            bar.set_style(style.with_key("rate", rate));
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// No bar at all, where there is nothing to count.
    pub(crate) fn none() -> Self {
        Self(ProgressBar::hidden())
    }

    /// One step done.
    pub(crate) fn step(&self) {
        self.steps(1);
    }

    /// So many steps done.
    pub(crate) fn steps(&self, number: u64) {
        self.0.inc(number);
    }

    /// A note for people, above the bar.
    pub(crate) fn note(&self, text: &str) {
        self.0.suspend(|| output::note(text));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
