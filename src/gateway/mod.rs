//! One request from top to bottom.

pub mod answer;
pub mod authorizer;
pub mod cors;
#[doc(hidden)]
pub mod first_frame;
pub mod in_flight;
pub mod live;
mod logged;
pub mod login;
mod login_answer;
pub mod login_body;
mod login_request;
mod login_together;
pub mod logout;
mod noted;
pub mod rejection;
pub mod request_body;
pub mod throttle;
mod whoami;

use http::header::{HOST, ORIGIN, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use std::rc::Rc;
use std::sync::Arc;

use crate::access::own_path::OwnPath;
use crate::access::path::CanonicalPath;
use crate::access::permit::GuardedPermit;
use crate::access::routes::{Target, WebSocketMode};
use crate::access::{Access, AccessRequest, Denied, Permit, Reason, path};
use crate::body::Full;
use crate::clock::Clock;
use crate::peer::{ListenerKind, Peer};
use crate::server::{Handler, framing_fault};
use crate::session::engine_logout::EngineLogouts;
use crate::telemetry::audit;
use crate::telemetry::exchange::{Decision, Exchange, Scribe};
use crate::telemetry::ids::Ids;
use crate::telemetry::label::Label;
use crate::telemetry::metrics::Metrics;
use crate::upstream::asks_for_websocket;

use answer::AnswerBody;
use authorizer::health::Health;
use first_frame::Door;
use in_flight::InFlightCount;
use live::{Live, LiveCell, ThreadLive, ThreadLiveCell};
use logged::{logged_query, logged_target};
use login::{Answers, LoginContext, LoginService};
use logout::LogoutContext;
use noted::{note_denial, note_permit, note_refusal};
use rejection::Rejection;
use request_body::{BodyRefusal, HeldMemory, RequestBody};

/// What all threads' gateways share.
pub struct Shared {
    pub live: Arc<LiveCell>,
    pub login: LoginService,
    pub engine_logouts: Arc<EngineLogouts>,
    pub in_flight: InFlightCount,
    /// Of these, what logins have.
    pub logins: InFlightCount,
    pub held: HeldMemory,
    /// Told to those who ask the gRPC authorizer.
    pub health: Health,
    pub metrics: Metrics,
    pub clock: Clock,
}

/// One worker thread's gateway.
pub struct Gateway {
    shared: Arc<Shared>,
    live: ThreadLiveCell,
    own: OwnRoutes,
    scribe: Rc<Scribe>,
}

/// The labels of what the gateway answers itself.
struct OwnRoutes {
    login: Label,
    logout: Label,
}

impl Handler for Gateway {
    type Body = AnswerBody;

    async fn handle(&self, request: Request<Incoming>, peer: Rc<Peer>) -> Response<AnswerBody> {
        match peer.listener {
            ListenerKind::Https | ListenerKind::Http => {}
            ListenerKind::Authz => return Box::pin(self.authorize_http(request, &peer)).await,
            ListenerKind::ExtAuthz => return Box::pin(self.authorize_grpc(request, &peer)).await,
        }
        let thread = self.live.current();
        let live = &*thread.live;
        let exchange = self.begin(live, &request, &peer);
        let origin = live.cors.as_ref().and(request.headers().get(ORIGIN)).cloned();

        let place = self.shared.in_flight.enter(live.limits.max_requests);
        let answered = match (&place, framing_fault(&request)) {
            (None, _) => Err(Rejection::Overloaded),
            (Some(_), Some(fault)) => Err(Rejection::BadRequest(fault)),
            (Some(_), None) => {
                let (mut head, body) = request.into_parts();
                self.dispatch(&thread, (&mut head, body), &peer, &exchange).await
            }
        };
        let mut answer = answered.unwrap_or_else(|rejection| refuse(rejection, &exchange));
        live.dress(origin.as_ref(), answer.headers_mut());
        exchange.status.set(answer.status().as_u16());
        answer.map(|body| body.held(exchange, place))
    }

    fn panicked(&self) -> Response<AnswerBody> {
        let mut answer = Rejection::Internal.into_response(&Ids::of(&HeaderMap::new(), false));
        // The request is gone, and with it its origin.
        self.live.current().live.dress(None, answer.headers_mut());
        answer.map(AnswerBody::own)
    }

    fn own_fields(&self) -> Option<Arc<str>> {
        self.live.current().live.cors.as_ref().map(|cors| Arc::clone(cors.as_text()))
    }
}

impl Gateway {
    #[must_use]
    pub fn new(shared: Arc<Shared>, scribe: Rc<Scribe>) -> Self {
        let live = ThreadLiveCell::new(Arc::clone(&shared.live));
        let label = |path: OwnPath| Label::of(path.as_str());
        let own = OwnRoutes { login: label(OwnPath::Login), logout: label(OwnPath::Logout) };
        Self { shared, live, scribe, own }
    }

    fn begin(&self, live: &Live, request: &Request<Incoming>, peer: &Peer) -> Rc<Exchange> {
        let place = self.scribe.place(request.headers(), request.version(), peer);
        let client = live.trusted.client(peer, request.headers());
        let method = request.method().clone();
        let exchange = Exchange::begin_recorded(place, client, method, &self.scribe, live.access_log);
        exchange.note(|facts| {
            facts.target = logged_target(live, request.uri());
            facts.query = logged_query(live, request.uri());
        });
        exchange
    }

    /// The order of contract section 4: limits (above), the path, then what the path asks for. What is rare is boxed, and
    /// the head borrowed: the future of every request is as large as its largest branch, with all that it was given, and is
    /// moved whole.
    async fn dispatch(
        &self,
        thread: &Rc<ThreadLive>,
        (head, body): (&mut Parts, Incoming),
        peer: &Rc<Peer>,
        exchange: &Rc<Exchange>,
    ) -> Result<Response<AnswerBody>, Rejection> {
        if thread.live.cors.is_some() && head.method == Method::OPTIONS {
            return Ok(Response::new(AnswerBody::own(Full::default())));
        }
        let path = canonical_path(head)?;
        match thread.access.own_path(&path) {
            Some(OwnPath::Login) => {
                let _: Result<(), _> = exchange.route.set(self.own.login.clone());
                let request = Request::from_parts(head.clone(), body);
                Box::pin(self.login(thread, request, exchange)).await
            }
            Some(OwnPath::Logout) => {
                let _: Result<(), _> = exchange.route.set(self.own.logout.clone());
                let request = Request::from_parts(head.clone(), body);
                Box::pin(self.logout(thread, request, exchange)).await
            }
            None => {
                let question = question(path, head, exchange);
                if asks_for_websocket(head)
                    && let Some(guarded) = thread.access.guarded(&question)
                {
                    let opening = self.open_guarded(thread, guarded, (head, body), (peer, exchange));
                    return Box::pin(opening).await;
                }
                let permit = self.decide(&thread.access, question, exchange).await?;
                self.permitted(thread, &permit, (head, body), (peer, exchange)).await
            }
        }
    }

    /// A permitted request is answered here or forwarded, its body read before that where the route asks what is in it.
    async fn permitted(
        &self,
        thread: &ThreadLive,
        permit: &Permit,
        (head, body): (&mut Parts, Incoming),
        (peer, exchange): (&Rc<Peer>, &Rc<Exchange>),
    ) -> Result<Response<AnswerBody>, Rejection> {
        if permit.route().target == Target::Whoami
            && let Some(answer) = whoami::answer(&thread.access, permit, thread.live.login.cdr.as_ref())
        {
            return Ok(answer.map(AnswerBody::own));
        }
        let body = if permit.route().body.is_empty() {
            RequestBody::Streamed(body)
        } else {
            Box::pin(self.judged_body(thread, permit, (head, body))).await?
        };
        let answer = thread.upstreams.forward(permit, (head, body), peer, exchange).await?;
        Ok(answer.map(AnswerBody::upstream))
    }

    async fn judged_body(
        &self,
        thread: &ThreadLive,
        permit: &Permit,
        (head, body): (&Parts, Incoming),
    ) -> Result<RequestBody, BodyRefusal> {
        let must_be_json = !permit.route().body.fields.is_empty();
        let is_anonymous = permit.principal().is_none();
        let memory = (&self.shared.held, is_anonymous, thread.live.limits.body_timeout);
        let body = request_body::read_json(head, body, must_be_json, memory).await?;
        if let Some(bytes) = body.held() {
            thread.access.judge_body(permit, bytes)?;
        }
        Ok(body)
    }

    /// A WebSocket whose client is judged by its first message.
    async fn open_guarded(
        &self,
        thread: &Rc<ThreadLive>,
        guarded: Result<GuardedPermit, Denied>,
        (head, body): (&mut Parts, Incoming),
        (peer, exchange): (&Rc<Peer>, &Rc<Exchange>),
    ) -> Result<Response<AnswerBody>, Rejection> {
        let permit = guarded.map_err(|denied| {
            note_denial(exchange, &denied);
            Rejection::Denied(denied.reason)
        })?;
        if !body.is_end_stream() {
            // It would reach the upstream before anybody is known.
            return Err(Rejection::BadRequest("An upgrade to a WebSocket has no body"));
        }
        let _: Result<(), _> = exchange.route.set(permit.route().label.clone());
        exchange.decide(Decision::Allow);
        let door = Door {
            shared: Arc::clone(&self.shared),
            thread: Rc::clone(thread),
            path: permit.path().clone(),
            query: head.uri.query().map(str::to_owned),
            client: exchange.client,
        };
        let (upstreams, request) = (&thread.upstreams, (head, RequestBody::Streamed(body)));
        let answer = upstreams.forward_guarded(permit, request, (peer, exchange), door.judge()).await?;
        Ok(answer.map(AnswerBody::upstream))
    }

    async fn decide(
        &self,
        access: &Access,
        question: AccessRequest<'_>,
        exchange: &Exchange,
    ) -> Result<Permit, Rejection> {
        let headers = question.headers;
        match access.decide(question, self.shared.clock.now()).await {
            Ok(permit) => {
                note_permit(exchange, &permit);
                refuse_denied_upgrade(&permit, headers).inspect_err(|_| exchange.decide(Decision::Deny))?;
                Ok(permit)
            }
            Err(denied) => {
                note_denial(exchange, &denied);
                Err(Rejection::Denied(denied.reason))
            }
        }
    }

    async fn login(
        &self,
        thread: &ThreadLive,
        request: Request<Incoming>,
        exchange: &Exchange,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let live = &*thread.live;
        // They come from anybody, and their bodies slowly perhaps: checks go on beside them.
        let Some(_place) = self.shared.logins.enter(live.limits.max_requests.div_ceil(2)) else {
            self.shared.metrics.login("overloaded");
            audit::login(None, exchange.client, "overloaded");
            return Err(Rejection::Overloaded);
        };
        let context = LoginContext {
            directory: &live.directory,
            settings: &live.login,
            access: &thread.access,
            tokens: &live.tokens,
            body_timeout: live.limits.body_timeout,
            is_stored: true,
        };
        let outcome = self.shared.login.login(&context, request, exchange.client).await;
        let result = outcome.answer.as_ref().map_or_else(login::LoginError::as_str, |_| "ok");
        if outcome.answer.is_ok() && self.shared.live.generation() != thread.generation {
            self.reconcile().await;
        }
        self.shared.metrics.login(result);
        audit::login(outcome.user.as_ref(), exchange.client, result);
        exchange.note(|facts| facts.user.clone_from(&outcome.user));
        let refused = |error| match live.login.answers {
            Answers::Documented => Rejection::Login(error),
            Answers::Engine => Rejection::LoginAsEngine(error),
        };
        Ok(outcome.answer.map_err(refused)?.map(AnswerBody::own))
    }

    /// A reload came while a login was judged by the configuration before: had its user left the directory, nobody
    /// else would end the session that was just made.
    async fn reconcile(&self) {
        let live = self.shared.live.load();
        let sessions = self.shared.login.sessions();
        if let Err(error) = sessions.reconcile(|session| live.role_of(session)).await {
            tracing::warn!(%error, "sessions that ended or changed are not stored yet");
        }
    }

    async fn logout(
        &self,
        thread: &ThreadLive,
        request: Request<Incoming>,
        exchange: &Exchange,
    ) -> Result<Response<AnswerBody>, Rejection> {
        let now = self.shared.clock.now();
        let context = LogoutContext {
            access: &thread.access,
            sessions: self.shared.login.sessions(),
            engine: thread.live.engine.as_ref(),
            engine_logouts: &self.shared.engine_logouts,
        };
        let outcome = logout::logout(&context, &request, exchange.client, now).await;
        let result = outcome.answer.as_ref().map_or_else(logout::LogoutError::as_str, |_| "ok");
        audit::logout(outcome.user.as_ref(), exchange.client, result);
        exchange.note(|facts| facts.user.clone_from(&outcome.user));
        Ok(outcome.answer?.map(AnswerBody::own))
    }
}

fn question<'r>(path: CanonicalPath, head: &'r Parts, exchange: &Exchange) -> AccessRequest<'r> {
    AccessRequest {
        path,
        method: &head.method,
        headers: &head.headers,
        query: head.uri.query(),
        client: exchange.client,
    }
}

/// Refused as well: an absolute-form target whose authority is not the Host.
fn canonical_path(head: &Parts) -> Result<CanonicalPath, Rejection> {
    let host = head.headers.get(HOST).map(HeaderValue::as_bytes);
    if !path::authority_is_host(&head.uri, host) {
        return Err(Rejection::Denied(Reason::BadPath));
    }
    CanonicalPath::of(&head.uri).map_err(|_| Rejection::Denied(Reason::BadPath))
}

fn refuse_denied_upgrade(permit: &Permit, headers: &HeaderMap) -> Result<(), Rejection> {
    match permit.route().websocket {
        WebSocketMode::Deny if headers.contains_key(UPGRADE) => Err(Rejection::UpgradeDenied),
        WebSocketMode::Deny | WebSocketMode::Credentials | WebSocketMode::FirstFrame => Ok(()),
    }
}

fn refuse(rejection: Rejection, exchange: &Exchange) -> Response<AnswerBody> {
    note_refusal(&rejection, exchange);
    rejection.into_response(&exchange.ids).map(AnswerBody::own)
}
