//! Streams, sockets and requests that wait: how many a token may have, and all together.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use relay_service::connections::Limited;

use crate::{
    limits::Limit,
    problem::{Kind, Problem},
};

/// A token, by its digest; all that need none are one.
pub(crate) type TokenDigest = [u8; 32];

/// The token of some streams, and how many connections there may be at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Holder {
    pub(crate) token: TokenDigest,
    pub(crate) connections: usize,
}

/// All that are open. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    of_token: usize,
    limited: Limited,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    of: HashMap<TokenDigest, usize>,
}

impl Streams {
    /// Each token may have so many.
    pub(crate) fn new(of_token: usize, limited: Limited) -> Self {
        Self(Arc::new(Shared {
            of_token,
            limited,
            open: Mutex::default(),
        }))
    }

    /// One more, until what this returns is dropped.
    pub(crate) fn begin(&self, holder: &Holder) -> Result<OpenStream, Problem> {
        let mut open = self.open();
        let of_token = open.of.get(&holder.token).copied().unwrap_or_default();
        if of_token >= self.0.of_token {
            self.0.limited.count(Limit::STREAMS_OF_TOKEN);
            return Err(Problem::new(
                Kind::TooManyStreams,
                format!(
                    "the token has {of_token} streams, sockets and waiting requests, the most for one (--streams-per-token, RELAY_STREAMS_PER_TOKEN)"
                ),
            ));
        }
        let most = holder.connections / 2;
        if open.all >= most {
            self.0.limited.count(Limit::STREAMS);
            return Err(Problem::new(
                Kind::TooManyStreams,
                format!(
                    "there are {most} streams, sockets and waiting requests, half of the connections there may be (--max-connections, RELAY_MAX_CONNECTIONS)"
                ),
            ));
        }
        open.all += 1;
        open.of.insert(holder.token, of_token + 1);
        Ok(OpenStream {
            token: holder.token,
            streams: self.clone(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that is open.
#[derive(Debug)]
pub(crate) struct OpenStream {
    token: TokenDigest,
    streams: Streams,
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        open.all -= 1;
        if let Some(of_token) = open.of.get_mut(&self.token) {
            *of_token -= 1;
            if *of_token == 0 {
                open.of.remove(&self.token);
            }
        }
    }
}
