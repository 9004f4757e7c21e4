//! Entry points for fuzzers: what stands in a query.

use relay_event::Timestamp;

use crate::{cursor::Cursor, moment::Moment};

/// Takes a text as a cursor and as a time.
///
/// # Panics
/// A cursor is written as one that is not read alike.
pub fn query(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    if let Ok(cursor) = Cursor::try_from(text.clone()) {
        assert_eq!(Cursor::try_from(cursor.to_string()), Ok(cursor));
    }
    if let Ok(moment) = Moment::try_from(text) {
        let _ = moment.seen_at(Timestamp::default());
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn what_fuzzing_found_stays_mended() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/query");
        for input in fs::read_dir(corpus).unwrap() {
            super::query(&fs::read(input.unwrap().path()).unwrap());
        }
    }
}
