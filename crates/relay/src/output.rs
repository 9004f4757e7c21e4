//! What people and programs read: results to stdout, notes to stderr.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::value::RawValue;
use tokio::{io::Interest, net::unix::pipe};

/// A result, to stdout. A reader that has read enough (`| head`) ends the program.
pub(crate) fn say(text: &str) {
    if let Err(error) = try_say(text) {
        let enough = error.kind() == io::ErrorKind::BrokenPipe;
        std::process::exit(if enough { 0 } else { 1 });
    }
}

/// A result, to stdout, where it matters whether it was taken.
pub(crate) fn try_say(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}").and_then(|()| stdout.flush())
}

/// Returns once nobody reads stdout any more, if it is something of which that can be known, such as a
/// pipe: who has nothing to say would else never notice.
pub(crate) async fn closed() {
    // Unchecked: what is checked becomes non-blocking, which printing cannot do with.
    let stdout = io::stdout().as_fd().try_clone_to_owned();
    match stdout.and_then(pipe::Sender::from_owned_fd_unchecked) {
        Ok(stdout) => drop(stdout.ready(Interest::ERROR).await),
        Err(_) => std::future::pending().await,
    }
}

/// A note, to stderr.
pub(crate) fn note(text: &str) {
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

/// Text from elsewhere, without what would move a terminal's cursor.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// The relay's answer, laid out for people.
pub(crate) fn say_json(answer: &[u8]) -> anyhow::Result<()> {
    let text = std::str::from_utf8(answer).context("the relay's answer is no text")?;
    say(&pretty(text));
    Ok(())
}

/// Rows under a head, columns aligned.
pub(crate) fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    Table::new(head).page(rows)
}

/// A table that is shown page by page: its columns only grow.
pub(crate) struct Table<const N: usize> {
    head: Option<[String; N]>,
    widths: [usize; N],
}

impl<const N: usize> Table<N> {
    /// No rows yet.
    pub(crate) fn new(head: [&str; N]) -> Self {
        Self {
            head: Some(head.map(str::to_owned)),
            widths: [0; N],
        }
    }

    /// The next rows; the first ones have the head above them.
    pub(crate) fn page(&mut self, rows: &[[String; N]]) -> String {
        let lines: Vec<[String; N]> = self
            .head
            .take()
            .iter()
            .chain(rows)
            .map(|row| row.each_ref().map(|cell| plain(cell)))
            .collect();
        for row in &lines {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        lines
            .iter()
            .map(|row| self.aligned(row))
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn aligned(&self, row: &[String; N]) -> String {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&self.widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        line.trim_end().to_owned()
    }
}

/// The facts that are known.
pub(crate) fn known<const N: usize>(
    facts: [(&'static str, Option<String>); N],
) -> Vec<(&'static str, String)> {
    facts
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// Names and values, aligned.
pub(crate) fn block(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}", plain(value));
    facts.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// How long, in its two largest units.
pub(crate) fn roughly(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 86_400, "d"),
        (seconds / 3_600 % 24, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
    ];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    let shown = parts[first..].iter().take(2).filter(|(count, _)| *count > 0);
    let text: String = shown.map(|(count, unit)| format!("{count}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// "1 event", "2 events".
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// JSON over several lines; names, numbers and strings stay as they are, and in their order.
pub(crate) fn pretty(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut in_text, mut escaped, mut opened) = (0_usize, false, false, false);
    for c in json.chars() {
        if in_text {
            out.push(c);
            in_text = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' | '\n' | '\r' | '\t' => continue,
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                if !opened {
                    new_line(&mut out, depth);
                }
            }
            _ if opened => new_line(&mut out, depth),
            _ => {}
        }
        out.push(c);
        opened = matches!(c, '{' | '[');
        match c {
            '{' | '[' => depth += 1,
            ',' => new_line(&mut out, depth),
            ':' => out.push(' '),
            '"' => in_text = true,
            _ => {}
        }
    }
    out
}

fn new_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// JSON as it is, but on one line: line breaks between its parts become spaces.
pub(crate) fn one_line(json: &[u8]) -> Option<Box<RawValue>> {
    let text = std::str::from_utf8(json).ok()?;
    RawValue::from_string(unbroken(text).trim().to_owned()).ok()
}

/// One piece of JSON a line.
pub(crate) fn lines(items: &[Box<RawValue>]) -> String {
    let lines: Vec<String> = items.iter().map(|item| unbroken(item.get())).collect();
    lines.join("\n")
}

fn unbroken(json: &str) -> String {
    json.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = [
            ["a".to_owned(), "1".to_owned()],
            ["long".to_owned(), "2\u{1b}[2J".to_owned()],
        ];
        assert_eq!(table(["id", "n"], &rows), "id    n\na     1\nlong  2\u{fffd}[2J");
    }

    #[test]
    fn later_pages_have_no_head_and_keep_the_columns() {
        let row = |id: &str| [id.to_owned(), "1".to_owned()];
        let mut table = Table::new(["id", "n"]);
        assert_eq!(table.page(&[row("long")]), "id    n\nlong  1");
        assert_eq!(table.page(&[row("a")]), "a     1");
        assert_eq!(table.page(&[row("longer")]), "longer  1");
    }

    #[test]
    fn pretty_keeps_every_token() {
        let json = r#" {"b":1.50,"a":[],"c":{},"t":"x{,:\"\\","l":[1e2,{"z":null}]} "#;
        let expected = "{\n  \"b\": 1.50,\n  \"a\": [],\n  \"c\": {},\n  \"t\": \"x{,:\\\"\\\\\",\n  \"l\": [\n    1e2,\n    {\n      \"z\": null\n    }\n  ]\n}";
        assert_eq!(pretty(json), expected);
    }

    #[test]
    fn one_line_changes_only_line_breaks() {
        let json = b" {\n\"n\":\r\n1.50,\"t\":\"a\\nb\"}\n";
        let line = one_line(json).unwrap();
        assert_eq!(line.get(), r#"{ "n":  1.50,"t":"a\nb"}"#);
        assert!(one_line(b"{").is_none());
    }

    #[test]
    fn durations_are_short() {
        let roughly = |seconds| super::roughly(Duration::from_secs(seconds));
        assert_eq!(
            [0, 59, 60, 3_725, 86_400, 90_000].map(roughly),
            ["0s", "59s", "1m", "1h2m", "1d", "1d1h"]
        );
    }
}
