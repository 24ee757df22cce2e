//! What published advisories of gateways, proxies and their libraries tell of, tried here: a scene names the advisories
//! behind it, and `SECURITY.md` has the table. What a scene elsewhere holds already is not repeated.

mod chunks;
mod http2;
mod lengths;
mod path;
mod readings;
mod spoofing;
mod tokens;
mod unread;

use std::fmt::Write as _;

use crate::support::{Session, TestGateway, TestUpstream, usual};

/// Numbers that look random and are the same in every run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % bound
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    /// The text with some letters in the other case and some bytes percent-encoded.
    fn disguise(&mut self, text: &str) -> String {
        let (case, escape) = (self.one_in(4), self.one_in(4));
        let mut out = String::new();
        for byte in text.bytes() {
            let byte = if case && self.one_in(2) { byte.to_ascii_uppercase() } else { byte };
            if escape && self.one_in(3) {
                let _ = if self.one_in(2) { write!(out, "%{byte:02x}") } else { write!(out, "%{byte:02X}") };
            } else {
                out.push(char::from(byte));
            }
        }
        out
    }
}

/// A request that must never be read as one.
const HIDDEN: &str = "GET /public/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

struct Scene {
    upstream: TestUpstream,
    gateway: TestGateway,
    session: Session,
}

impl Scene {
    async fn new() -> Self {
        let (upstream, gateway) = usual().await;
        let session = gateway.login("admin").await;
        Self { upstream, gateway, session }
    }

    fn head(&self, lines: &str) -> String {
        let (token, key) = (&self.session.token, &self.session.key);
        format!(
            "POST /up/echo HTTP/1.1\r\nHost: localhost\r\nX-Access-Token: {token}\r\nX-Key: {key}\r\n{lines}\r\n"
        )
    }

    /// The bytes are refused, if answered at all, and the connection ends; nothing whole reached the upstream.
    async fn is_refused(&self, what: &str, pieces: &[&[u8]]) {
        let mut client = self.gateway.client().await;
        for piece in pieces {
            client.send(piece).await;
            tokio::task::yield_now().await;
        }
        if let Some(answer) = client.try_answer().await {
            assert!((400..=502).contains(&answer.status), "{what}: {}", answer.brief());
        }
        let more = client.closed().await;
        assert!(more.is_empty(), "{what}: a second answer {:?}", String::from_utf8_lossy(&more));
        for seen in self.upstream.requests() {
            assert!(!seen.complete, "{what} was forwarded as whole: {}", seen.head.text());
        }
    }

    /// As [`Scene::is_refused`], and the upstream saw nothing of it.
    async fn is_refused_unseen(&self, what: &str, bytes: &[u8]) {
        self.is_refused(what, &[bytes]).await;
        self.upstream.assert_untouched();
    }
}
