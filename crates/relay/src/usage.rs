//! Mistakes on the command line that the argument parser cannot see, or must not repeat.

use std::process::ExitCode;

use relay_event::Invalid;

const WRONG_USAGE: u8 = 2;

/// An argument that was refused. It does not say what was given: that may be a secret.
#[derive(Debug, thiserror::Error)]
#[error("{option}: {problem}")]
pub(crate) struct Usage {
    option: &'static str,
    problem: String,
}

impl Usage {
    pub(crate) fn new(option: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self { option, problem }
    }

    /// The refusal of `option`'s value.
    pub(crate) fn of(option: &'static str) -> impl FnOnce(Invalid) -> Self {
        move |refused| Self::new(option, refused.problem)
    }
}

/// What the shell hears of a failure: 2 for wrong usage, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Usage>() {
        ExitCode::from(WRONG_USAGE)
    } else {
        ExitCode::FAILURE
    }
}
