//! The pure parts of the hot path, opened for `benches/upstream.rs` alone. Not an interface.

use bytes::BytesMut;
use http::{HeaderMap, Method};

use super::chunked::{Decoder, Step};
use super::head::{self, Sending, Target};
use super::headers::{CredentialsOut, Onward, Policy};
use super::parse;
use crate::access::Scope;
use crate::access::credentials::CredentialNames;
use crate::identity::{RoleName, UserName};
use crate::peer::Peer;
use crate::telemetry::ids::Ids;

/// Writes the heads of requests, as `forward` does.
pub struct HeadWriter {
    policy: Policy,
    user: UserName,
    role: RoleName,
    out: Vec<u8>,
}

impl HeadWriter {
    #[must_use]
    pub fn new(names: &CredentialNames) -> Self {
        let (user, role) = (UserName::new("100@mydomain.com"), RoleName::new("admin"));
        Self { policy: Policy::new(names), user, role, out: Vec::new() }
    }

    /// The bytes of one head.
    pub fn write(&mut self, headers: &HeaderMap, peer: &Peer, ids: &Ids) -> usize {
        self.out.clear();
        let onward = Onward {
            headers,
            host: b"api.example.com",
            caller: Some((&self.user, &self.role)),
            scope: Some(Scope::All),
            credentials: CredentialsOut::None,
            peer,
            ids,
            extensions: true,
        };
        let target = Target { method: &Method::GET, path: "/api/v2/cdr/1", query: None };
        head::write(&mut self.out, &target, Sending::None, None, (&self.policy, &onward));
        self.out.len()
    }
}

/// Reads the head of an answer; the number of its fields, 0 for a broken or cut one.
pub fn answer_head(buf: &mut BytesMut) -> usize {
    parse::head(buf, &Method::GET).ok().flatten().map_or(0, |head| head.headers.len())
}

/// Reads a chunked body; the bytes of its data up to its end or fault.
pub fn chunked_body(buf: &mut BytesMut) -> usize {
    let (mut decoder, mut bytes) = (Decoder::default(), 0);
    while let Ok(Step::Data(data)) = decoder.step(buf) {
        bytes += data.len();
    }
    bytes
}
