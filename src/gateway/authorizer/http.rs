//! The authorizer over HTTP: nginx `auth_request`, ingress-nginx, Traefik ForwardAuth, Caddy `forward_auth`, Envoy's
//! HTTP `ext_authz`.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use std::borrow::Cow;

use super::convention::{self, AskFault, Convention, Original};
use super::{Asked, Granted, joined, may_ask};
use crate::body::Full;
use crate::gateway::Gateway;
use crate::gateway::answer::AnswerBody;
use crate::gateway::rejection::Rejection;
use crate::peer::Peer;
use crate::server::framing_fault;
use crate::telemetry::ids::Ids;
use crate::upstream::ingress;

/// What Envoy is to take out of a request that passes: a client may have sent it, and the answer sets it not.
static REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

impl Gateway {
    /// 200 with the identity, or 401 or 403 with the reason: what an ingress understands. A question that cannot be
    /// told apart from the next one is 400, and the connection closes.
    pub(in crate::gateway) async fn authorize_http(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<AnswerBody> {
        let thread = self.live.current();
        let original = original(thread.live.authz, &request, peer);
        let (method, target) = match &original {
            Ok(original) => (&original.method, &original.target),
            Err(_) => (request.method(), request.uri()),
        };
        let by_envoy = original.as_ref().is_ok_and(|original| original.by_envoy);
        let headers = match by_envoy {
            true => joined::apart(request.headers(), &thread.live.access.names),
            false => Cow::Borrowed(request.headers()),
        };
        // Envoy has chosen the backend by the path's bytes before it asks; the others read them.
        let asked = Asked { method, target, headers: &headers, is_routed: by_envoy, goes_on_as_sent: true };
        let place = self.scribe.place(asked.headers, request.version(), peer);
        let client = thread.live.trusted.client(peer, asked.headers);
        let exchange = self.begin_asked(&thread.live, place, client, &asked);

        let place = self.shared.in_flight.enter(thread.live.limits.max_requests);
        let verdict = match (original.as_ref(), &place) {
            (_, None) => Err(Rejection::Overloaded),
            (Ok(_), Some(_)) => self.judge(&thread, &asked, &exchange).await,
            (Err(_), Some(_)) => Err(original.err().unwrap_or(Rejection::Internal)),
        };
        let answer = match verdict {
            Ok(granted) => allowed(&granted, by_envoy, &exchange.ids),
            Err(rejection) => super::refuse(rejection, &exchange),
        };
        exchange.status.set(answer.status().as_u16());
        answer.map(|body| AnswerBody::own(body).held(exchange, place))
    }
}

/// What is asked about, if anything is and by someone who may.
fn original(convention: Convention, request: &Request<Incoming>, peer: &Peer) -> Result<Original, Rejection> {
    if let Some(fault) = framing_fault(request) {
        return Err(Rejection::BadRequest(fault));
    }
    if !may_ask(peer) {
        return Err(AskFault::NotTrusted.into());
    }
    Ok(convention::read(convention, request.method(), request.uri(), request.headers())?)
}

fn allowed(granted: &Granted, by_envoy: bool, ids: &Ids) -> Response<Full> {
    let identity = match granted {
        Granted::Permit(permit) => ingress::identity_of(permit),
        Granted::OwnPath { .. } => HeaderMap::new(),
    };
    let mut answer = Response::new(Full::default());
    if by_envoy {
        let unset = ingress::identity_names().into_iter().filter(|name| !identity.contains_key(*name));
        let unset: Vec<&str> = unset.map(HeaderName::as_str).collect();
        let unset = HeaderValue::from_str(&unset.join(",")).ok().filter(|unset| !unset.is_empty());
        answer.headers_mut().extend(unset.map(|unset| (REMOVE.clone(), unset)));
    }
    answer.headers_mut().extend(identity);
    answer.headers_mut().insert("x-request-id", ids.request_header());
    answer
}
