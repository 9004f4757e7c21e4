//! Text files as others' tools write them: with a byte order mark, or in UTF-16.

use std::io::{self, BufRead, Cursor, Read};

const MARK: char = '\u{feff}';

/// Text without the byte order mark that may stand before it.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The bytes of a line without the byte order mark that may stand before it.
pub(crate) fn line_without_mark(line: &[u8]) -> &[u8] {
    line.strip_prefix("\u{feff}".as_bytes()).unwrap_or(line)
}

/// Begins to read text in UTF-8, and skips its byte order mark.
///
/// # Errors
/// It is UTF-16, or cannot be read.
pub(crate) fn begin(mut reader: impl BufRead) -> io::Result<impl BufRead> {
    let mut head = Vec::new();
    reader.by_ref().take(4).read_to_end(&mut head)?;
    if is_utf_16(&head) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is UTF-16, and must be UTF-8",
        ));
    }
    let head = line_without_mark(&head).to_vec();
    Ok(Cursor::new(head).chain(reader))
}

/// Knows UTF-16 by its byte order mark, or by a zero among the first two bytes, as in all text that begins with
/// ASCII.
fn is_utf_16(head: &[u8]) -> bool {
    match head {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => true,
        [first, second, ..] => (*first == 0) != (*second == 0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        begin(bytes)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_mark_is_skipped_once_and_utf_16_is_refused() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"a", "a"),
            (b"\xef\xbb\xbf", ""),
            (b"\xef\xbb\xbfab", "ab"),
            (b"\xef\xbb\xbf\xef\xbb\xbfa", "\u{feff}a"),
            ("日本語".as_bytes(), "日本語"),
        ] {
            assert_eq!(read(bytes).unwrap(), text);
        }
        for bytes in [&b"\xff\xfea\0"[..], b"\xfe\xff\0a", b"a\0b\0", b"\0a\0b"] {
            let refused = read(bytes).unwrap_err().to_string();
            assert!(refused.contains("UTF-16"), "{refused}");
        }
    }
}
