//! The memory of requests' bodies, which all requests share.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::{Bytes, BytesMut};
use prometheus::IntGauge;

use crate::problem::{Kind, Problem};

/// The memory that all bodies together may take. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct BodyMemory(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    taken: AtomicUsize,
    gauge: IntGauge,
}

impl BodyMemory {
    pub(crate) fn new(most: usize, gauge: IntGauge) -> Self {
        Self(Arc::new(Shared {
            most,
            taken: AtomicUsize::new(0),
            gauge,
        }))
    }

    /// A body that begins.
    pub(crate) fn begin(&self) -> Growing {
        Growing {
            bytes: BytesMut::new(),
            memory: self.clone(),
        }
    }

    /// Takes the memory of a body that the gateway wrote itself.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn hold(&self, bytes: usize) -> Result<Held, Problem> {
        self.take(bytes)?;
        Ok(Held {
            bytes,
            memory: self.clone(),
        })
    }

    fn take(&self, bytes: usize) -> Result<(), Problem> {
        let shared = &self.0;
        let taken = shared
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                taken.checked_add(bytes).filter(|taken| *taken <= shared.most)
            });
        match taken {
            Ok(_) => shared.gauge.add(i64::try_from(bytes).unwrap_or(i64::MAX)),
            Err(_) => {
                let most = shared.most;
                let detail = format!(
                    "the bodies of all requests may have {most} bytes together (--body-memory, RELAY_BODY_MEMORY); nothing was changed, send it again"
                );
                return Err(Problem::new(Kind::Busy, detail));
            }
        }
        Ok(())
    }

    fn give_back(&self, bytes: usize) {
        self.0.taken.fetch_sub(bytes, Ordering::Relaxed);
        self.0.gauge.sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// A body as it comes. Its memory is given back when the last that holds any of it is dropped.
#[derive(Debug)]
pub(crate) struct Growing {
    bytes: BytesMut,
    memory: BodyMemory,
}

impl Growing {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds what came.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn extend(&mut self, chunk: &[u8]) -> Result<(), Problem> {
        self.memory.take(chunk.len())?;
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// The whole body.
    pub(crate) fn whole(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Growing {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Growing {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes.len());
    }
}

/// The memory of a body, until this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    bytes: usize,
    memory: BodyMemory,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_its_memory_as_long_as_anything_of_it_is_held() {
        let gauge = IntGauge::new("bytes", "Bytes.").unwrap();
        let memory = BodyMemory::new(10, gauge.clone());
        let mut body = memory.begin();
        body.extend(b"12345678").unwrap();
        assert!(memory.begin().extend(b"123").is_err());
        let whole = body.whole();
        let part = whole.slice(2..4);
        drop(whole);
        assert_eq!(gauge.get(), 8);
        assert_eq!(&part[..], b"34");
        drop(part);
        assert_eq!(gauge.get(), 0);
        assert!(memory.begin().extend(b"1234567890").is_ok());
    }
}
