use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// A network of addresses, such as `10.0.0.0/8`; or no network, to be given instead of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(Option<IpNet>);

impl Network {
    /// This machine.
    pub fn loopback() -> Vec<Self> {
        ["127.0.0.0/8", "::1/128"]
            .into_iter()
            .filter_map(|text| text.parse().ok())
            .collect()
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        self.0.is_some_and(|network| network.contains(&address))
    }
}

impl FromStr for Network {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const ALLOWED: &str = "must be a network such as 10.0.0.0/8 or fd00::/8, an address, or none";
        if text == "none" {
            return Ok(Self(None));
        }
        let network = text
            .parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network| Self(Some(network))).map_err(|_| ALLOWED)
    }
}

/// The part of an address that is counted as one: of IPv6, the network of 64 bits that one customer has at least.
pub(super) fn one_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        let one = |text: &str| one_address(text.parse().unwrap()).to_string();
        assert_eq!(one("192.0.2.7"), "192.0.2.7");
        assert_eq!(one("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(one("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(one("2001:db8:1:2::1"), "2001:db8:1:2::");
    }

    #[test]
    fn a_network_is_told_from_what_is_none() {
        let network = |text: &str| text.parse::<Network>();
        let holds = |text: &str, address: &str| network(text).unwrap().contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.1.2.3") && !holds("10.0.0.0/8", "11.1.2.3"));
        assert!(holds("fd00::/8", "fd12::1") && holds("192.0.2.7", "192.0.2.7"));
        assert!(!holds("none", "127.0.0.1"));
        assert!(Network::loopback()[0].contains(Ipv4Addr::LOCALHOST.into()));
        assert!(Network::loopback()[1].contains(Ipv6Addr::LOCALHOST.into()));
        for text in ["", "10.0.0.0/33", "localhost", "*"] {
            assert!(network(text).is_err(), "{text}");
        }
    }
}
