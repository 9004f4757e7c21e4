//! What a command that did not simply succeed tells the shell: mistakes on the command line that the argument
//! parser cannot see or must not repeat, and findings.

use std::{error::Error as _, net::AddrParseError, num::ParseIntError, process::ExitCode};

use clap::error::{ContextKind, ContextValue};
use relay_event::Invalid;

use crate::output;

const WRONG_USAGE: u8 = 2;

/// The exit code that a shell reports of a program that was interrupted, and what a second signal ends with.
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

/// Says what is wrong with the command line: which option, what is allowed, what was given, each once.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    match in_words(error) {
        Some(text) => output::note(&format!("relay: {text}")),
        None => match error.to_string().strip_prefix("error: ") {
            Some(text) => output::note(&format!("relay: {}", without_passwords(text.trim_end()))),
            // The help; nobody is there to tell if it cannot be printed.
            None => drop(error.print()),
        },
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Hides who is named before an `@` in a URL, with the password.
fn without_passwords(text: &str) -> String {
    let hide = |word: &str| match (word.find("://"), word.rfind('@')) {
        (Some(begin), Some(end)) if begin < end => format!("{}://…{}", &word[..begin], &word[end..]),
        _ => word.to_owned(),
    };
    text.split_inclusive(char::is_whitespace).map(hide).collect()
}

/// The refusal of a value: the parser's own words around it would name the option and the value again.
fn in_words(error: &clap::Error) -> Option<String> {
    let (Some(ContextValue::String(option)), Some(ContextValue::String(given))) = (
        error.get(ContextKind::InvalidArg),
        error.get(ContextKind::InvalidValue),
    ) else {
        return None;
    };
    let why = error.source()?;
    let problem = if let Some(refused) = why.downcast_ref::<Invalid>() {
        refused.problem.clone()
    } else if why.is::<ParseIntError>() {
        "must be a whole number".to_owned()
    } else if why.is::<AddrParseError>() {
        "must be an address and a port, such as 127.0.0.1:7400".to_owned()
    } else {
        why.to_string()
    };
    let option = option.split(' ').next().unwrap_or(option);
    // Some parsers tell what was given, or the beginning of it; and a URL may hold a password.
    if given.contains('@') || problem.contains(", not ") || problem.contains(" is not in ") {
        return Some(format!("{option}: {problem}"));
    }
    Some(format!("{option}: {problem}, not {given:?}"))
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
