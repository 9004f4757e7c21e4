//! Admission: which client gets a connection, and which makes room for the next.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prometheus::Registry;
use rustix::process::{Resource, getrlimit};
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout_at},
};

use super::{Limit, Limited, Limits, network::one_address, peer::Peer, stream::ThrownAway};

/// The longest that a newcomer waits for the connection that makes room for it.
const PATIENCE: Duration = Duration::from_secs(1);

/// The part of all connections that may be without a token: a quarter.
const WITHOUT_TOKEN: usize = 4;

/// The connections that are taken however few files there are.
const FIRST_FEW: u64 = 128;

/// The new connections that have not shown a token, a second: each takes one, and gives it back with its token.
/// Those that a second leaves unused stay for the next.
#[derive(Debug)]
struct Rate {
    a_second: f64,
    left: f64,
    at: Instant,
}

impl Rate {
    fn new(a_second: usize) -> Self {
        let a_second = f64::from(u32::try_from(a_second).unwrap_or(u32::MAX));
        Self {
            a_second,
            left: a_second,
            at: Instant::now(),
        }
    }

    /// Returns the moment at which the next may be taken, if that is still to come.
    fn next(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let new = now.duration_since(self.at).as_secs_f64() * self.a_second;
        (self.left, self.at) = (self.a_second.min(self.left + new), now);
        (self.left < 1.0).then(|| now + Duration::from_secs_f64((1.0 - self.left) / self.a_second))
    }
}

/// The part of one that a refused connection takes: it costs less, and one address beyond its limit does not slow
/// the others as soon.
const REFUSED: f64 = 0.25;

/// The reason why a connection is refused.
#[derive(Debug)]
pub(super) struct Refused(pub(super) String);

/// The connections of a server.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) limits: Limits,
    pub(super) limited: Limited,
    /// The bytes of heads under way that are drawn from what all share.
    heads: AtomicUsize,
    pub(super) thrown_away: ThrownAway,
    rate: Mutex<Rate>,
    table: Mutex<Table>,
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    open: usize,
    without_token: usize,
    addresses: HashMap<IpAddr, usize>,
    /// Those that have not shown a token and are not being answered, the longest idle first.
    idle: BTreeMap<u64, Peer>,
    /// The next key of an idle one.
    next: u64,
}

enum Admission {
    Admitted(Peer),
    /// Another connection was told to make room.
    Evicting,
    Refused(Refused),
}

impl Room {
    pub(super) fn new(name: &'static str, limits: Limits, registry: &Registry) -> prometheus::Result<Self> {
        let limited = Limited::register(name, registry)?;
        let room = Self {
            rate: Mutex::new(Rate::new(limits.without_token_a_second)),
            limits,
            limited,
            heads: AtomicUsize::new(0),
            thrown_away: ThrownAway::default(),
            table: Mutex::default(),
            left: Notify::new(),
        };
        room.most();
        Ok(room)
    }

    /// The most connections at this moment: the process's limit of files may change while it runs.
    pub(super) fn most(&self) -> usize {
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = share(files, &self.limits);
        self.limited.most.set(i64::try_from(most).unwrap_or(i64::MAX));
        most
    }

    /// Resolves when the next connection may be accepted. What a stranger's connection costs, before it is known to
    /// be one, is time that the process needs for its own work.
    pub(super) async fn next(&self) {
        let mut waited = false;
        while let Some(next) = self.limits.tokens.then(|| self.rate().next()).flatten() {
            if !std::mem::replace(&mut waited, true) {
                self.limited.count(Limit::WITHOUT_TOKEN_A_SECOND);
            }
            sleep_until(next).await;
        }
    }

    /// Lets a client in, or says why not.
    pub(super) async fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Peer, Refused> {
        let admitted = self.admit_in_time(address).await;
        self.rate().left -= if admitted.is_ok() { 1.0 } else { REFUSED };
        admitted
    }

    async fn admit_in_time(self: &Arc<Self>, address: IpAddr) -> Result<Peer, Refused> {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = self.left.notified();
            let mut left = pin!(left);
            left.as_mut().enable();
            match self.try_admit(address) {
                Admission::Admitted(peer) => return Ok(peer),
                Admission::Refused(refused) => return Err(refused),
                Admission::Evicting => {
                    if timeout_at(until, left).await.is_err() {
                        self.limited.count(Limit::CONNECTIONS);
                        return Err(self.full(self.most()));
                    }
                }
            }
        }
    }

    fn try_admit(self: &Arc<Self>, address: IpAddr) -> Admission {
        let most = self.most();
        let canonical = address.to_canonical();
        let is_shared = self
            .limits
            .shared
            .iter()
            .any(|network| network.contains(canonical));
        let address = (!is_shared).then(|| one_address(address));
        let mut table = self.table();
        if let Some(address) = address
            && table
                .addresses
                .get(&address)
                .is_some_and(|open| *open >= self.limits.per_address)
        {
            self.limited.count(Limit::ADDRESS);
            let (most, setting) = (self.limits.per_address, self.limits.per_address_setting);
            return Admission::Refused(Refused(format!(
                "{address} has {most} connections, the most for one address ({setting})"
            )));
        }
        let is_full = table.open >= most;
        let crowded = self.limits.tokens && table.without_token >= (most / WITHOUT_TOKEN).max(1);
        if is_full || crowded {
            let limit = if is_full {
                Limit::CONNECTIONS
            } else {
                Limit::WITHOUT_TOKEN
            };
            self.limited.count(limit);
            return match table.evict() {
                true => Admission::Evicting,
                false => Admission::Refused(self.full(most)),
            };
        }
        table.open += 1;
        table.without_token += 1;
        if let Some(address) = address {
            *table.addresses.entry(address).or_default() += 1;
        }
        self.limited.none.inc();
        let peer = Peer::new(address, Arc::clone(self));
        table.rest(&peer);
        Admission::Admitted(peer)
    }

    fn full(&self, most: usize) -> Refused {
        let setting = self.limits.connections_setting;
        Refused(format!(
            "{most} connections are the most at the moment ({setting})"
        ))
    }

    /// Has the longest idle connection that has not shown a token end.
    pub(super) fn evict(&self) {
        self.table().evict();
    }

    /// Notes that a peer waits for its client, and may be asked to make room.
    pub(super) fn rests(&self, peer: &Peer) {
        if !peer.is_trusted() && !peer.has_left() {
            self.table().rest(peer);
        }
    }

    /// Notes that a peer is being answered, and cannot be asked to make room.
    pub(super) fn works(&self, peer: &Peer) {
        if !peer.is_trusted() {
            self.table().wake(peer);
        }
    }

    /// Notes that a peer has shown a token.
    pub(super) fn trust(&self, peer: &Peer) {
        self.rate().left += 1.0;
        let mut table = self.table();
        table.without_token -= 1;
        table.wake(peer);
        self.limited.none.dec();
        self.limited.good.inc();
    }

    /// Notes that a connection is closed.
    pub(super) fn leave(&self, peer: &Peer) {
        let mut table = self.table();
        table.open -= 1;
        table.wake(peer);
        if peer.is_trusted() {
            self.limited.good.dec();
        } else {
            table.without_token -= 1;
            self.limited.none.dec();
        }
        if let Some(address) = peer.address()
            && let Some(open) = table.addresses.get_mut(&address)
        {
            *open -= 1;
            if *open == 0 {
                table.addresses.remove(&address);
            }
        }
        drop(table);
        self.left.notify_waiters();
    }

    /// Takes so many bytes for a head from what all heads share.
    pub(super) fn take_head(&self, bytes: usize) -> bool {
        let most = self.limits.head_memory;
        let taken = self
            .heads
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |heads| {
                heads.checked_add(bytes).filter(|heads| *heads <= most)
            });
        taken.is_ok()
    }

    pub(super) fn give_head(&self, bytes: usize) {
        self.heads.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn rate(&self) -> MutexGuard<'_, Rate> {
        self.rate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn rest(&mut self, peer: &Peer) {
        self.next += 1;
        let before = peer.idle_key().swap(self.next, Ordering::Relaxed);
        self.idle.remove(&before);
        self.idle.insert(self.next, peer.clone());
    }

    fn wake(&mut self, peer: &Peer) {
        let key = peer.idle_key().swap(0, Ordering::Relaxed);
        self.idle.remove(&key);
    }

    fn evict(&mut self) -> bool {
        let evicted = self.idle.pop_first();
        if let Some((_, peer)) = &evicted {
            peer.idle_key().store(0, Ordering::Relaxed);
            peer.evict();
        }
        evicted.is_some()
    }
}

/// The connections there may be where a process may open so many files.
fn share(files: u64, limits: &Limits) -> usize {
    let left = files.saturating_sub(limits.other_files);
    let share = left.max(FIRST_FEW.min(files / 4));
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .min(limits.connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_need_stays_free() {
        let share = |files, other_files| {
            let limits = Limits {
                connections: 8_192,
                other_files,
                ..crate::server::limits()
            };
            share(files, &limits)
        };
        assert_eq!(share(65_536, 128), 8_192);
        assert_eq!(share(u64::MAX, 128), 8_192);
        assert_eq!(share(1_024, 128), 896);
        // 2,048 attempts take two files each.
        assert_eq!(share(8_192, 4_096 + 128), 3_968);
        assert_eq!(share(1_024, 4_096 + 128), 128);
        assert_eq!(share(300, 4_096 + 128), 75);
    }
}
