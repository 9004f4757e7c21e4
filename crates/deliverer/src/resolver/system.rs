//! Names as this machine is set up to resolve them: `/etc/hosts`, and of `/etc/resolv.conf` the name servers,
//! the search list and `ndots`. Both are read again when they change.

use std::{
    fs::{self, File, Metadata},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    Hosts,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf::parse_resolv_conf,
};
use tokio::time::Instant;

use super::servers::{Found, PORT, Refusal, Server, in_order};

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The time after which it is looked whether the files have changed.
const LOOKED: Duration = Duration::from_secs(1);

/// The most name servers that are asked, as in glibc.
pub(super) const MAX_SERVERS: usize = 3;

/// The files, as they were last read.
pub(super) struct System {
    servers: Option<Vec<SocketAddr>>,
    read: Mutex<Read>,
}

struct Read {
    settings: Arc<Settings>,
    stamps: [Option<Stamp>; 2],
    looked: Instant,
}

/// The time and the size of a file: one of them changes when the file does.
type Stamp = (Option<SystemTime>, u64);

impl System {
    /// `servers` are asked instead of those that the file names.
    pub(super) fn new(servers: Option<Vec<SocketAddr>>) -> Self {
        let stamps = stamps();
        let settings = Arc::new(Settings::read(servers.as_deref()));
        Self {
            servers,
            read: Mutex::new(Read {
                settings,
                stamps,
                looked: Instant::now(),
            }),
        }
    }

    /// Returns the settings in the files, and true if those have changed since the last call.
    pub(super) fn settings(&self) -> (Arc<Settings>, bool) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        if read.looked.elapsed() >= LOOKED {
            let stamps = stamps();
            changed = stamps != read.stamps;
            if changed {
                read.settings = Arc::new(Settings::read(self.servers.as_deref()));
                tracing::info!("{HOSTS} or {RESOLV_CONF} has changed; names are resolved as they say now");
            }
            (read.stamps, read.looked) = (stamps, Instant::now());
        }
        (Arc::clone(&read.settings), changed)
    }
}

fn stamps() -> [Option<Stamp>; 2] {
    let stamp = |metadata: Metadata| (metadata.modified().ok(), metadata.len());
    [HOSTS, RESOLV_CONF].map(|path| fs::metadata(path).ok().map(stamp))
}

/// The settings by which names are resolved.
pub(super) struct Settings {
    pub(super) servers: Vec<Server>,
    search: Vec<Name>,
    ndots: usize,
    hosts: Hosts,
}

impl Settings {
    fn read(servers: Option<&[SocketAddr]>) -> Self {
        let text = or_empty(RESOLV_CONF, fs::read(RESOLV_CONF));
        let mut hosts = Hosts::default();
        let file = File::open(HOSTS).and_then(|file| hosts.read_hosts_conf(file));
        or_empty(HOSTS, file);
        Self::of(&text, hosts, servers)
    }

    fn of(resolv_conf: &[u8], hosts: Hosts, servers: Option<&[SocketAddr]>) -> Self {
        // As everywhere, the machine itself is asked if the file names nobody.
        let parsed = parse_resolv_conf(resolv_conf)
            .or_else(|_| parse_resolv_conf([resolv_conf, b"\nnameserver 127.0.0.1\n"].concat()))
            .inspect_err(|error| tracing::warn!(%error, "{RESOLV_CONF} cannot be understood"))
            .or_else(|_| parse_resolv_conf(b"nameserver 127.0.0.1"));
        let (config, ndots) = match parsed {
            Ok((config, options)) => (config, options.ndots),
            Err(_) => (
                hickory_resolver::config::ResolverConfig::from_name_servers(Vec::new()),
                1,
            ),
        };
        let named = config.name_servers().iter();
        let named = named.map(|server| SocketAddr::new(server.ip, PORT));
        let servers = match servers {
            Some(servers) => servers.to_vec(),
            None => named.take(MAX_SERVERS).collect(),
        };
        let search = match (config.search(), config.domain()) {
            ([], Some(domain)) => vec![domain.clone()],
            (search, _) => search.to_vec(),
        };
        Self {
            servers: servers.into_iter().map(Server::new).collect(),
            search,
            ndots,
            hosts,
        }
    }

    /// Addresses that nobody needs to be asked for: those in `/etc/hosts`, and of `localhost` and all names
    /// under it the loopback ones (RFC 6761 section 6.3).
    pub(super) fn written(&self, host: &str) -> Option<Vec<IpAddr>> {
        let name = Name::from_ascii(host).ok()?;
        let of_kind = |kind| {
            let found = self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
            found.into_iter().flat_map(|lookup| {
                let records = lookup.answers().iter();
                records
                    .filter_map(|record| record.data.ip_addr())
                    .collect::<Vec<_>>()
            })
        };
        let mut written: Vec<IpAddr> = of_kind(RecordType::AAAA).chain(of_kind(RecordType::A)).collect();
        let bare = host.strip_suffix('.').unwrap_or(host);
        if written.is_empty() && (bare == "localhost" || bare.ends_with(".localhost")) {
            written = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
        }
        (!written.is_empty()).then(|| in_order(written))
    }

    /// Asks for the name, and for what the search list makes of it, one after the other.
    pub(super) async fn look_up(&self, host: &str) -> Result<Found, Refusal> {
        let names = self.names(host).ok_or(Refusal::NoName)?;
        let mut worst = Refusal::NoSuchName;
        for name in names {
            match super::servers::look_up(&self.servers, &name).await {
                Ok(found) => return Ok(found),
                Err(refusal) => worst = worst.or(refusal),
            }
        }
        Err(worst)
    }

    /// The names to ask for, in their order; `None` for what is no name.
    fn names(&self, host: &str) -> Option<Vec<Name>> {
        let name = Name::from_ascii(host).ok()?;
        if name.is_fqdn() {
            return Some(vec![name]);
        }
        let mut whole = name.clone();
        whole.set_fqdn(true);
        let searched = self.search.iter();
        let searched = searched.filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = host.matches('.').count();
        Some(if dots >= self.ndots {
            std::iter::once(whole).chain(searched).collect()
        } else {
            searched.chain([whole]).collect()
        })
    }
}

/// A file that is not there says nothing.
fn or_empty<T: Default>(path: &str, read: io::Result<T>) -> T {
    read.unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            tracing::warn!(%error, path = %Path::new(path).display(), "cannot read how names are resolved");
        }
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(resolv_conf: &str, hosts: &str) -> Settings {
        let mut read = Hosts::default();
        read.read_hosts_conf(hosts.as_bytes()).unwrap();
        Settings::of(resolv_conf.as_bytes(), read, None)
    }

    fn names(settings: &Settings, host: &str) -> Vec<String> {
        let names = settings.names(host).unwrap();
        names.iter().map(|name| name.to_ascii()).collect()
    }

    fn servers(settings: &Settings) -> Vec<String> {
        settings.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_search_list_is_tried_after_a_name_with_enough_dots_and_before_one_with_fewer() {
        let kube = settings(
            "nameserver 10.0.0.10\nsearch ns.svc.cluster.local cluster.local\noptions ndots:2",
            "",
        );
        assert_eq!(
            names(&kube, "hooks"),
            ["hooks.ns.svc.cluster.local.", "hooks.cluster.local.", "hooks."]
        );
        assert_eq!(
            names(&kube, "a.example.com"),
            [
                "a.example.com.",
                "a.example.com.ns.svc.cluster.local.",
                "a.example.com.cluster.local."
            ]
        );
        assert_eq!(names(&kube, "example.com."), ["example.com."]);
        assert!(kube.names("a b").is_none() && kube.names("a..b").is_none());
        assert_eq!(
            names(&settings("nameserver 10.0.0.10\ndomain corp.test", ""), "x"),
            ["x.corp.test.", "x."]
        );
    }

    #[test]
    fn name_servers_are_those_of_the_file_or_this_machine() {
        let four = settings(
            "nameserver 10.0.0.1\nnameserver ::1\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
            "",
        );
        assert_eq!(servers(&four), ["10.0.0.1", "::1", "10.0.0.3"]);
        let none = settings("search corp.test", "");
        assert_eq!(
            (servers(&none), names(&none, "x")),
            (
                vec!["127.0.0.1".to_owned()],
                vec!["x.corp.test.".to_owned(), "x.".to_owned()]
            )
        );
        assert_eq!(servers(&settings("", "")), ["127.0.0.1"]);
    }

    #[test]
    fn the_hosts_file_and_localhost_need_no_name_server() {
        let settings = settings(
            "",
            "192.0.2.7 Hooks.test hooks # comment\n192.0.2.8 hooks\n10.0.0.1 box.localhost\n",
        );
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(settings.written("hooks.test"), Some(vec![ip("192.0.2.7")]));
        assert_eq!(
            settings.written("hooks"),
            Some(vec![ip("192.0.2.7"), ip("192.0.2.8")])
        );
        assert_eq!(settings.written("box.localhost"), Some(vec![ip("10.0.0.1")]));
        let loopback = settings.written("localhost").unwrap();
        assert_eq!(loopback.len(), 2);
        assert!(loopback.iter().all(IpAddr::is_loopback), "{loopback:?}");
        assert!(settings.written("a.localhost.").is_some());
        assert_eq!(settings.written("nolocalhost"), None);
    }
}
