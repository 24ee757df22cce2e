//! The external authorizer (contract section 5): an ingress that forwards traffic itself asks whether it may. Builds the
//! question that the proxy would have asked, has it judged by the same [`crate::access`], and tells the verdict in the
//! ingress' own words. Forwards nothing.

pub mod check;
pub mod convention;
mod grpc;
pub mod health;
mod http;
mod joined;
mod paced;

pub use convention::{AskFault, Convention};

use ::http::{HeaderMap, Method, Response, Uri};
use std::net::IpAddr;
use std::rc::Rc;

use super::live::{Live, ThreadLive};
use super::rejection::Rejection;
use super::{Gateway, logged_query, logged_target, note_refusal};
use crate::access::own_path::OwnPath;
use crate::access::path::CanonicalPath;
use crate::access::{AccessRequest, Permit, Reason};
use crate::body::Full;
use crate::peer::Peer;
use crate::telemetry::exchange::{Decision, Exchange};
use crate::telemetry::ids::Ids;
use crate::telemetry::trace::Trace;

/// A question's ids, and its trace where it is recorded.
type Place = (Ids, Option<Rc<Trace>>);

/// A question, whoever asked it.
struct Asked<'r> {
    method: &'r Method,
    /// Path and query as the client sent them to the ingress.
    target: &'r Uri,
    /// Of the client's request.
    headers: &'r HeaderMap,
    /// It was sent to the backend by the path as it stands there, whatever is answered.
    is_routed: bool,
    /// The backend gets the path as it was sent, whatever is answered. Otherwise as it was judged.
    goes_on_as_sent: bool,
}

/// What the rules say of a request that may pass.
enum Granted {
    Permit(Box<Permit>),
    /// `/login` and `/logout`: as a public route. With the target as it is read here, where it was written otherwise.
    OwnPath {
        target: Option<String>,
    },
}

impl Gateway {
    /// Begins the telemetry of one question.
    fn begin_asked(&self, live: &Live, place: Place, client: IpAddr, asked: &Asked<'_>) -> Rc<Exchange> {
        let method = asked.method.clone();
        let exchange = Exchange::begin_recorded(place, client, method, &self.scribe, live.access_log);
        exchange.note(|facts| {
            facts.target = logged_target(live, asked.target);
            facts.query = logged_query(live, asked.target);
        });
        exchange
    }

    /// The decision of contract section 4. `OPTIONS` is judged like any method, with `[cors]` too: what is allowed here
    /// reaches the upstream. So is an upgrade on a `first_frame` route: its first message never comes by here.
    async fn judge(
        &self,
        thread: &ThreadLive,
        asked: &Asked<'_>,
        exchange: &Exchange,
    ) -> Result<Granted, Rejection> {
        let path = CanonicalPath::of(asked.target).map_err(|_| Rejection::Denied(Reason::BadPath))?;
        if let Some(own) = thread.access.own_path(&path) {
            let target = read_otherwise(&path);
            if asked.is_routed && target.is_some() {
                // The backend would read it so too, and may have a login of its own.
                return Err(Rejection::Denied(Reason::BadPath));
            }
            let label = match own {
                OwnPath::Login => &self.own.login,
                OwnPath::Logout => &self.own.logout,
            };
            let _: Result<(), _> = exchange.route.set(label.clone());
            exchange.decide(Decision::Allow);
            return Ok(Granted::OwnPath { target });
        }
        let query = asked.target.query();
        let question = AccessRequest {
            path,
            method: asked.method,
            headers: asked.headers,
            query,
            client: exchange.client,
        };
        let is_read_alike =
            !asked.goes_on_as_sent || thread.access.is_read_alike(&question.path, asked.method, query);
        let permit = self.decide(&thread.access, question, exchange).await?;
        if !is_read_alike {
            return Err(Rejection::Denied(Reason::BadPath));
        }
        if asked.goes_on_as_sent
            && permit.principal().is_some()
            && thread.live.access.names.passes_over(query)
        {
            // Nothing can be taken out of it on its way.
            return Err(Rejection::Denied(Reason::AmbiguousCredentials));
        }
        if permit.route().body.is_empty() {
            Ok(Granted::Permit(Box::new(permit)))
        } else {
            Err(Rejection::BodyNotSeen)
        }
    }
}

/// Path and query as they are read here. None: as they were sent.
fn read_otherwise(path: &CanonicalPath) -> Option<String> {
    let (read, sent) = (path.as_str(), path.sent());
    (read != sent.path()).then(|| match sent.query() {
        Some(query) => format!("{read}?{query}"),
        None => read.to_owned(),
    })
}

/// Every refusal here is a denial: nobody else decides behind it.
fn refuse(rejection: Rejection, exchange: &Exchange) -> Response<Full> {
    exchange.decide(Decision::Deny);
    note_refusal(&rejection, exchange);
    rejection.into_verdict(&exchange.ids)
}

/// Only who is named in `listen.trusted_proxies`, and this machine.
fn may_ask(peer: &Peer) -> bool {
    peer.trusted || peer.addr.ip().to_canonical().is_loopback()
}
