//! A name server that answers, refuses or says nothing.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use tokio::net::UdpSocket;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::lock;

/// Answers questions over UDP on a free loopback port; names it was not told of do not exist. Ends when dropped.
#[derive(Debug)]
pub struct NameServer {
    addr: SocketAddr,
    names: Arc<Mutex<Names>>,
    _end: DropGuard,
}

#[derive(Debug, Default)]
struct Names {
    says: HashMap<String, Says>,
    asked: HashMap<String, usize>,
}

/// The answer of a name server about a name.
#[derive(Debug, Clone)]
pub enum Says {
    /// These addresses, which hold for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These addresses of IPv4, and that there is no such name when it is asked for IPv6: so do some (RFC 4074
    /// section 4.2).
    OnlyV4(Vec<IpAddr>, u32),
    /// There is such a name, and it has no address.
    NoAddress,
    /// There is no such name.
    NoSuchName,
    /// It cannot tell.
    ServerFailure,
    /// Nothing.
    Nothing,
}

/// The types of a question.
const A: u16 = 1;
const AAAA: u16 = 28;

impl NameServer {
    /// Listens on a free loopback port.
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let names = Arc::<Mutex<Names>>::default();
        let end = CancellationToken::new();
        let (ended, answering) = (end.clone(), answer(socket, Arc::clone(&names)));
        tokio::spawn(async move { ended.run_until_cancelled(answering).await });
        Self {
            addr,
            names,
            _end: end.drop_guard(),
        }
    }

    /// The address it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says so from now on of a name, and of all under it that nothing else was said of.
    pub fn say(&self, name: &str, says: Says) {
        lock(&self.names).says.insert(name.to_owned(), says);
    }

    /// The number of questions that came for a name.
    pub fn asked(&self, name: &str) -> usize {
        lock(&self.names).asked.get(name).copied().unwrap_or_default()
    }
}

async fn answer(socket: UdpSocket, names: Arc<Mutex<Names>>) {
    let mut question = [0; 512];
    loop {
        let (length, from) = socket
            .recv_from(&mut question)
            .await
            .expect("the name server listens");
        let answer = answer_to(&question[..length], &mut lock(&names));
        if let Some(answer) = answer {
            socket
                .send_to(&answer, from)
                .await
                .expect("the name server answers");
        }
    }
}

/// The answer to a message with one question (RFC 1035 section 4).
fn answer_to(message: &[u8], names: &mut Names) -> Option<Vec<u8>> {
    let (name, end) = name(message)?;
    let kind = u16::from_be_bytes([*message.get(end)?, *message.get(end + 1)?]);
    *names.asked.entry(name.clone()).or_default() += 1;
    let parents = name.match_indices('.').map(|(dot, _)| &name[dot + 1..]);
    let says = std::iter::once(name.as_str())
        .chain(parents)
        .find_map(|name| names.says.get(name));
    let (code, addresses, ttl) = match says {
        Some(Says::Addresses(addresses, ttl)) => (0, addresses.as_slice(), *ttl),
        Some(Says::OnlyV4(addresses, ttl)) if kind == A => (0, addresses.as_slice(), *ttl),
        Some(Says::NoAddress) => (0, &[][..], 0),
        Some(Says::NoSuchName | Says::OnlyV4(..)) | None => (3, &[][..], 0),
        Some(Says::ServerFailure) => (2, &[][..], 0),
        Some(Says::Nothing) => return None,
    };
    let data = addresses.iter().filter_map(|address| match (address, kind) {
        (IpAddr::V4(address), A) => Some(address.octets().to_vec()),
        (IpAddr::V6(address), AAAA) => Some(address.octets().to_vec()),
        _ => None,
    });
    let data: Vec<Vec<u8>> = data.collect();
    let mut answer = message[..2].to_vec();
    for number in [0x8180 | code, 1, u16::try_from(data.len()).unwrap(), 0, 0] {
        answer.extend(number.to_be_bytes());
    }
    answer.extend(&message[12..end + 4]);
    for data in data {
        answer.extend([0xc0, 12]); // the name of the question
        answer.extend(kind.to_be_bytes());
        answer.extend(1_u16.to_be_bytes());
        answer.extend(ttl.to_be_bytes());
        answer.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        answer.extend(data);
    }
    Some(answer)
}

/// The name that a message asks for, in lower case, and the place behind it.
fn name(message: &[u8]) -> Option<(String, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        let label = message.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        at += length;
    }
}
