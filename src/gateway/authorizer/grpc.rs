//! The authorizer over gRPC: `envoy.service.auth.v3.Authorization/Check`, and the health service beside it. Served on the
//! worker's own thread like everything else: tonic reads and writes the messages, hyper the HTTP/2.

use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http::header::CONTENT_TYPE;
use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use std::future::Future;
use std::pin::Pin;
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::check::{self, Check, Metadata};
use super::convention::AskFault;
use super::paced::Paced;
use super::{Asked, Granted, may_ask};
use crate::access::Permit;
use crate::body::Full;
use crate::gateway::Gateway;
use crate::gateway::answer::AnswerBody;
use crate::gateway::rejection::Rejection;
use crate::peer::Peer;
use crate::telemetry::exchange::Exchange;

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH: &str = "/grpc.health.v1.Health/";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// A message of no bytes, framed.
const EMPTY: &[u8] = &[0; 5];

impl Gateway {
    pub(in crate::gateway) async fn authorize_grpc(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Response<AnswerBody> {
        let quiet = self.live.current().live.limits.body_timeout;
        let request = request.map(|body| Paced::new(body, quiet));
        self.answer_grpc(request, peer).await.map(AnswerBody::grpc)
    }

    async fn answer_grpc(&self, request: Request<Paced>, peer: &Peer) -> Response<tonic::body::Body> {
        let path = request.uri().path();
        if !is_grpc(&request) {
            // As the protocol has it for who speaks another one.
            let mut answer = Response::new(tonic::body::Body::empty());
            *answer.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
            answer
        } else if path == CHECK {
            let checker = Checker { gateway: self, peer };
            let mut grpc = Grpc::new(ProstCodec::<CheckResponse, CheckRequest>::default());
            if may_ask(peer) {
                grpc.unary(checker, request).await
            } else {
                // Nothing is read of who may not ask: the answer is the one to an empty message.
                grpc.unary(checker, request.map(|_| Full::new(EMPTY))).await
            }
        } else if path == WATCH && !may_ask(peer) {
            Status::new(Code::PermissionDenied, "not trusted to watch; Check is open").into_http()
        } else if path.starts_with(HEALTH) {
            self.shared.health.answer(request).await
        } else {
            Status::new(Code::Unimplemented, "the services here are Authorization and Health").into_http()
        }
    }

    async fn check(&self, request: CheckRequest, peer: &Peer) -> CheckResponse {
        let thread = self.live.current();
        let check = match may_ask(peer) {
            true => check::read(request, &thread.live.access.names),
            false => Err(AskFault::NotTrusted),
        };
        let (check, fault) = match check {
            Ok(check) => (check, None),
            Err(fault) => (Check::default(), Some(fault)),
        };
        // Envoy chooses its route anew by the path that the answer sets.
        let asked = Asked {
            method: &check.method,
            target: &check.target,
            headers: &check.headers,
            is_routed: false,
            goes_on_as_sent: false,
        };
        let client = check.client.unwrap_or_else(|| peer.addr.ip().to_canonical());
        // Who may ask is believed about the client's request.
        let asking = Peer::new(peer.addr, peer.listener, true);
        let place = self.scribe.place(asked.headers, Version::HTTP_2, &asking);
        let exchange = self.begin_asked(&thread.live, place, client, &asked);
        let place = self.shared.in_flight.enter(thread.live.limits.max_requests);
        let verdict = match (fault, &place) {
            (_, None) => Err(Rejection::Overloaded),
            (Some(fault), Some(_)) => Err(fault.into()),
            (None, Some(_)) => self.judge(&thread, &asked, &exchange).await,
        };
        let (status, answer) = match verdict {
            Ok(Granted::Permit(permit)) => {
                let amendment = thread.upstreams.amendment(&permit, asked.headers, asked.target);
                (200, check::allowed(amendment, told(Some(&permit), &exchange)))
            }
            Ok(Granted::OwnPath { target }) => {
                let amendment = thread.upstreams.amendment_of_nobody(asked.headers, target);
                (200, check::allowed(amendment, told(None, &exchange)))
            }
            Err(rejection) => {
                let answer = super::refuse(rejection, &exchange);
                (answer.status().as_u16(), check::denied(answer, told(None, &exchange)))
            }
        };
        exchange.status.set(status);
        answer
    }
}

/// `application/grpc`, of messages in protobuf, which is what it means without a word more.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let told = request.headers().get(CONTENT_TYPE).map_or(&b""[..], |told| told.as_bytes().trim_ascii());
    let essence = told.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
    [&b"application/grpc"[..], b"application/grpc+proto"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known))
}

/// What Envoy is told beside the verdict.
fn told(permit: Option<&Permit>, exchange: &Exchange) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.add("decision", exchange.decision.get().map(|decision| decision.as_str()));
    metadata.add("reason", exchange.reason.get());
    metadata.add("route", exchange.route.get().map(|route| route.to_string()));
    if let Some(permit) = permit {
        let principal = permit.principal();
        metadata.add("user", principal.map(|principal| principal.user().as_str()));
        metadata.add("domain", principal.and_then(|principal| principal.user().domain()));
        metadata.add("role", principal.map(|principal| principal.role().as_str()));
        metadata.add("resource", permit.route().resource());
        metadata.add("permission", permit.asked().map(|asked| asked.as_str()));
    }
    metadata
}

/// One check, on its own thread's gateway.
struct Checker<'g> {
    gateway: &'g Gateway,
    peer: &'g Peer,
}

impl<'g> UnaryService<CheckRequest> for Checker<'g> {
    type Response = CheckResponse;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<CheckResponse>, Status>> + 'g>>;

    fn call(&mut self, request: tonic::Request<CheckRequest>) -> Self::Future {
        let (gateway, peer) = (self.gateway, self.peer);
        Box::pin(async move {
            let answer = gateway.check(request.into_inner(), peer).await;
            Ok(tonic::Response::new(answer))
        })
    }
}
