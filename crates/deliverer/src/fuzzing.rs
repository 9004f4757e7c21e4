//! Entry points for fuzzers: what a receiver answers.

use std::time::SystemTime;

/// Takes the value of a header `Retry-After`.
pub fn retry_after(data: &[u8]) {
    let value = String::from_utf8_lossy(data);
    let _ = crate::post::retry_after(&value, SystemTime::UNIX_EPOCH);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    #[test]
    fn what_fuzzing_found_stays_mended() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/retry_after");
        for input in fs::read_dir(corpus).unwrap() {
            super::retry_after(&fs::read(input.unwrap().path()).unwrap());
        }
    }
}
