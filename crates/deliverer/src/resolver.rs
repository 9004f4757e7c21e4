//! The names of endpoints' hosts, looked up without a thread: bounded, cancelled with the attempt, and cached.

mod known;
mod servers;
mod system;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    str::FromStr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
    vec,
};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};
use tower_service::Service;

use self::{
    known::{Known, Silence},
    servers::Refusal,
    system::System,
};

/// The time in which most names are resolved. A look-up that takes longer makes room for others.
const QUICK: Duration = Duration::from_millis(300);

/// The two tries of a look-up that takes longer, of 5 s in all.
const PATIENT: [Duration; 2] = [Duration::from_millis(1_700), Duration::from_secs(3)];

/// The look-ups that are tried for [`QUICK`] at once. Those that nobody answers take no room from those that are
/// answered quickly, nor names that never had addresses from those that once had.
const AT_ONCE: usize = 20;

/// The sockets of each kind of look-ups that take longer: 20 look-ups at once with one name server, 6 with three.
const PATIENT_SOCKETS: usize = 120;

/// The most sockets of all look-ups together.
pub(crate) const SOCKETS: usize = AT_ONCE * servers::QUICK_SOCKETS + 2 * PATIENT_SOCKETS;

/// The names that are remembered.
const REMEMBERED: u64 = 8_192;

/// The time without a question after which a name is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// Resolves names as the files `/etc/hosts` and `/etc/resolv.conf` say.
#[derive(Clone)]
pub(crate) struct Resolver(Arc<Shared>);

struct Shared {
    system: System,
    names: moka::sync::Cache<String, Arc<Known>>,
    /// The room for look-ups that are tried for a moment, in look-ups.
    quick: Semaphore,
    /// The room for names that had addresses once, in sockets.
    patient: Semaphore,
    /// The room for names that never had any, in sockets.
    doubtful: Semaphore,
}

/// A host's name that leads nowhere.
#[derive(Debug, thiserror::Error)]
#[error("{host} does not resolve: {why}")]
pub(crate) struct Unresolved {
    host: String,
    why: Refusal,
    /// The machine's own trouble, if that is why.
    #[source]
    machine: Option<io::Error>,
}

impl Resolver {
    /// A resolver that asks these name servers, or those that `/etc/resolv.conf` names.
    pub(crate) fn new(servers: Option<&NameServers>) -> Self {
        Self(Arc::new(Shared {
            system: System::new(servers.map(|servers| servers.0.clone())),
            names: moka::sync::Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_idle(FORGOTTEN)
                .build(),
            quick: Semaphore::new(AT_ONCE),
            patient: Semaphore::new(PATIENT_SOCKETS),
            doubtful: Semaphore::new(PATIENT_SOCKETS),
        }))
    }

    /// The addresses to try, in their order: at least one and at most four.
    ///
    /// # Errors
    /// The name has no address, or nobody tells.
    pub(crate) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        let host = host.to_ascii_lowercase();
        self.0.resolve(&host).await.map_err(|why| Unresolved {
            machine: why.machine(),
            host,
            why,
        })
    }
}

impl Shared {
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        let (settings, changed) = self.system.settings();
        if changed {
            self.names.invalidate_all();
        }
        if let Some(addresses) = settings.written(host) {
            return Ok(addresses);
        }
        let known = self.names.get_with_by_ref(host, Arc::default);
        if let Some(answer) = known.answer(Instant::now()) {
            return answer;
        }
        // One attempt at a time asks for a name; if it ends before the answer, the next one asks.
        let _turn = known.turn().await;
        if let Some(answer) = known.answer(Instant::now()) {
            return answer;
        }
        let look_up = || settings.look_up(host);
        let found = if let Some(addresses) = known.good(Instant::now()) {
            // Addresses that were good a moment ago are better than a long wait.
            let Ok(found) = self.ask_quickly(&known, look_up).await else {
                return Ok(addresses);
            };
            found.unwrap_or_else(|| Err(Refusal::silent(&settings, QUICK)))
        } else {
            self.ask(&known, settings.servers.len(), look_up)
                .await
                .unwrap_or_else(|late| Err(late.refusal(&settings)))
        };
        known.learn(found, Instant::now())
    }

    /// Asks for a moment: `None` if no name server answers.
    ///
    /// # Errors
    /// There was no room to ask, which says nothing of the name.
    async fn ask_quickly<T, F: Future<Output = T>>(
        &self,
        known: &Known,
        look_up: impl Fn() -> F,
    ) -> Result<Option<T>, Late> {
        let room = timeout(QUICK, self.quick.acquire()).await;
        let _room = room.map_err(|_| Late::Crowded(AT_ONCE))?;
        let asked = known.asked();
        let found = timeout(QUICK, look_up()).await.ok();
        if found.is_some() {
            asked.answered();
        }
        Ok(found)
    }

    /// Asks so many name servers, as long as may be.
    async fn ask<T, F: Future<Output = T>>(
        &self,
        known: &Known,
        servers: usize,
        look_up: impl Fn() -> F,
    ) -> Result<T, Late> {
        let mut silent = None;
        if let Some(_room) = self.quick_room(known).await {
            let asked = known.asked();
            if let Ok(found) = timeout(QUICK, look_up()).await {
                asked.answered();
                return Ok(found);
            }
            silent = Some(asked);
        }
        let most = PATIENT.iter().sum();
        let patient = if known.was_answered() {
            &self.patient
        } else {
            &self.doubtful
        };
        let sockets = servers::sockets(servers);
        let permits = u32::try_from(sockets).unwrap_or(u32::MAX);
        let room = timeout(most, patient.acquire_many(permits)).await;
        let _room = room.map_err(|_| Late::Crowded(PATIENT_SOCKETS / sockets.max(1)))?;
        let asked = silent.unwrap_or_else(|| known.asked());
        for longest in PATIENT {
            if let Ok(found) = timeout(longest, look_up()).await {
                asked.answered();
                return Ok(found);
            }
        }
        Err(Late::Silent)
    }

    /// The room to ask for a moment. A silent name has none at first; a while later it is asked there again,
    /// as long as names that are answered leave half of it.
    async fn quick_room(&self, known: &Known) -> Option<SemaphorePermit<'_>> {
        match known.silence(Instant::now()) {
            Silence::None => self.quick.acquire().await.ok(),
            Silence::Past if self.quick.available_permits() > AT_ONCE / 2 => self.quick.try_acquire().ok(),
            Silence::Past | Silence::Fresh => None,
        }
    }
}

/// The end of a look-up without an answer.
#[derive(Debug)]
enum Late {
    /// No name server answered.
    Silent,
    /// So many others were waiting.
    Crowded(usize),
}

impl Late {
    fn refusal(&self, settings: &system::Settings) -> Refusal {
        match self {
            Self::Silent => Refusal::silent(settings, QUICK + PATIENT.iter().sum::<Duration>()),
            Self::Crowded(others) => Refusal::Crowded(*others),
        }
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.resolve(name.as_str()).await?;
            let addresses = addresses.into_iter().map(|ip| SocketAddr::new(ip, 0));
            Ok(addresses.collect::<Vec<_>>().into_iter())
        })
    }
}

/// Name servers to ask: at most three addresses, with a port if it is not 53, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServers(Vec<SocketAddr>);

impl FromStr for NameServers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let server = |text: &str| {
            let with_port = text.parse().ok();
            let address = || Some(SocketAddr::new(text.parse().ok()?, servers::PORT));
            with_port.or_else(address).ok_or_else(|| {
                "must be addresses such as 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53, separated by commas"
                    .to_owned()
            })
        };
        let servers = text.split(',').map(str::trim).map(server);
        let servers: Vec<_> = servers.collect::<Result<_, _>>()?;
        if servers.len() > system::MAX_SERVERS {
            return Err(format!("must be at most {} addresses", system::MAX_SERVERS));
        }
        Ok(Self(servers))
    }
}

impl fmt::Display for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&servers.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_have_a_port_of_their_own_or_53() {
        let read = |text: &str| text.parse::<NameServers>().map(|servers| servers.to_string());
        assert_eq!(
            read("192.0.2.1, [2001:db8::1]:5353,2001:db8::2"),
            Ok("192.0.2.1:53,[2001:db8::1]:5353,[2001:db8::2]:53".to_owned())
        );
        assert!(read("ns.example.com").is_err() && read("").is_err());
        assert!(read("10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4").is_err());
    }

    #[test]
    fn all_look_ups_together_have_few_sockets_however_many_name_servers_there_are() {
        assert_eq!(SOCKETS, 320);
        let at_once = |servers| PATIENT_SOCKETS / servers::sockets(servers);
        assert_eq!([1, 2, system::MAX_SERVERS].map(at_once), [20, 10, 6]);
    }

    #[tokio::test]
    async fn a_look_up_takes_room_for_each_name_server() {
        let shared = Resolver::new(None).0;
        let silent = Known::default();
        drop(silent.asked());
        let never = || std::future::pending::<()>();
        let waiting: Vec<_> = (0..6).map(|_| Box::pin(shared.ask(&silent, 3, never))).collect();
        let mut waiting = futures_util::future::select_all(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let left = PATIENT_SOCKETS - 6 * servers::sockets(3);
        assert_eq!(shared.doubtful.available_permits(), left);
        assert!(left < servers::sockets(3));
    }

    /// Look-ups that nobody answers wait in a room of their own.
    #[tokio::test]
    async fn names_that_nobody_answers_take_no_room_from_others() {
        let shared = Resolver::new(None).0;
        let (silent, new) = (Known::default(), Known::default());
        drop(silent.asked());
        let never = || std::future::pending::<()>();
        let waiting: Vec<_> = (0..200)
            .map(|_| Box::pin(shared.ask(&silent, 1, never)))
            .collect();
        let mut waiting = futures_util::future::select_all(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert_eq!(shared.doubtful.available_permits(), 0);
        assert_eq!(shared.patient.available_permits(), PATIENT_SOCKETS);
        assert!(shared.ask(&new, 1, || std::future::ready(())).await.is_ok());
        assert_eq!(shared.quick.available_permits(), AT_ONCE);
        drop(waiting);
        assert_eq!(
            shared.doubtful.available_permits(),
            PATIENT_SOCKETS,
            "a look-up that is given up makes room"
        );
    }

    /// An attempt may have less time than a name server takes.
    #[tokio::test]
    async fn a_name_whose_attempts_give_up_while_it_is_asked_for_goes_to_the_other_room() {
        let shared = Resolver::new(None).0;
        let known = Known::default();
        for silent in [false, true] {
            assert_eq!(known.silence(Instant::now()) != Silence::None, silent);
            let mut ask = Box::pin(shared.ask(&known, 1, std::future::pending::<()>));
            assert!(futures_util::poll!(&mut ask).is_pending());
            let free = (
                shared.quick.available_permits(),
                shared.doubtful.available_permits(),
            );
            let expected = if silent {
                (AT_ONCE, PATIENT_SOCKETS - servers::sockets(1))
            } else {
                (AT_ONCE - 1, PATIENT_SOCKETS)
            };
            assert_eq!(free, expected);
        }
    }

    fn found() -> Result<servers::Found, Refusal> {
        Ok(servers::Found {
            addresses: vec![[192, 0, 2, 1].into()],
            lasts: Duration::ZERO,
        })
    }

    /// Others take all room, which says nothing of this name.
    #[tokio::test]
    async fn a_name_that_finds_no_room_is_not_taken_for_silent() {
        let shared = Resolver::new(None).0;
        let known = Known::default();
        known.learn(found(), Instant::now()).unwrap();
        let others = shared.quick.acquire_many(u32::try_from(AT_ONCE).unwrap()).await;
        for _ in 0..3 {
            let asked = shared.ask_quickly(&known, std::future::pending::<()>).await;
            assert!(matches!(asked, Err(Late::Crowded(_))), "{asked:?}");
        }
        assert_eq!(known.silence(Instant::now()), Silence::None);
        drop(others);
        // Room that comes late leaves a look-up all of its time.
        let asked = shared.ask_quickly(&known, std::future::pending::<()>).await;
        assert!(matches!(asked, Ok(None)), "{asked:?}");
    }

    #[tokio::test]
    async fn silent_names_that_never_had_addresses_crowd_out_none_that_had() {
        let shared = Resolver::new(None).0;
        let known = Known::default();
        known.learn(found(), Instant::now()).unwrap();
        (0..3).for_each(|_| drop(known.asked()));
        assert_eq!(known.silence(Instant::now()), Silence::Fresh);
        let _others = shared
            .doubtful
            .acquire_many(u32::try_from(PATIENT_SOCKETS).unwrap())
            .await;
        assert!(shared.ask(&known, 1, || std::future::ready(())).await.is_ok());
    }

    #[tokio::test]
    async fn a_silent_name_is_asked_quickly_again_a_while_later_if_half_of_the_room_is_free() {
        let shared = Resolver::new(None).0;
        let known = Known::default();
        drop(known.asked());
        assert!(shared.quick_room(&known).await.is_none());
        known.age();
        assert!(shared.quick_room(&known).await.is_some());
        let half = u32::try_from(AT_ONCE / 2).unwrap();
        let _others = shared.quick.acquire_many(half).await;
        assert!(shared.quick_room(&known).await.is_none());
    }
}
