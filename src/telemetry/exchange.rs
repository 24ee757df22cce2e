//! What is known of one request, collected on its way and written when its answer has ended.

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Version};
use std::cell::{Cell, OnceCell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access_log::LineBuffer;
use super::ids::Ids;
use super::json::{Line, key};
use super::label::Label;
use super::metrics::{Ended, NO_ROUTE, ThreadMetrics};
use super::spans;
use super::trace::{Told, Trace, recorded};
use super::traces::SpanBuffer;
use crate::clock::{Clock, monotonic};
use crate::identity::{RoleName, UserName};
use crate::peer::Peer;

/// What a thread has for the telemetry of its requests.
pub struct Scribe {
    pub metrics: Arc<ThreadMetrics>,
    pub lines: Rc<LineBuffer>,
    pub clock: Clock,
    no_route: Label,
    /// The time of the last line, and as it was written: many lines have the same.
    written: RefCell<(i64, String)>,
    /// None: nothing is recorded.
    spans: Option<Rc<SpanBuffer>>,
}

impl Scribe {
    #[must_use]
    pub fn new(metrics: Arc<ThreadMetrics>, lines: Rc<LineBuffer>, clock: Clock) -> Rc<Self> {
        Self::recording(metrics, lines, clock, None)
    }

    /// As [`Scribe::new`]; traces go to `spans`.
    #[must_use]
    pub fn recording(
        metrics: Arc<ThreadMetrics>,
        lines: Rc<LineBuffer>,
        clock: Clock,
        spans: Option<Rc<SpanBuffer>>,
    ) -> Rc<Self> {
        let written = RefCell::new((i64::MIN, String::new()));
        Rc::new(Self { metrics, lines, clock, no_route: Label::of(NO_ROUTE), written, spans })
    }

    /// Writes the time, in ms since 1970, as RFC 3339 has it.
    fn write_time(&self, line: &mut Line<'_>) {
        let now = i64::try_from(self.clock.now().0).unwrap_or(i64::MAX);
        let mut written = self.written.borrow_mut();
        if written.0 != now {
            let time = jiff::Timestamp::from_millisecond(now).map(|time| format!("{time:.3}"));
            *written = (now, time.unwrap_or_default());
        }
        line.text(key!("time"), Some(&*written.1).filter(|time| !time.is_empty()));
    }

    /// The ids of a request, and its trace where it is to be recorded.
    #[must_use]
    pub fn place(&self, headers: &HeaderMap, version: Version, peer: &Peer) -> (Ids, Option<Rc<Trace>>) {
        match &self.spans {
            None => (Ids::of(headers, peer.trusted), None),
            Some(spans) => Trace::begin(headers, version, peer, spans),
        }
    }
}

/// One request and its answer. Lives on one thread, shared by the parts of the exchange; counted, and written to the
/// access log, when the last of them lets go.
pub struct Exchange {
    pub ids: Ids,
    pub client: IpAddr,
    pub method: Method,
    pub started: Instant,
    /// Bytes of the request's body so far.
    pub bytes_in: Cell<u64>,
    /// Bytes of the answer's body so far.
    pub bytes_out: Cell<u64>,
    /// Of the answer; 0 while there is none.
    pub status: Cell<u16>,
    /// None: there is no route, or it is not known yet.
    pub route: OnceCell<Label>,
    /// `allow` or `deny`, and why not.
    pub decision: Cell<Option<Decision>>,
    /// The word for a refusal of any kind.
    pub reason: Cell<Option<&'static str>>,
    scribe: Rc<Scribe>,
    /// The server that was asked last, as `upstream/host:port`.
    server: RefCell<Option<Label>>,
    /// From the end of the request to the head of the server's answer.
    latency: Cell<Option<Duration>>,
    answered: Cell<bool>,
    logged: bool,
    facts: Option<RefCell<Facts>>,
    /// None: this request is not recorded.
    trace: Option<Rc<Trace>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
}

impl Decision {
    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What only the access log and traces want to know.
#[derive(Clone, Default)]
pub struct Facts {
    /// As it was sent, less what may be credentials in its path.
    pub target: Option<PathAndQuery>,
    /// Less the credentials.
    pub query: Option<String>,
    pub user: Option<UserName>,
    pub role: Option<RoleName>,
    pub resource: Option<String>,
    pub permission: Option<&'static str>,
}

impl Exchange {
    /// Begins now, not to be recorded. Without an access line no facts are kept.
    #[must_use]
    pub fn begin(ids: Ids, client: IpAddr, method: Method, scribe: &Rc<Scribe>, logged: bool) -> Rc<Self> {
        Self::begin_recorded((ids, None), client, method, scribe, logged)
    }

    /// As [`Exchange::begin`], with what [`Scribe::place`] says.
    #[must_use]
    pub fn begin_recorded(
        (ids, trace): (Ids, Option<Rc<Trace>>),
        client: IpAddr,
        method: Method,
        scribe: &Rc<Scribe>,
        logged: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            ids,
            client,
            method,
            started: monotonic(),
            bytes_in: Cell::new(0),
            bytes_out: Cell::new(0),
            status: Cell::new(0),
            route: OnceCell::new(),
            decision: Cell::new(None),
            reason: Cell::new(None),
            scribe: Rc::clone(scribe),
            server: RefCell::new(None),
            latency: Cell::new(None),
            answered: Cell::new(false),
            logged,
            facts: (logged || trace.is_some()).then(RefCell::default),
            trace,
        })
    }

    /// It is decided whether the request may.
    pub fn decide(&self, decision: Decision) {
        self.decision.set(Some(decision));
        if let Some(trace) = &self.trace {
            trace.decided();
        }
    }

    /// An upstream is to be asked from here on.
    pub fn dispatched(&self) {
        if let Some(trace) = &self.trace {
            trace.asked();
        }
    }

    /// To be held by what goes on after the answer: the request's span ends when it does.
    #[must_use]
    pub fn trace(&self) -> Option<Rc<Trace>> {
        self.trace.clone()
    }

    /// Adds to what the access log and traces want to know; `add` is not called when there is neither.
    pub fn note(&self, add: impl FnOnce(&mut Facts)) {
        if let Some(facts) = &self.facts {
            add(&mut facts.borrow_mut());
        }
    }

    pub fn add_in(&self, bytes: usize) {
        self.bytes_in.set(self.bytes_in.get() + bytes as u64);
    }

    pub fn add_out(&self, bytes: usize) {
        self.bytes_out.set(self.bytes_out.get() + bytes as u64);
    }

    /// A server answered; `latency` is from the end of the request to the head of the answer.
    pub fn server_answered(&self, server: &Label, latency: Option<Duration>) {
        self.server.replace(Some(server.clone()));
        self.latency.set(latency);
        self.answered.set(true);
        if let Some(trace) = &self.trace {
            trace.answered();
        }
    }

    /// A server was asked and did not answer; whether it is ejected for it.
    pub fn server_failed(&self, server: &Label, result: &'static str, is_ejected: bool) {
        self.scribe.metrics.upstream_failed(server, result, is_ejected);
        self.server.replace(Some(server.clone()));
        if let Some(trace) = &self.trace {
            trace.failed(result);
        }
    }

    /// Another server than this one was to be asked next.
    pub fn retried(&self, server: &Label, result: &'static str) {
        self.scribe.metrics.upstream_retried(server, result);
    }

    fn count(&self, took: Duration) {
        let mut counts = self.scribe.metrics.lock();
        counts.ended(&Ended {
            route: self.route.get().unwrap_or(&self.scribe.no_route),
            method: &self.method,
            status: self.status.get(),
            took,
            // What became of a request that was allowed is the status' to tell.
            decision: self.decision.get().map(|decision| match decision {
                Decision::Allow => (decision.as_str(), "ok"),
                Decision::Deny => (decision.as_str(), self.reason.get().unwrap_or("unknown")),
            }),
        });
        if let Some(server) = self.server.borrow().as_ref().filter(|_| self.answered.get()) {
            counts.answered(server, self.latency.get());
        }
    }

    fn write(&self, facts: &Facts, took: Duration, out: &mut Vec<u8>) {
        let mut line = Line::begin(out);
        self.scribe.write_time(&mut line);
        line.text(key!("request_id"), Some(self.ids.request()))
            .text(key!("trace_id"), Some(self.ids.trace()))
            .address(key!("client"), self.client)
            .text(key!("method"), Some(self.method.as_str()))
            .text(key!("path"), Some(facts.target.as_ref().map_or("", PathAndQuery::path)))
            .text(key!("query"), facts.query.as_deref())
            .text(key!("route"), self.route.get().map(|route| &**route))
            .number(key!("status"), self.status.get())
            .number(key!("bytes_in"), self.bytes_in.get())
            .number(key!("bytes_out"), self.bytes_out.get())
            .millis(key!("duration_ms"), took)
            .text(key!("upstream"), self.server.borrow().as_deref());
        if let Some(took) = self.latency.get() {
            line.millis(key!("upstream_ms"), took);
        }
        line.text(key!("user"), facts.user.as_ref().map(UserName::as_str))
            .text(key!("domain"), facts.user.as_ref().and_then(UserName::domain))
            .text(key!("role"), facts.role.as_ref().map(RoleName::as_str))
            .text(key!("resource"), facts.resource.as_deref())
            .text(key!("permission"), facts.permission)
            .text(key!("decision"), self.decision.get().map(Decision::as_str))
            .text(key!("reason"), self.reason.get());
        line.end();
    }
}

impl Exchange {
    fn told(&self, facts: Option<&Facts>) -> Told {
        let path = facts.and_then(|facts| facts.target.as_ref()).map_or("", PathAndQuery::path);
        Told {
            started: self.started,
            client: self.client,
            method: spans::method(&self.method),
            path: recorded(path),
            route: self.route.get().cloned(),
            status: self.status.get(),
            decision: self.decision.get(),
            reason: self.reason.get(),
            role: facts.and_then(|facts| facts.role.clone()),
            server: self.server.take(),
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let took = monotonic().saturating_duration_since(self.started);
        self.count(took);
        let facts = self.facts.take();
        if let Some(facts) = facts.as_ref().filter(|_| self.logged) {
            self.scribe.lines.add(|out| self.write(&facts.borrow(), took, out));
        }
        if let Some(trace) = &self.trace {
            trace.tell(self.told(facts.map(RefCell::into_inner).as_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::UnixMillis;
    use crate::telemetry::access_log::AccessLog;
    use crate::telemetry::metrics::Metrics;
    use http::HeaderMap;
    use std::io::Write;
    use std::sync::mpsc::{Sender, channel};

    struct Sink(Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_line_is_written_when_the_last_holder_lets_go() {
        let (sent, received) = channel();
        let (log, writer) = AccessLog::start(Sink(sent)).unwrap();
        let lines = LineBuffer::new(log);
        let clock = Clock::manual(UnixMillis(1_464_587_176_910));
        let ids = Ids::of(&HeaderMap::new(), false);
        let metrics = Metrics::default();
        let scribe = Scribe::new(metrics.thread(), lines, clock);
        let exchange = Exchange::begin(ids, IpAddr::from([192, 0, 2, 1]), Method::GET, &scribe, true);
        let body = Rc::clone(&exchange);
        exchange.note(|facts| {
            facts.target = Some(PathAndQuery::from_static("/api/v2/cdr?a=1&access_token=t"));
            facts.query = Some("a=1".into());
            facts.user = Some(UserName::new("100@d"));
        });
        exchange.status.set(200);
        drop(exchange);
        body.add_out(12);
        drop((body, scribe));
        writer.finish();
        let line: serde_json::Value = serde_json::from_slice(&received.recv().unwrap()).unwrap();
        assert_eq!(line["time"], "2016-05-30T05:46:16.910Z");
        assert_eq!((&line["path"], &line["query"]), (&"/api/v2/cdr".into(), &"a=1".into()));
        assert_eq!((&line["status"], &line["bytes_out"]), (&200.into(), &12.into()));
        assert_eq!(
            metrics.totals().routes[NO_ROUTE].requests.iter().collect::<Vec<_>>(),
            [(("GET", 200), 1)]
        );
        assert_eq!((&line["user"], &line["domain"]), (&"100@d".into(), &"d".into()));
    }
}
