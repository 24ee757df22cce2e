//! From a permitted request to an answer: a server is chosen, a connection found or opened, the request sent; and sent
//! elsewhere only while nothing of it can have been processed.

mod over_h2c;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Response, StatusCode, Version};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

use super::balance::{Balancer, NoServer};
use super::body::{Running, UpstreamBody};
use super::conn::{Connection, Staged};
use super::dial;
use super::head::{self, Target};
use super::headers::{self, Onward, Policy};
use super::http1::{Call, Fault, Limits};
use super::parse::Head;
use super::pool::{self, Lane, Load};
use super::retry::{Budget, Tried};
use super::server::Group;
use super::stream::Stream;
use super::upgrade::{self, Held};
use super::upload::{self, Upload};
use super::watch::Watch;
use super::websocket::{self, Judge};
use super::{ForwardError, Scheme, UpstreamContext};
use crate::access::Principal;
use crate::clock::monotonic;
use crate::telemetry::exchange::Exchange;

/// One upstream as this thread sees it.
pub(super) struct LocalGroup {
    pub(super) shared: Arc<Group>,
    balancer: Balancer,
    budget: Budget,
    lanes: RefCell<Rc<[Rc<Lane>]>>,
    generation: Cell<Option<u64>>,
}

/// A request as it is to go out, less its body.
pub(super) struct Ask<'a> {
    /// Which one the client speaks.
    pub(super) version: Version,
    pub(super) target: Target<'a>,
    pub(super) onward: Onward<'a>,
    pub(super) policy: &'a Rc<Policy>,
    pub(super) principal: Option<&'a Principal>,
    pub(super) context: &'a UpstreamContext,
    pub(super) exchange: Option<&'a Rc<Exchange>>,
    /// Of a guarded WebSocket: taken by the tunnel that is to ask it.
    pub(super) judge: Option<&'a RefCell<Option<Judge>>>,
}

impl Ask<'_> {
    fn watch(&self) -> Watch {
        Watch::new(self.principal.cloned(), self.context.clock.clone())
    }

    fn note_answer(&self, lane: &Lane, sent: Option<Instant>) {
        lane.answered();
        if let Some(exchange) = self.exchange {
            let latency = sent.map(|sent| monotonic().saturating_duration_since(sent));
            exchange.server_answered(&lane.label, latency);
        }
    }

    fn note_unreachable(&self, lane: &Lane, group: &Group) {
        let is_ejected = lane.failed(group);
        if let Some(exchange) = self.exchange {
            exchange.server_failed(&lane.label, UNREACHABLE, is_ejected);
        }
    }

    /// What the client does wrong is not held against the server, and a 5xx is an answer. Nor is what a server breaks off
    /// while `client_is_slow`: it may well be tired of waiting, and clients could have it ejected.
    fn note_failure(&self, (lane, group): (&Lane, &Group), e: &ForwardError, client_is_slow: bool) {
        let is_servers = matches!(e, ForwardError::Broken(_) | ForwardError::Timeout);
        let is_ejected = is_servers && !client_is_slow && lane.failed(group);
        if let Some(exchange) = self.exchange {
            exchange.server_failed(&lane.label, e.as_str(), is_ejected);
        }
    }
}

/// The result of a try that reached no server.
const UNREACHABLE: &str = "unreachable";

/// Why no connection could be had.
enum NoConnection {
    Busy,
    Failed(io::Error),
}

impl LocalGroup {
    pub(super) fn new(shared: Arc<Group>) -> Self {
        let (balancer, budget) = (Balancer::new(&shared.settings), Budget::new());
        let (lanes, generation) = (RefCell::new(Rc::from([])), Cell::new(None));
        let group = Self { shared, balancer, budget, lanes, generation };
        // At once, so that the lanes of the configuration before are still there.
        group.lanes();
        group
    }

    /// The servers of the newest resolution.
    pub(super) fn lanes(&self) -> Rc<[Rc<Lane>]> {
        let generation = self.shared.generation();
        if self.generation.replace(Some(generation)) != Some(generation) {
            let servers = self.shared.servers();
            let lanes: Rc<[_]> = servers.iter().map(|server| Lane::of(&self.shared, server)).collect();
            lanes.iter().for_each(|lane| lane.list());
            self.lanes.replace(lanes).iter().for_each(|lane| lane.unlist());
        }
        self.lanes.borrow().clone()
    }

    fn limits(&self, context: &UpstreamContext) -> Limits {
        Limits { response: self.shared.settings.response_timeout, body: context.body_timeout }
    }

    /// Sends the request and answers with the answer's head and its body to come. `client`: it asked for an upgrade.
    pub(super) async fn send<B>(
        &self,
        ask: &Ask<'_>,
        body: B,
        client: Option<OnUpgrade>,
    ) -> Result<Response<UpstreamBody<B>>, ForwardError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        if self.lanes().is_empty() {
            Box::pin(self.shared.until_asked()).await;
        }
        self.budget.earn();
        if self.shared.settings.servers.iter().all(|url| url.scheme == Scheme::H2c) {
            return Box::pin(self.send_h2c(ask, body)).await;
        }
        self.send_http1(ask, body, client).await
    }

    async fn send_http1<B>(
        &self,
        ask: &Ask<'_>,
        body: B,
        client: Option<OnUpgrade>,
    ) -> Result<Response<UpstreamBody<B>>, ForwardError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let sending = upload::sending(ask.target.method, ask.onward.headers, &body);
        let held = upload::expects_continue(ask.onward.headers, sending);
        let upgrade = client.as_ref().and_then(|_| ask.onward.headers.get(header::UPGRADE));
        let mut upload =
            Upload::new((body, ask.version), sending, held, ask.policy.clone(), ask.exchange.cloned());
        let mut call = Call::new(ask.target.method, upgrade.is_some(), self.limits(ask.context));
        let (mut watch, mut tried, mut staged) = (ask.watch(), Tried::default(), None);
        loop {
            let now = monotonic();
            let lane = self.pick(&mut tried, now)?;
            let load = Load::on(&lane);
            let (mut conn, reused) = match self.connection(&lane, now, ask.context).await {
                Ok(found) => found,
                Err(NoConnection::Busy) => return Err(ForwardError::Busy),
                Err(NoConnection::Failed(e)) => {
                    self.failed(ask, &mut tried, &lane, e)?;
                    continue;
                }
            };
            conn.staged = staged.take().unwrap_or_else(|| {
                let mut fresh = std::mem::take(&mut conn.staged);
                let policy = (&**ask.policy, &ask.onward);
                head::write(&mut fresh.buf, &ask.target, sending, upgrade, policy);
                fresh
            });
            match call.run(&mut conn, &mut upload, &mut watch).await {
                Ok(head) => {
                    ask.note_answer(&lane, call.sent);
                    let quiet = ask.context.body_timeout;
                    let running = Running { conn: Some(conn), upload, lane, load, watch, reuse: None, quiet };
                    let patience = self.shared.settings.response_timeout;
                    return answer(head, running, (ask, client, patience));
                }
                Err(Fault::Failed(e)) => {
                    ask.note_failure((&lane, &self.shared), &e, upload.waits_for_client());
                    return Err(e);
                }
                Err(Fault::Unsent(e)) => {
                    staged = Some::<Staged>(std::mem::take(&mut conn.staged));
                    if !reused {
                        self.failed(ask, &mut tried, &lane, e)?;
                    }
                }
            }
        }
    }

    fn pick(&self, tried: &mut Tried, now: Instant) -> Result<Rc<Lane>, ForwardError> {
        self.balancer.pick(&self.lanes(), tried, now).map_err(|none| match none {
            NoServer::Unhealthy => ForwardError::Busy,
            NoServer::Exhausted => ForwardError::Unreachable(tried.last.take()),
        })
    }

    /// Notes a server that took nothing of the request; an error once no more are to be tried.
    fn failed(
        &self,
        ask: &Ask<'_>,
        tried: &mut Tried,
        lane: &Rc<Lane>,
        e: io::Error,
    ) -> Result<(), ForwardError> {
        ask.note_unreachable(lane, &self.shared);
        if self.next_is_none(ask, tried, lane) {
            return Err(ForwardError::Unreachable(Some(e)));
        }
        tried.last = Some(e);
        Ok(())
    }

    /// Whether the request may not be sent to another server than this one: all were tried, or as many as may be.
    fn next_is_none(&self, ask: &Ask<'_>, tried: &mut Tried, lane: &Rc<Lane>) -> bool {
        tried.add(lane);
        let is_last = tried.count() > self.shared.settings.retries as usize;
        if is_last || self.lanes().iter().all(|lane| tried.has(lane)) {
            return true;
        }
        let is_granted = self.budget.spend(monotonic());
        if let Some(exchange) = ask.exchange {
            exchange.retried(&lane.label, if is_granted { "sent" } else { "over_budget" });
        }
        !is_granted
    }

    /// An idle connection (`true`), or a new one.
    async fn connection(
        &self,
        lane: &Lane,
        now: Instant,
        context: &UpstreamContext,
    ) -> Result<(Connection, bool), NoConnection> {
        if let Some(conn) = lane.checkout(now) {
            return Ok((conn, true));
        }
        // Boxed: the future of every request would have room for a TLS handshake.
        Box::pin(self.open(lane, context)).await.map(|opened| (opened, false))
    }

    async fn open(&self, lane: &Lane, context: &UpstreamContext) -> Result<Connection, NoConnection> {
        let slot = self.slot().await.ok_or(NoConnection::Busy)?;
        let stream = self.connect(lane, context).await?;
        Ok(Connection::new(stream, slot))
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        let limit = &self.shared.limit;
        if let Some(slot) = limit.try_slot() {
            return Some(slot);
        }
        pool::give_up(limit);
        limit.slot(self.shared.settings.connect_timeout, self.shared.settings.max_pending).await
    }

    async fn connect(&self, lane: &Lane, context: &UpstreamContext) -> Result<Stream, NoConnection> {
        let limits = self.limits(context);
        let connecting = async {
            let tcp = dial::connect(lane.addr, limits.to_take()).await?;
            match (&self.shared.tls, lane.url.scheme) {
                (Some(tls), Scheme::Https) => tls.connect(&lane.url.host, tcp).await,
                (None, Scheme::Https) => Err(io::ErrorKind::Unsupported.into()),
                (_, Scheme::Http | Scheme::H2c) => Ok(Stream::Tcp(tcp)),
            }
        };
        let connected = tokio::time::timeout(self.shared.settings.connect_timeout, connecting).await;
        let result = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match result {
            Ok(stream) => {
                lane.connected();
                Ok(stream)
            }
            Err(e) if dial::is_ours(&e) => {
                dial::tell(&self.shared.settings.name, &e);
                Err(NoConnection::Busy)
            }
            Err(e) => {
                lane.connect_failed();
                Err(NoConnection::Failed(e))
            }
        }
    }
}

impl Drop for LocalGroup {
    fn drop(&mut self) {
        self.lanes.get_mut().iter().for_each(|lane| lane.unlist());
    }
}

/// The answer as it goes back: ordinary, or the 101 behind which both sides are copied.
fn answer<B>(
    head: Head,
    running: Running<B>,
    (ask, client, patience): (&Ask<'_>, Option<OnUpgrade>, Duration),
) -> Result<Response<UpstreamBody<B>>, ForwardError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let switching = head.status == StatusCode::SWITCHING_PROTOCOLS;
    let asked = || ask.onward.headers.get(header::UPGRADE).zip(head.upgrade.as_ref());
    if switching && !asked().is_some_and(|(asked, switched)| headers::is_asked(asked, switched)) {
        return Err(ForwardError::Broken("101 for a protocol that was not asked for"));
    }
    if switching && ask.judge.is_some() && head.headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(ForwardError::Broken("101 with an extension that was not offered"));
    }
    let body = match (switching, client) {
        (false, _) => UpstreamBody::of(&head, running),
        (true, Some(client)) => tunnel(running, client, (ask, patience))?,
        (true, None) => return Err(ForwardError::Broken("101 that was not asked for")),
    };
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if switching {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        response.headers_mut().extend(head.upgrade.map(|protocol| (header::UPGRADE, protocol)));
    }
    Ok(response)
}

fn tunnel<B>(
    running: Running<B>,
    client: OnUpgrade,
    (ask, patience): (&Ask<'_>, Duration),
) -> Result<UpstreamBody<B>, ForwardError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
{
    let Running { conn, upload, watch, load, .. } = running;
    let conn = conn.filter(|_| upload.is_complete());
    let conn = conn.ok_or(ForwardError::Broken("101 before the end of the request"))?;
    let trace = ask.exchange.and_then(|exchange| exchange.trace());
    let held = Held { watch, guard: ask.context.drain.guard(), load, trace };
    let judge = ask.judge.and_then(RefCell::take);
    if judge.is_some() || headers::is_websocket(ask.onward.headers) {
        websocket::spawn(client, conn, held, (judge, patience));
    } else {
        upgrade::spawn(client, conn, held);
    }
    Ok(UpstreamBody::empty())
}
