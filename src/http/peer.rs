//! Who is at the other end of a connection.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};

use crate::{Server, config::Network};

/// The other end of a connection; every request that came through a listener carries it as an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A process on this machine that the socket's permissions let in.
    Unix,
}

/// The address of the client, as an extractor; see [`client_ip`] for how far to trust it.
#[derive(Clone, Copy, Debug)]
pub struct ClientIp(pub IpAddr);

impl FromRequestParts<Arc<Server>> for ClientIp {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, server: &Arc<Server>) -> Result<Self, Infallible> {
        Ok(Self(client_ip(parts, &server.config.trusted_proxies)))
    }
}

/// The address of the client that sent a request, for rate limits and for a user's list of devices.
///
/// `X-Forwarded-For` counts only as far as it was written by reverse proxies of ours: the nearest peer must be in
/// `trusted_proxies` or on the Unix socket, and so must each further hop whose word is taken. What stands before
/// that was written by the client and can be anything. A request without any address (the Unix socket without a
/// proxy, or a test without listeners) counts as from this machine.
pub fn client_ip(parts: &Parts, trusted_proxies: &[Network]) -> IpAddr {
    let is_trusted = |address: &IpAddr| trusted_proxies.iter().any(|network| network.contains(*address));
    let this_machine = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let (mut client, mut is_believed) = match parts.extensions.get::<Peer>() {
        Some(Peer::Tcp(peer)) => (peer.ip().to_canonical(), is_trusted(&peer.ip())),
        Some(Peer::Unix) => (this_machine, true),
        None => (this_machine, false),
    };
    let mut hops = nearest_first(&parts.headers);
    while is_believed && let Some(Some(hop)) = hops.next() {
        client = hop;
        is_believed = is_trusted(&hop);
    }
    client
}

/// The hops that `X-Forwarded-For` lists, from the nearest to the client; `None` for what is not an address.
fn nearest_first(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> {
    let lines = headers.get_all("x-forwarded-for").into_iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or_default().rsplit(',').map(address))
}

/// An address, with or without a port: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let without_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(without_port).or_else(bracketed)?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// The client's address of a request from `peer` with these `X-Forwarded-For` lines, behind proxies in 10.0.0.0/8.
    fn client_of(peer: Option<Peer>, lines: &[&str]) -> String {
        let (mut parts, ()) = Request::new(()).into_parts();
        if let Some(peer) = peer {
            parts.extensions.insert(peer);
        }
        for line in lines {
            parts.headers.append("x-forwarded-for", line.parse().unwrap());
        }
        client_ip(&parts, &["10.0.0.0/8".parse().unwrap()]).to_string()
    }

    fn tcp(address: &str) -> Option<Peer> {
        Some(Peer::Tcp(address.parse().unwrap()))
    }

    #[test]
    fn a_stranger_is_who_connects_whatever_he_claims() {
        assert_eq!(client_of(tcp("192.0.2.1:4711"), &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(client_of(tcp("[::ffff:192.0.2.1]:4711"), &[]), "192.0.2.1");
    }

    #[test]
    fn a_proxy_is_believed_as_far_as_proxies_wrote_the_header() {
        let proxy = tcp("10.0.0.1:80");
        assert_eq!(client_of(proxy, &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_of(proxy, &["6.6.6.6, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_of(proxy, &["6.6.6.6, 198.51.100.7, 10.0.0.2"]), "198.51.100.7");
        assert_eq!(client_of(proxy, &["6.6.6.6, 198.51.100.7", "10.0.0.2"]), "198.51.100.7");
        assert_eq!(client_of(proxy, &["6.6.6.6, nonsense"]), "10.0.0.1");
        assert_eq!(client_of(proxy, &[]), "10.0.0.1");
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        for (line, client) in
            [("[2001:db8::1]:80", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"), ("192.0.2.9:1", "192.0.2.9")]
        {
            assert_eq!(client_of(tcp("10.0.0.1:80"), &[line]), client);
        }
    }

    #[test]
    fn the_unix_socket_is_a_trusted_proxy() {
        assert_eq!(client_of(Some(Peer::Unix), &["6.6.6.6, 198.51.100.7"]), "198.51.100.7");
        assert_eq!(client_of(Some(Peer::Unix), &[]), "127.0.0.1");
        assert_eq!(client_of(None, &["198.51.100.7"]), "127.0.0.1");
    }
}
