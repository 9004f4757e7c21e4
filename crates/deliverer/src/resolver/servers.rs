//! The asking of name servers.

use std::{
    collections::HashSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{
    StreamExt,
    future::{Either, select},
    stream::FuturesUnordered,
};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
    proto::{
        op::{DnsRequestOptions, DnsResponse, Query, ResponseCode},
        rr::{Name, RecordType},
    },
};
use tokio::time::timeout;

use super::system::Settings;
use crate::shortage::Shortage;

/// The port of name servers.
pub(super) const PORT: u16 = 53;

/// The time after which the next name server is asked too.
const NEXT: Duration = Duration::from_millis(200);

/// The time that IPv6 has once IPv4 is there, and the other way around: some name servers answer for one
/// alone (RFC 8305 section 3 has 50 ms).
const OTHER_FAMILY: Duration = Duration::from_millis(100);

/// The longest time for which one question is kept; the look-up gives up before.
const KEPT: Duration = Duration::from_secs(5);

/// The questions of a look-up to each name server: one for each family of addresses.
const FAMILIES: usize = 2;

/// The sockets that one question may hold at once: hickory repeats a question that has no answer every 333 ms or
/// later, twice, each time from a socket of its own (`UdpClientStream` of hickory-net 0.26.3).
const SENT: usize = 3;

/// The most sockets of a look-up that ends before a question is repeated and before a third name server is asked.
pub(super) const QUICK_SOCKETS: usize = 2 * FAMILIES;

/// The most sockets of a look-up that asks so many name servers.
pub(super) fn sockets(servers: usize) -> usize {
    FAMILIES * SENT * servers
}

/// The most addresses of a name that are tried.
const TRIED: usize = 4;

/// A name's addresses.
#[derive(Debug)]
pub(super) struct Found {
    /// The addresses in the order in which they are tried.
    pub(super) addresses: Vec<IpAddr>,
    /// The time for which they hold, as the name server says.
    pub(super) lasts: Duration,
}

/// The reason why a name has no address.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// It is none that can be asked for.
    NoName,
    /// A name server knows that there is no such name.
    NoSuchName,
    /// There is such a name, and it has no address.
    NoAddress,
    /// A name server does not answer the question.
    Refused(SocketAddr, ResponseCode),
    /// A name server cannot be asked, or what it says cannot be understood.
    Failed(SocketAddr, String),
    /// The machine has no file or memory to ask with.
    Machine(Option<i32>),
    /// Nobody answers.
    Silent(String, Duration),
    /// It was not asked: so many other names wait that nobody answers.
    Crowded(usize),
}

impl Refusal {
    /// No name server answered within this time.
    pub(super) fn silent(settings: &Settings, within: Duration) -> Self {
        let servers: Vec<String> = settings.servers.iter().map(ToString::to_string).collect();
        Self::Silent(servers.join(" or "), within)
    }

    /// Returns true if nobody said anything.
    pub(super) fn is_silence(&self) -> bool {
        matches!(self, Self::Silent(..) | Self::Crowded(_))
    }

    /// Returns true if it tells of the name servers, and not of the name.
    pub(super) fn is_absence(&self) -> bool {
        self.is_silence() || matches!(self, Self::Refused(..) | Self::Failed(..))
    }

    /// The machine's own trouble.
    pub(super) fn machine(&self) -> Option<io::Error> {
        match self {
            Self::Machine(code) => {
                Some(code.map_or_else(|| io::ErrorKind::OutOfMemory.into(), io::Error::from_raw_os_error))
            }
            _ => None,
        }
    }

    /// The one of two that says more: of several names that were tried, one that is not known at all may
    /// be there, and one that has no address is at least there.
    pub(super) fn or(self, other: Self) -> Self {
        let weight = |refusal: &Self| match refusal {
            Self::NoName | Self::NoSuchName => 0,
            Self::NoAddress => 1,
            _ => 2,
        };
        if weight(&other) > weight(&self) {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("it is no host name"),
            Self::NoSuchName => f.write_str("there is no such name (NXDOMAIN)"),
            Self::NoAddress => f.write_str("the name has no address"),
            Self::Refused(server, code) => write!(f, "name server {} answers {}", Shown(server), Code(*code)),
            Self::Failed(server, why) => write!(f, "name server {}: {why}", Shown(server)),
            Self::Machine(_) => f.write_str("this machine cannot ask"),
            Self::Silent(servers, within) => {
                write!(
                    f,
                    "no answer from name server {servers} within {} s",
                    within.as_secs_f64()
                )
            }
            Self::Crowded(others) => {
                write!(
                    f,
                    "it was not asked for: {others} other names wait that no name server answers"
                )
            }
        }
    }
}

/// A name server without the port that all have.
struct Shown<'a>(&'a SocketAddr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.port() {
            PORT => self.0.ip().fmt(f),
            _ => self.0.fmt(f),
        }
    }
}

/// A response code by the name that tools print.
struct Code(ResponseCode);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ResponseCode::ServFail => f.write_str("SERVFAIL"),
            ResponseCode::Refused => f.write_str("REFUSED"),
            ResponseCode::NotImp => f.write_str("NOTIMP"),
            ResponseCode::FormErr => f.write_str("FORMERR"),
            code => code.fmt(f),
        }
    }
}

/// A name server.
pub(super) struct Server {
    address: SocketAddr,
    pool: NameServerPool<TokioRuntimeProvider>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Shown(&self.address).fmt(f)
    }
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        let mut options = ResolverOpts::default();
        options.timeout = KEPT;
        options.attempts = 0;
        // Look-ups are bounded elsewhere.
        options.max_active_requests = 1_024;
        let tls = TlsConfig::new().expect("without TLS there is nothing to set up");
        let context = Arc::new(PoolContext::new(options, tls));
        let config = NameServerConfig::new(address.ip(), true, connections.to_vec());
        Self {
            address,
            pool: NameServerPool::from_config([config], context, TokioRuntimeProvider::default()),
        }
    }

    async fn ask(&self, name: Name, kind: RecordType) -> Result<Found, Refusal> {
        let options = DnsRequestOptions::default();
        let asked = self.pool.lookup(Query::query(name, kind), options).first_answer();
        match asked.await {
            Ok(response) => found(&response),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => match none.response_code {
                ResponseCode::NXDomain => Err(Refusal::NoSuchName),
                ResponseCode::NoError => Err(Refusal::NoAddress),
                code => Err(Refusal::Refused(self.address, code)),
            },
            Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(Refusal::Refused(self.address, code)),
            Err(NetError::Io(error)) if Shortage::of(&*error).is_some() => {
                Err(Refusal::Machine(error.raw_os_error()))
            }
            Err(NetError::Timeout) => Err(Refusal::Silent(self.to_string(), KEPT)),
            Err(error) => Err(Refusal::Failed(self.address, error.to_string())),
        }
    }
}

/// All addresses in an answer are of the name that was asked for, perhaps by another name (CNAME).
fn found(response: &DnsResponse) -> Result<Found, Refusal> {
    let records = response.answers.iter();
    let lasts = records.clone().map(|record| record.ttl).min().unwrap_or_default();
    let addresses: Vec<IpAddr> = records.filter_map(|record| record.data.ip_addr()).collect();
    if addresses.is_empty() {
        return Err(Refusal::NoAddress);
    }
    Ok(Found {
        addresses,
        lasts: Duration::from_secs(lasts.into()),
    })
}

/// Looks a name up for both families at once.
pub(super) async fn look_up(servers: &[Server], name: &Name) -> Result<Found, Refusal> {
    let v6 = pin!(ask_one_by_one(servers, name, RecordType::AAAA));
    let v4 = pin!(ask_one_by_one(servers, name, RecordType::A));
    let (first, second) = match select(v6, v4).await {
        Either::Left((first, second)) => (first, Either::Left(second)),
        Either::Right((first, second)) => (first, Either::Right(second)),
    };
    let second = async {
        match second {
            Either::Left(second) => second.await,
            Either::Right(second) => second.await,
        }
    };
    let found = match first {
        // A name that is not there has neither, but some name servers say so of one family alone (RFC 4074
        // section 4.2).
        Err(Refusal::NoSuchName) => match timeout(OTHER_FAMILY, second).await {
            Ok(second) => second.map_err(|other| Refusal::NoSuchName.or(other)),
            Err(_) => Err(Refusal::NoSuchName),
        },
        Ok(first) => Ok(match timeout(OTHER_FAMILY, second).await {
            Ok(Ok(second)) => Found {
                addresses: [first.addresses, second.addresses].concat(),
                lasts: first.lasts.min(second.lasts),
            },
            _ => first,
        }),
        Err(refusal) => second.await.map_err(|other| refusal.or(other)),
    }?;
    Ok(Found {
        addresses: in_order(found.addresses),
        ..found
    })
}

/// Asks the first name server, and the next one as well if that says nothing for a while, or does not know.
async fn ask_one_by_one(servers: &[Server], name: &Name, kind: RecordType) -> Result<Found, Refusal> {
    let (mut waiting, mut asked) = (servers.iter(), FuturesUnordered::new());
    let mut refused = None;
    loop {
        match waiting.next() {
            Some(server) => asked.push(server.ask(name.clone(), kind)),
            None if asked.is_empty() => return Err(refused.unwrap_or(Refusal::NoAddress)),
            None => {}
        }
        let answer = if waiting.len() == 0 {
            asked.next().await
        } else {
            timeout(NEXT, asked.next()).await.unwrap_or_default()
        };
        match answer {
            Some(Err(refusal)) if refusal.is_absence() => {
                refused = Some(refused.map_or(refusal.clone(), |before: Refusal| before.or(refusal)))
            }
            Some(answer) => return answer,
            None => {}
        }
    }
}

/// The order in which addresses are tried: IPv6 and IPv4 in turns (RFC 8305 section 4), IPv6 first if this
/// machine has a way there, and of each in the order given.
pub(super) fn in_order(mut addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut seen = HashSet::new();
    addresses.retain(|address| seen.insert(*address));
    let (v6, v4): (Vec<IpAddr>, Vec<IpAddr>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (first, second) = match v6.first() {
        Some(address) if v4.is_empty() || has_way(*address) => (v6, v4),
        _ => (v4, v6),
    };
    let longest = first.len().max(second.len());
    let in_turns = (0..longest).flat_map(|n| [first.get(n), second.get(n)]);
    in_turns.flatten().copied().take(TRIED).collect()
}

/// Returns true if the system knows a way to an address. Nothing is sent.
fn has_way(address: IpAddr) -> bool {
    let any: IpAddr = if address.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect((address, 9)).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_are_tried_in_turns_and_four_addresses_at_most() {
        assert_eq!(
            in_order(ips(&["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.3"])),
            ips(&["127.0.0.1", "127.0.0.2", "127.0.0.3"])
        );
        let both = in_order(ips(&["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1", "::2", "::3"]));
        assert_eq!(both.len(), TRIED);
        assert!(
            both.windows(2).all(|two| two[0].is_ipv4() != two[1].is_ipv4()),
            "{both:?}"
        );
    }

    #[test]
    fn of_several_names_the_refusal_that_says_most_is_told() {
        let server = SocketAddr::from(([192, 0, 2, 53], PORT));
        let broken = Refusal::Refused(server, ResponseCode::ServFail);
        assert_eq!(
            Refusal::NoSuchName
                .or(broken.clone())
                .or(Refusal::NoAddress)
                .to_string(),
            "name server 192.0.2.53 answers SERVFAIL"
        );
        assert_eq!(
            Refusal::NoSuchName.or(Refusal::NoAddress).to_string(),
            "the name has no address"
        );
    }
}
