//! The other end of a connection, and the client's address as trusted proxies tell it.

use http::HeaderMap;
use ipnet::IpNet;
use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

/// Which of the gateway's listeners a connection came in by (contract section 2, `[listen]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    Https,
    Http,
    /// The external authorizer over HTTP.
    Authz,
    /// The external authorizer over gRPC.
    ExtAuthz,
}

impl ListenerKind {
    pub const ALL: [Self; 4] = [Self::Https, Self::Http, Self::Authz, Self::ExtAuthz];

    /// Whether requests come in by it, and not questions about them.
    #[must_use]
    pub fn is_gateway(self) -> bool {
        matches!(self, Self::Https | Self::Http)
    }

    /// The key of `[listen]`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Authz => "authz",
            Self::ExtAuthz => "ext_authz",
        }
    }
}

/// The other end of one connection. Made once a connection, shared by its requests.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Of the connection, or of the client that a trusted proxy named for it (`listen.proxy_protocol`).
    pub addr: SocketAddr,
    pub listener: ListenerKind,
    /// Whether its forwarded headers are believed (`listen.trusted_proxies`).
    pub trusted: bool,
    /// Of TLS, until the connection's first request has taken it for its trace.
    pub handshake: Cell<Option<Handshake>>,
    /// The address of `addr`, as it is written into each request's `X-Forwarded-For`.
    ip: Box<str>,
}

/// A TLS handshake with a client.
#[derive(Clone, Copy, Debug)]
pub struct Handshake {
    pub began: Instant,
    pub ended: Instant,
    /// `1.2`, `1.3`.
    pub version: &'static str,
}

impl Peer {
    #[must_use]
    pub fn new(addr: SocketAddr, listener: ListenerKind, trusted: bool) -> Self {
        let ip = addr.ip().to_canonical().to_string().into();
        Self { addr, listener, trusted, handshake: Cell::new(None), ip }
    }

    /// The address as text.
    #[must_use]
    pub fn ip(&self) -> &str {
        &self.ip
    }
}

/// The peers whose `X-Forwarded-*` are believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(pub Vec<IpNet>);

impl TrustedProxies {
    #[must_use]
    pub fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.0.iter().any(|net| net.contains(&ip))
    }

    /// The client's address: the peer's, or, behind trusted proxies, the rightmost address of
    /// `X-Forwarded-For` that is not itself a trusted proxy. An entry that is no address ends the search: what
    /// stands left of it may have been written by anyone.
    #[must_use]
    pub fn client(&self, peer: &Peer, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.addr.ip().to_canonical();
        if !peer.trusted {
            return client;
        }
        for value in headers.get_all("x-forwarded-for").iter().rev() {
            let Ok(value) = value.to_str() else { return client };
            for entry in value.rsplit(',') {
                let Some(ip) = forwarded_address(entry.trim()) else { return client };
                client = ip;
                if !self.trusts(client) {
                    return client;
                }
            }
        }
        client
    }
}

/// `1.2.3.4`, `1.2.3.4:5`, `::1`, `[::1]`, `[::1]:5`.
fn forwarded_address(entry: &str) -> Option<IpAddr> {
    let ip = entry
        .parse::<IpAddr>()
        .ok()
        .or_else(|| entry.parse::<SocketAddr>().ok().map(|a| a.ip()))
        .or_else(|| entry.strip_prefix('[')?.strip_suffix(']')?.parse().ok())?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn client(peer: &str, forwarded: &[&'static str]) -> String {
        let trusted = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap()]);
        let addr: SocketAddr = peer.parse().unwrap();
        let peer = Peer::new(addr, ListenerKind::Http, trusted.trusts(addr.ip()));
        let mut headers = HeaderMap::new();
        for f in forwarded {
            headers.append("x-forwarded-for", HeaderValue::from_static(f));
        }
        trusted.client(&peer, &headers).to_string()
    }

    #[test]
    fn an_untrusted_peer_is_the_client_whatever_it_says() {
        assert_eq!(client("192.0.2.1:9", &["198.51.100.7"]), "192.0.2.1");
    }

    #[test]
    fn behind_a_trusted_proxy_the_rightmost_untrusted_address_is_the_client() {
        assert_eq!(client("10.0.0.1:9", &["198.51.100.7"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1:9", &["203.0.113.9, 198.51.100.7, 10.2.3.4"]), "198.51.100.7");
        assert_eq!(client("10.0.0.1:9", &["203.0.113.9", "198.51.100.7:80"]), "198.51.100.7");
        assert_eq!(client("[::ffff:10.0.0.1]:9", &["[2001:db8::1]:443"]), "2001:db8::1");
    }

    #[test]
    fn what_is_no_address_ends_the_search() {
        assert_eq!(client("10.0.0.1:9", &["198.51.100.7, unknown, 10.2.3.4"]), "10.2.3.4");
        assert_eq!(client("10.0.0.1:9", &[]), "10.0.0.1");
    }
}
