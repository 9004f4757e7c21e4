//! The port of a server: chosen once, then kept.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// Below what systems hand out to outgoing connections, which would come and go under us.
const FIRST: u16 = 10_000;
const COUNT: u16 = 15_000;

const ATTEMPTS: u16 = 1_000;

/// A port of this machine, kept from everybody but programs that were told to use it, so that a server
/// which is down finds it free when it comes back.
///
/// The socket is bound, not listening, and allows its address to be reused, as servers do; whoever
/// chooses a port does not, so gets another one.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _kept: Option<TcpSocket>,
}

impl Port {
    /// A free port, which no other chooser on this machine gets meanwhile.
    pub(crate) fn choose() -> Result<Self, String> {
        (0..ATTEMPTS)
            .find_map(|attempt| {
                let random = RandomState::new().hash_one(attempt) % u64::from(COUNT);
                let number = FIRST + u16::try_from(random).ok()?;
                let socket = bind(number).ok()?;
                // Other systems let nobody bind beside us, so there it is only free at this moment.
                let kept = cfg!(target_os = "linux").then_some(socket);
                Some(Self { number, _kept: kept })
            })
            .ok_or_else(|| "no port of this machine is free".into())
    }
}

fn bind(number: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, number)))?;
    socket.set_reuseaddr(true)?;
    Ok(socket)
}
