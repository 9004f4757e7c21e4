//! Parsers of settings that several processes have.

use std::{ffi::OsStr, time::Duration};

use clap::{
    Arg, Command,
    builder::TypedValueParser,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Parses a setting that holds a secret: clap's own refusals repeat what was given.
#[derive(Debug, Clone)]
pub struct Unshown<T>(fn(&str) -> Result<T, String>);

impl<T> Unshown<T> {
    /// Parses by `parse`, whose refusals must not repeat what was given either.
    pub fn new(parse: fn(&str) -> Result<T, String>) -> Self {
        Self(parse)
    }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for Unshown<T> {
    type Value = T;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<T, clap::Error> {
        let parsed = value
            .to_str()
            .ok_or_else(|| "must be UTF-8".to_owned())
            .and_then(self.0);
        parsed.map_err(|problem| {
            let name = arg.map(ToString::to_string).unwrap_or_default();
            let mut error = clap::Error::raw(ErrorKind::ValueValidation, format!("{name}: {problem}\n"));
            error.insert(ContextKind::InvalidArg, ContextValue::String(name));
            error.with_cmd(command)
        })
    }
}

/// Parses a time, which may be zero.
///
/// # Errors
/// It is no time such as `0s`, `500ms` or `10s`.
pub fn time_or_none(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "must be a time such as 0s, 500ms or 10s".to_owned())
}

/// Parses a time that is not zero.
///
/// # Errors
/// It is zero, or no time such as `500ms`, `10s` or `5m`.
pub fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("must be a time such as 500ms, 10s or 5m".to_owned()),
    }
}
