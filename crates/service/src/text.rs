//! Text of others, made safe to print: on a terminal it moves no cursor, turns no text around and hides
//! nothing.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory as _};

/// Returns true for a character that only shows itself. The others are controls (Cc, with line breaks and
/// tabs), format characters (Cf, with those that turn the direction of text) and the separators of lines and
/// paragraphs (Zl, Zp).
#[must_use]
pub fn is_harmless(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    !matches!(
        c.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

/// Returns the text on one line, with U+FFFD for each character that is not harmless.
#[must_use]
pub fn plain(text: &str) -> Cow<'_, str> {
    replaced(text, is_harmless, |out, _| out.push(char::REPLACEMENT_CHARACTER))
}

/// The same, with line breaks and tabs as they are.
#[must_use]
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    replaced(text, is_harmless_or_layout, |out, _| {
        out.push(char::REPLACEMENT_CHARACTER);
    })
}

/// Returns JSON of the same meaning, in which characters that are not harmless are escaped. Between the
/// tokens of JSON there are none but line breaks and tabs, which stay, and carriage returns, which go: JSON
/// has none in a string (RFC 8259 section 7), and a terminal would write over the line.
#[must_use]
pub fn escaped_json(json: &str) -> Cow<'_, str> {
    replaced(json, is_harmless_or_layout, |out, c| {
        if c == '\r' {
            return;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn is_harmless_or_layout(c: char) -> bool {
    matches!(c, '\n' | '\t') || is_harmless(c)
}

fn replaced(text: &str, stays: fn(char) -> bool, replace: fn(&mut String, char)) -> Cow<'_, str> {
    if text.chars().all(stays) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if stays(c) {
            out.push(c);
        } else {
            replace(&mut out, c);
        }
    }
    Cow::Owned(out)
}

/// Lines of the log on their way out, each of which comes whole.
pub(crate) struct LogLines<W> {
    out: W,
    json: bool,
}

impl<W: Write> LogLines<W> {
    pub(crate) fn new(out: W, json: bool) -> Self {
        Self { out, json }
    }
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(line);
        let safe = if self.json {
            escaped_json(&text)
        } else {
            // The log's own colours stay. Further lines are indented, so that none passes for another event.
            let (event, end) = match text.strip_suffix('\n') {
                Some(event) => (event, "\n"),
                None => (&*text, ""),
            };
            let event = replaced(
                event,
                |c| c == '\u{1b}' || c != '\n' && is_harmless_or_layout(c),
                |out, c| {
                    let _ = match c {
                        '\n' => out.write_str("\n    "),
                        c => write!(out, "{}", c.escape_unicode()),
                    };
                },
            );
            event + end
        };
        self.out.write_all(safe.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every character there is, by what Unicode says of its kind.
    #[test]
    fn what_moves_or_hides_is_not_harmless() {
        let harmful = [
            0..=0x1f,
            0x7f..=0x9f,
            0xad..=0xad,
            0x61c..=0x61c,
            0x200b..=0x200f,
            0x2028..=0x202e,
            0x2060..=0x2064,
            0x2066..=0x206f,
            0xfeff..=0xfeff,
            0xfff9..=0xfffb,
            0xe0001..=0xe0001,
            0xe0020..=0xe007f,
        ];
        for c in harmful.into_iter().flatten().filter_map(char::from_u32) {
            assert!(!is_harmless(c), "{:x}", u32::from(c));
        }
        for c in "aÄ日本語\u{301}\u{a0}\u{3000}👩\u{fe0f}עر\u{fffd}".chars() {
            assert!(is_harmless(c), "{c}");
        }
        // Every character that Rust calls a control is one by this table too.
        let controls = (0..=0x10_ffff)
            .filter_map(char::from_u32)
            .filter(|c| c.is_control());
        assert!(controls.into_iter().all(|c| !is_harmless(c)));
    }

    #[test]
    fn text_stays_text() {
        assert_eq!(plain("a\u{9b}b\nc\u{202e}"), "a\u{fffd}b\u{fffd}c\u{fffd}");
        assert_eq!(plain_lines("a\u{9b}\n\tb\r"), "a\u{fffd}\n\tb\u{fffd}");
        assert!(matches!(plain("harmless"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let json = "{\n\t\"\u{9b}\": [\"\\u009b \u{2028}\u{e0041}é\", 1.50]\n}";
        let escaped = escaped_json(json);
        assert_eq!(
            escaped,
            "{\n\t\"\\u009b\": [\"\\u009b \\u2028\\udb40\\udc41é\", 1.50]\n}"
        );
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(value(&escaped), value(json));
    }

    #[test]
    fn json_whose_lines_end_as_on_windows_stays_json() {
        assert_eq!(
            escaped_json("{\r\n\t\"a\\r\": [1,\r2]\r\n}\r\n"),
            "{\n\t\"a\\r\": [1,2]\n}\n"
        );
    }

    #[test]
    fn a_log_line_keeps_its_colours_and_nothing_else() {
        let written = |line: &str, json| {
            let mut out = Vec::new();
            LogLines::new(&mut out, json).write_all(line.as_bytes()).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(
            written("\u{1b}[32mINFO\u{1b}[0m of \u{202e}x\u{85}\n", false),
            "\u{1b}[32mINFO\u{1b}[0m of \\u{202e}x\\u{85}\n"
        );
        assert_eq!(
            written("WARN x error=a\n2026 ERROR forged\n", false),
            "WARN x error=a\n    2026 ERROR forged\n"
        );
        assert_eq!(written("{\"of\":\"\u{202e}\"}\n", true), "{\"of\":\"\\u202e\"}\n");
    }
}
