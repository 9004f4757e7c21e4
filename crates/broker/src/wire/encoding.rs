//! A body that was packed for its way: `content_encoding`, as HTTP has it.

use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use relay_event::Invalid;

/// The most bytes that are unpacked of a message that may have any size: a dead letter.
const AT_MOST: usize = 16 * 1024 * 1024;

/// The body, unpacked if it is packed. Some clients put a character set where the encoding belongs.
///
/// # Errors
/// The encoding is not known, the body is not what it says, or has more than `max_bytes` unpacked; no more
/// than that is unpacked.
pub(super) fn decoded(body: &Bytes, encoding: Option<&str>, max_bytes: usize) -> Result<Bytes, Invalid> {
    let encoding = encoding.unwrap_or_default();
    let is = |name: &&str| encoding.eq_ignore_ascii_case(name);
    if ["", "identity", "utf-8", "utf8"].iter().any(is) {
        return Ok(body.clone());
    }
    if !["gzip", "x-gzip"].iter().any(is) {
        let problem = format!("{encoding:?} is not known; send gzip or none");
        return Err(Invalid::new("content_encoding", problem));
    }
    let most = max_bytes.min(AT_MOST);
    let mut unpacked = Vec::new();
    let beyond = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    let read = MultiGzDecoder::new(&body[..])
        .take(beyond)
        .read_to_end(&mut unpacked);
    if unpacked.len() > most {
        let problem = format!("is more than {most} bytes when unpacked, which is the most that is allowed");
        return Err(Invalid::new("event", problem));
    }
    match read {
        Ok(_) => Ok(unpacked.into()),
        Err(error) => Err(Invalid::new(
            "content_encoding",
            format!("says gzip, but the body is no whole gzip file: {error}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn packed(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    fn refused(body: &[u8], encoding: &str) -> String {
        let body = Bytes::copy_from_slice(body);
        decoded(&body, Some(encoding), 1_000).unwrap_err().to_string()
    }

    #[test]
    fn gzip_is_unpacked_up_to_the_limit() {
        let full = vec![b'x'; 1_000];
        assert_eq!(decoded(&packed(&full), Some("gzip"), 1_000).unwrap(), full);
        assert_eq!(decoded(&packed(&full), Some("X-GZIP"), 1_000).unwrap(), full);
        let twice = [packed(b"ab"), packed(b"cd")].concat().into();
        assert_eq!(decoded(&twice, Some("gzip"), 1_000).unwrap(), &b"abcd"[..]);
        let bomb = packed(&vec![0; 50_000_000]);
        assert!(refused(&bomb, "gzip").contains("more than 1000 bytes when unpacked"));
    }

    #[test]
    fn what_is_no_whole_gzip_file_is_refused() {
        let file = packed(b"some text");
        for broken in [
            &file[..file.len() - 1],
            &file[..10],
            b"",
            b"{}",
            &[&file[..], b"garbage"].concat(),
        ] {
            assert!(
                refused(broken, "gzip").contains("no whole gzip file"),
                "{broken:?}"
            );
        }
    }

    #[test]
    fn any_other_encoding_is_refused_by_its_name() {
        let body = Bytes::from_static(b"{}");
        for none in ["", "identity", "UTF-8", "utf8"] {
            assert_eq!(decoded(&body, Some(none), 1).unwrap(), body);
        }
        assert_eq!(
            refused(b"{}", "deflate"),
            "content_encoding: \"deflate\" is not known; send gzip or none"
        );
    }
}
