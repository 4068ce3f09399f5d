//! Names become addresses here, and those that nobody may be sent to are left out: what is connected to is exactly what
//! was checked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tracing::{debug, warn};

use super::{
    Failure,
    services::{Service, in_order},
};
use crate::{
    config::{Config, Network},
    random::Random,
};

/// Of the services that DNS names for a server, this many are looked up.
const MAX_SERVICES: usize = 10;

/// Which addresses are never connected to.
#[derive(Clone, Debug)]
pub struct Denied {
    networks: Vec<Network>,
    exceptions: Vec<Network>,
}

impl Denied {
    pub fn new(config: &Config) -> Self {
        Self { networks: config.ip_range_denylist.clone(), exceptions: config.ip_range_allowlist.clone() }
    }

    pub fn has(&self, address: IpAddr) -> bool {
        let is_in =
            |networks: &[Network]| embedded(address).any(|a| networks.iter().any(|network| network.contains(a)));
        is_in(&self.networks) && !is_in(&self.exceptions)
    }
}

/// The address, and the IPv4 address that some IPv6 addresses stand for: mapped, compatible, NAT64 and 6to4.
fn embedded(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => {
            let [a, b, .., y, z] = v6.segments();
            let last = [y.to_be_bytes(), z.to_be_bytes()].concat();
            let second = [b.to_be_bytes(), v6.segments()[2].to_be_bytes()].concat();
            let is_nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            let is_compatible = v6.segments()[..6] == [0; 6] && y != 0;
            let bytes = match a {
                0x2002 => Some(second),
                _ if is_nat64 || is_compatible => Some(last),
                _ => None,
            };
            bytes.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from)
        }
    };
    [Some(address.to_canonical()), inner].into_iter().flatten()
}

/// Looks names up by the system's name servers and hosts file.
///
/// A name that ends with a dot stands for the server of that name as its service records tell (`_matrix-fed._tcp`, then
/// the older `_matrix._tcp`): the certificate is then checked for the name itself, while host and port come from DNS.
pub struct Resolver {
    denied: Denied,
    /// `None` if the system's configuration of DNS can't be read.
    dns: OnceLock<Option<TokioResolver>>,
    random: Random,
}

impl Resolver {
    pub fn new(denied: Denied) -> Self {
        Self { denied, dns: OnceLock::new(), random: Random::from_system() }
    }

    fn dns(&self) -> Result<&TokioResolver, Failure> {
        let open = || match TokioResolver::builder_tokio().and_then(|builder| builder.build()) {
            Ok(resolver) => Some(resolver),
            Err(error) => {
                warn!(%error, "names of other servers can't be looked up");
                None
            }
        };
        let unusable = || Failure::Unreachable("the configuration of DNS on this machine can't be read".to_owned());
        self.dns.get_or_init(open).as_ref().ok_or_else(unusable)
    }

    pub async fn has_services(&self, host: &str) -> bool {
        self.services(host).await.is_ok_and(|services| !services.is_empty())
    }

    /// Names and ports of a server, in the order in which they are to be tried.
    async fn services(&self, host: &str) -> Result<Vec<(String, u16)>, Failure> {
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            let found = match self.dns()?.lookup(format!("{service}.{host}."), RecordType::SRV).await {
                Ok(found) => found,
                Err(error) => {
                    debug!(host, %error, "no service record");
                    continue;
                }
            };
            let services = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) if !srv.target.is_root() => Some(Service {
                    priority: srv.priority,
                    weight: srv.weight,
                    target: srv.target.to_utf8(),
                    port: srv.port,
                }),
                _ => None,
            });
            let mut services = in_order(services.collect(), &self.random);
            if !services.is_empty() {
                services.truncate(MAX_SERVICES);
                return Ok(services.into_iter().map(|service| (service.target, service.port)).collect());
            }
        }
        Ok(Vec::new())
    }

    /// The addresses of `host`, fully qualified or not, with `port`.
    async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        let host = host.strip_suffix('.').unwrap_or(host);
        let unknown = |error| Failure::Unreachable(format!("the address of {host} can't be found: {error}"));
        let found = self.dns()?.lookup_ip(format!("{host}.")).await.map_err(unknown)?;
        Ok(found.iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn resolve_name(&self, name: &str) -> Result<Vec<SocketAddr>, Failure> {
        let found = match name.strip_suffix('.') {
            None => self.addresses(name, 0).await?,
            Some(host) => {
                let (mut found, mut failure) = (Vec::new(), None);
                for (target, port) in self.services(host).await? {
                    match self.addresses(&target, port).await {
                        Ok(addresses) => found.extend(addresses),
                        Err(error) => failure = Some(error),
                    }
                }
                match failure {
                    Some(failure) if found.is_empty() => return Err(failure),
                    _ => found,
                }
            }
        };
        let allowed: Vec<_> = found.into_iter().filter(|address| !self.denied.has(address.ip())).collect();
        if allowed.is_empty() { Err(Failure::Denied(name.to_owned())) } else { Ok(allowed) }
    }
}

/// A [`Resolver`] as reqwest takes it.
pub struct Shared(pub Arc<Resolver>);

impl Resolve for Shared {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let addresses = resolver.resolve_name(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use hickory_resolver::{
        config::{ConnectionConfig, NameServerConfig, ResolverConfig},
        net::runtime::TokioRuntimeProvider,
        proto::{
            op::{Message, ResponseCode},
            rr::{Record, rdata::SRV},
        },
    };
    use tokio::net::UdpSocket;

    use super::*;

    /// A resolver whose name server has these records only.
    async fn resolver(records: Vec<(&str, RData)>) -> Resolver {
        let record = |(name, data): (&str, RData)| Record::from_rdata(name.parse().unwrap(), 60, data);
        let records: Vec<Record> = records.into_iter().map(record).collect();
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 1_500];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let mut answer = Message::from_vec(&buffer[..length]).unwrap().into_response();
                let (name, kind) = (answer.queries[0].name.clone(), answer.queries[0].query_type);
                let of_name: Vec<_> = records.iter().filter(|record| record.name == name).collect();
                if of_name.is_empty() {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
                answer.answers = of_name.into_iter().filter(|found| found.record_type() == kind).cloned().collect();
                socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let name_server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        let config = ResolverConfig::from_name_servers(vec![name_server]);
        let dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()).build().unwrap();
        let resolver = Resolver::new(denied(&[]));
        resolver.dns.set(Some(dns)).ok().unwrap();
        resolver
    }

    fn service(target: &str, port: u16) -> RData {
        RData::SRV(SRV::new(10, 0, port, target.parse().unwrap()))
    }

    fn address(text: &str) -> RData {
        RData::A(text.parse::<Ipv4Addr>().unwrap().into())
    }

    #[tokio::test]
    async fn the_newer_service_record_counts_and_the_older_one_where_there_is_no_newer() {
        let resolver = resolver(vec![
            ("_matrix-fed._tcp.new.test.", service("a.test.", 443)),
            ("_matrix._tcp.new.test.", service("b.test.", 8443)),
            ("_matrix._tcp.old.test.", service("b.test.", 8443)),
            ("a.test.", address("1.1.1.1")),
            ("b.test.", address("1.1.1.2")),
            ("none.test.", address("1.1.1.3")),
        ])
        .await;
        for (name, expected) in
            [("new.test.", "1.1.1.1:443"), ("old.test.", "1.1.1.2:8443"), ("none.test", "1.1.1.3:0")]
        {
            assert_eq!(resolver.resolve_name(name).await.unwrap(), [expected.parse::<SocketAddr>().unwrap()], "{name}");
        }
        assert!(resolver.has_services("new.test").await && resolver.has_services("old.test").await);
        assert!(!resolver.has_services("none.test").await);
    }

    #[tokio::test]
    async fn a_service_record_that_leads_to_a_private_address_is_not_followed() {
        let resolver = resolver(vec![
            ("_matrix-fed._tcp.evil.test.", service("inside.test.", 80)),
            ("inside.test.", address("10.0.0.1")),
        ])
        .await;
        let failure = resolver.resolve_name("evil.test.").await.unwrap_err();
        assert!(matches!(failure, Failure::Denied(_)), "{failure:?}");
    }

    fn denied(allowlist: &[&str]) -> Denied {
        let mut config = Config::for_tests("example.org");
        config.ip_range_allowlist = allowlist.iter().map(|text| text.parse().unwrap()).collect();
        Denied::new(&config)
    }

    #[test]
    fn private_addresses_are_denied_in_every_disguise() {
        let denied = denied(&[]);
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::10.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "224.0.0.1",
            "255.255.255.255",
        ] {
            assert!(denied.has(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(!denied.has(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn exceptions_are_let_through() {
        let denied = denied(&["10.1.0.0/16"]);
        assert!(!denied.has("10.1.2.3".parse().unwrap()) && denied.has("10.2.2.3".parse().unwrap()));
    }
}
