//! The ports of a broker: chosen once, then kept.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use serde::{Deserialize, Serialize};
use tokio::net::TcpSocket;

use crate::Error;

/// Below what systems hand out to outgoing connections, which would come and go under us.
const RANGE: RangeInclusive<u16> = 10_000..=24_999;

const ATTEMPTS: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ports {
    #[serde(rename = "amqp_port")]
    pub(crate) amqp: u16,
    /// Where Erlang nodes, and so the command line tools, reach this one.
    #[serde(rename = "dist_port")]
    pub(crate) dist: u16,
    /// Where they ask for the port above.
    #[serde(rename = "epmd_port")]
    pub(crate) epmd: u16,
}

/// Ports kept from everybody but programs that were told to use them.
///
/// The sockets are bound, not listening, and allow their address to be reused, as servers
/// do; a chooser does not, so it gets another port.
#[derive(Debug)]
pub(crate) struct Reservation {
    #[expect(dead_code, reason = "bound until they are dropped")]
    sockets: Vec<TcpSocket>,
}

impl Ports {
    /// Free ports, which no other chooser on this machine gets meanwhile.
    pub(crate) fn choose() -> Result<(Self, Reservation), Error> {
        let (amqp, amqp_socket) = choose_one()?;
        let (dist, dist_socket) = choose_one()?;
        let (epmd, epmd_socket) = choose_one()?;
        let sockets = vec![amqp_socket, dist_socket, epmd_socket];
        Ok((Self { amqp, dist, epmd }, Reservation { sockets }))
    }

    /// Takes the ports that `file` remembers, or says which is taken. A node that shares its epmd with
    /// others needs none for that.
    pub(crate) fn reserve(&self, file: &Path, own_epmd: bool) -> Result<Reservation, Error> {
        self.named()
            .into_iter()
            .filter(|(_, port)| own_epmd || *port != self.epmd)
            .map(|(name, port)| {
                reserve_one(port).map_err(|source| Error::PortTaken {
                    port,
                    name,
                    path: file.to_owned(),
                    source,
                })
            })
            .collect::<Result<_, _>>()
            .map(|sockets| Reservation { sockets })
    }

    pub(crate) fn are_usable(&self) -> bool {
        let Self { amqp, dist, epmd } = *self;
        amqp != dist && dist != epmd && epmd != amqp && ![amqp, dist, epmd].contains(&0)
    }

    fn named(&self) -> [(&'static str, u16); 3] {
        [
            ("amqp_port", self.amqp),
            ("dist_port", self.dist),
            ("epmd_port", self.epmd),
        ]
    }
}

impl Reservation {
    /// What to hold while the server starts. Other systems let nobody bind beside us, so
    /// there the ports are free from here on.
    pub(crate) fn hand_over(self) -> Option<Self> {
        cfg!(target_os = "linux").then_some(self)
    }
}

fn choose_one() -> Result<(u16, TcpSocket), Error> {
    for _ in 0..ATTEMPTS {
        let port = rand::random_range(RANGE);
        if let Ok(socket) = bind(port, false) {
            socket
                .set_reuseaddr(true)
                .map_err(Error::process("share a port"))?;
            return Ok((port, socket));
        }
    }
    Err(Error::NoFreePort {
        from: *RANGE.start(),
        to: *RANGE.end(),
    })
}

fn reserve_one(port: u16) -> io::Result<TcpSocket> {
    bind(port, true)
}

fn bind(port: u16, reuse: bool) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(reuse)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn ports_chosen_at_the_same_time_differ() {
        let chosen: Vec<_> = (0..100).map(|_| Ports::choose().unwrap()).collect();
        let numbers: HashSet<u16> = chosen
            .iter()
            .flat_map(|(ports, _)| [ports.amqp, ports.dist, ports.epmd])
            .collect();
        assert_eq!(numbers.len(), 300);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_server_may_listen_on_a_reserved_port() {
        let (ports, _reservation) = Ports::choose().unwrap();
        TcpListener::bind((Ipv4Addr::LOCALHOST, ports.amqp)).unwrap();
    }

    #[test]
    fn a_port_somebody_listens_on_is_named_with_its_file() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = listener.local_addr().unwrap().port();
        let (mut ports, reservation) = Ports::choose().unwrap();
        drop(reservation);
        ports.dist = taken;
        let text = ports
            .reserve(Path::new("/x/broker.json"), true)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains(&taken.to_string()) && text.contains("/x/broker.json"),
            "{text}"
        );
        assert!(text.contains("dist_port"), "{text}");
    }
}
