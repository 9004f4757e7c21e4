//! What a command that did not simply succeed tells the shell: mistakes on the command line that the argument
//! parser cannot see or must not repeat, and findings.

use std::process::ExitCode;

use relay_event::Invalid;

const WRONG_USAGE: u8 = 2;

/// What a shell reports of a program that was interrupted, and what a second signal ends with.
const INTERRUPTED: u8 = 130;

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

/// What a command found that did its work, with the exit code that its `--help` names for it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Finding {
    code: u8,
    text: String,
}

impl Finding {
    pub(crate) fn new(code: u8, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, text }
    }
}

/// A signal came before the end.
pub(crate) fn stopped(text: impl Into<String>) -> anyhow::Error {
    Finding::new(INTERRUPTED, text).into()
}

/// What the shell hears of an end that is no success: 2 for wrong usage, a finding's own code, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    match error.downcast_ref::<Finding>() {
        Some(finding) => ExitCode::from(finding.code),
        None if error.is::<Usage>() => ExitCode::from(WRONG_USAGE),
        None => ExitCode::FAILURE,
    }
}
