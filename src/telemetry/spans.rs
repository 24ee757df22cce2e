//! The spans of a recorded request, named and attributed by OpenTelemetry's semantic conventions for HTTP. Pure. What is
//! told is what the configuration and the program call things, the path and the client's address: no user, no query, no
//! header.
//!
//! The request itself is a SERVER span. Below it: `tls handshake` of the connection's first request (so it may have ended
//! before its parent began), `decision` up to the moment when it was decided, and `upstream`, a CLIENT span that covers
//! all tries; its id is what the upstream was given as parent.

use http::Version;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use super::ids::span_id;
use super::trace::{Asked, Story};

/// One moment on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Anchor {
    pub(super) monotonic: Instant,
    pub(super) wall: SystemTime,
}

impl Anchor {
    /// A moment that lies in the past.
    fn wall(self, at: Instant) -> SystemTime {
        let ago = self.monotonic.saturating_duration_since(at);
        self.wall.checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// The request's own span first.
pub(super) fn of(story: &Story, anchor: Anchor) -> Vec<SpanData> {
    let mut spans = Vec::with_capacity(4);
    spans.push(server(story, anchor));
    if let Some(handshake) = &story.handshake {
        let mut span = child(story, "tls handshake", (handshake.began, handshake.ended), anchor);
        span.attributes.push(KeyValue::new("tls.protocol.version", handshake.version));
        spans.push(span);
    }
    if let Some(decided) = story.decided {
        let mut span = child(story, "decision", (story.told.started, decided), anchor);
        add_decision(story, &mut span.attributes);
        spans.push(span);
    }
    if let Some(asked) = &story.upstream {
        spans.push(upstream(story, asked, anchor));
    }
    spans
}

fn server(story: &Story, anchor: Anchor) -> SpanData {
    let told = &story.told;
    let mut attributes = Vec::with_capacity(12);
    attributes.push(KeyValue::new("http.request.method", told.method));
    attributes.push(KeyValue::new("url.scheme", story.scheme));
    attributes.push(KeyValue::new("url.path", told.path.clone()));
    attributes.push(KeyValue::new("client.address", told.client.to_string()));
    if let Some(version) = version(story.version) {
        attributes.push(KeyValue::new("network.protocol.version", version));
    }
    if let Some(route) = &told.route {
        attributes.push(KeyValue::new("http.route", route.to_string()));
    }
    if told.status != 0 {
        attributes.push(KeyValue::new("http.response.status_code", i64::from(told.status)));
    }
    // A refusal of the client's request is no error of ours: by convention only a 5xx is.
    let error: Option<Cow<'static, str>> = match told.status {
        0 => Some("no_answer".into()),
        500.. => Some(told.reason.map_or_else(|| told.status.to_string().into(), Cow::Borrowed)),
        _ => None,
    };
    add_decision(story, &mut attributes);
    let word = if told.method == OTHER { "HTTP" } else { told.method };
    let name = match &told.route {
        Some(route) => Cow::Owned(format!("{word} {route}")),
        None => Cow::Borrowed(word),
    };
    let mut span = span(story, name, (told.started, story.ended), anchor);
    span.span_context = context(story, story.place.server);
    span.parent_span_id = SpanId::from(story.place.parent.unwrap_or(0));
    span.parent_span_is_remote = story.place.parent.is_some();
    span.span_kind = SpanKind::Server;
    span.attributes = attributes;
    add_error(&mut span, error);
    span
}

fn upstream(story: &Story, asked: &Asked, anchor: Anchor) -> SpanData {
    let told = &story.told;
    let mut span = child(story, "upstream", (asked.from, asked.to), anchor);
    span.span_context = context(story, story.place.upstream);
    span.span_kind = SpanKind::Client;
    let attributes = &mut span.attributes;
    attributes.push(KeyValue::new("http.request.method", told.method));
    if let Some((upstream, server)) = told.server.as_ref().and_then(|server| server.rsplit_once('/')) {
        attributes.push(KeyValue::new("postern.upstream", upstream.to_owned()));
        if let Ok(addr) = server.parse::<SocketAddr>() {
            attributes.push(KeyValue::new("server.address", addr.ip().to_string()));
            attributes.push(KeyValue::new("server.port", i64::from(addr.port())));
        }
    }
    if asked.resent > 0 {
        attributes.push(KeyValue::new("http.request.resend_count", i64::from(asked.resent)));
    }
    let error: Option<Cow<'static, str>> = match asked.failure {
        Some(failure) => Some(failure.into()),
        // The gateway's own answer, in place of one that it could not pass on.
        None if told.reason.is_some() => told.reason.map(Cow::Borrowed),
        None => {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(told.status)));
            (told.status >= 400).then(|| told.status.to_string().into())
        }
    };
    add_error(&mut span, error);
    span
}

/// The method where it is none that everyone knows: a client can make up any.
const OTHER: &str = "_OTHER";

/// The method as spans have it.
pub(super) fn method(method: &http::Method) -> &'static str {
    match super::metrics::method_word(method) {
        "other" => OTHER,
        known => known,
    }
}

fn version(version: Version) -> Option<&'static str> {
    match version {
        Version::HTTP_10 => Some("1.0"),
        Version::HTTP_11 => Some("1.1"),
        Version::HTTP_2 => Some("2"),
        _ => None,
    }
}

fn add_decision(story: &Story, attributes: &mut Vec<KeyValue>) {
    let told = &story.told;
    attributes.extend(told.decision.map(|decision| KeyValue::new("postern.decision", decision.as_str())));
    attributes.extend(told.reason.map(|reason| KeyValue::new("postern.reason", reason)));
    attributes.extend(told.role.as_ref().map(|role| KeyValue::new("postern.role", role.as_str().to_owned())));
}

fn add_error(span: &mut SpanData, error: Option<Cow<'static, str>>) {
    if let Some(error) = error {
        span.attributes.push(KeyValue::new("error.type", error));
        span.status = Status::error("");
    }
}

/// Of something that is part of the request.
fn child(story: &Story, name: &'static str, times: (Instant, Instant), anchor: Anchor) -> SpanData {
    span(story, name.into(), times, anchor)
}

fn span(
    story: &Story,
    name: Cow<'static, str>,
    (start, end): (Instant, Instant),
    anchor: Anchor,
) -> SpanData {
    SpanData {
        span_context: context(story, span_id()),
        parent_span_id: SpanId::from(story.place.server),
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name,
        start_time: anchor.wall(start),
        end_time: anchor.wall(end),
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("postern")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

fn context(story: &Story, id: u64) -> SpanContext {
    let trace = TraceId::from(story.place.trace);
    SpanContext::new(trace, SpanId::from(id), TraceFlags::SAMPLED, false, TraceState::NONE)
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::exchange::Decision;
    use super::super::ids::TracePlace;
    use super::super::label::Label;
    use super::super::trace::Told;
    use super::*;
    use crate::clock::monotonic;
    use crate::identity::RoleName;
    use crate::peer::Handshake;
    use std::net::IpAddr;
    use std::time::Duration;

    /// Allowed, forwarded and answered, the first of its connection: four spans.
    pub(in super::super) fn story() -> Story {
        let now = monotonic();
        let at = |ms| now + Duration::from_millis(ms);
        Story {
            place: TracePlace { trace: 0xa1, parent: Some(0xb2), server: 0xc3, upstream: 0xd4 },
            scheme: "https",
            version: Version::HTTP_11,
            handshake: Some(Handshake { began: at(0), ended: at(5), version: "1.3" }),
            decided: Some(at(12)),
            upstream: Some(Asked { from: at(13), to: at(40), resent: 1, failure: None }),
            ended: at(50),
            told: Told {
                started: at(10),
                client: IpAddr::from([192, 0, 2, 1]),
                method: "GET",
                path: "/api/v2/cdr/1".to_owned(),
                route: Some(Label::of("/api/v2/cdr")),
                status: 200,
                decision: Some(Decision::Allow),
                reason: None,
                role: Some(RoleName::new("admin")),
                server: Some(Label::of("engine/192.0.2.7:10022")),
            },
        }
    }

    fn spans(story: &Story) -> Vec<SpanData> {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let anchor = Anchor { monotonic: story.told.started + Duration::from_secs(1), wall };
        of(story, anchor)
    }

    #[track_caller]
    fn has(span: &SpanData, name: &str, value: &str) {
        let found = span.attributes.iter().find(|pair| pair.key.as_str() == name);
        assert_eq!(
            found.map(|pair| pair.value.to_string()).as_deref(),
            Some(value),
            "{name} of {}",
            span.name
        );
    }

    fn has_not(span: &SpanData, name: &str) {
        assert!(span.attributes.iter().all(|pair| pair.key.as_str() != name), "{name} of {}", span.name);
    }

    #[test]
    fn a_forwarded_request_has_its_spans_one_below_the_other() {
        let story = story();
        let spans = spans(&story);
        assert_eq!(spans.len() as u64, story.spans());
        let [server, handshake, decision, upstream] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!(server.name, "GET /api/v2/cdr");
        assert_eq!(
            (&handshake.name[..], &decision.name[..], &upstream.name[..]),
            ("tls handshake", "decision", "upstream")
        );
        assert_eq!(
            (server.span_kind.clone(), upstream.span_kind.clone()),
            (SpanKind::Server, SpanKind::Client)
        );
        assert_eq!(server.parent_span_id, SpanId::from(0xb2));
        assert!(server.parent_span_is_remote);
        for below in [handshake, decision, upstream] {
            assert_eq!(below.parent_span_id, SpanId::from(0xc3), "{}", below.name);
        }
        assert_eq!(server.span_context.span_id(), SpanId::from(0xc3));
        assert_eq!(upstream.span_context.span_id(), SpanId::from(0xd4));
        assert!(spans.iter().all(|span| span.span_context.trace_id() == TraceId::from(0xa1)));
        for (name, value) in [
            ("http.request.method", "GET"),
            ("url.path", "/api/v2/cdr/1"),
            ("url.scheme", "https"),
            ("http.route", "/api/v2/cdr"),
            ("http.response.status_code", "200"),
            ("client.address", "192.0.2.1"),
            ("network.protocol.version", "1.1"),
            ("postern.decision", "allow"),
            ("postern.role", "admin"),
        ] {
            has(server, name, value);
        }
        has(upstream, "server.address", "192.0.2.7");
        has(upstream, "server.port", "10022");
        has(upstream, "http.request.resend_count", "1");
        has(handshake, "tls.protocol.version", "1.3");
        assert!(spans.iter().all(|span| span.status == Status::Unset));
    }

    #[test]
    fn times_are_those_of_the_wall() {
        let spans = spans(&story());
        let ms = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        let times: Vec<_> = spans.iter().map(|s| (ms(s.start_time), ms(s.end_time))).collect();
        let began = 1_000_000_000 - 1000;
        assert_eq!(
            times,
            [(began, began + 40), (began - 10, began - 5), (began, began + 2), (began + 3, began + 30)]
        );
    }

    #[test]
    fn a_refusal_says_why_and_is_no_error() {
        let mut story = story();
        (story.upstream, story.handshake, story.place.parent) = (None, None, None);
        (story.told.status, story.told.reason) = (403, Some("permission"));
        (story.told.decision, story.told.route, story.told.method) = (Some(Decision::Deny), None, OTHER);
        let spans = spans(&story);
        let [server, decision] = &spans[..] else { panic!("{spans:?}") };
        assert_eq!((&server.name[..], server.parent_span_id), ("HTTP", SpanId::INVALID));
        assert!(!server.parent_span_is_remote);
        for span in [server, decision] {
            has(span, "postern.decision", "deny");
            has(span, "postern.reason", "permission");
            has_not(span, "error.type");
        }
    }

    #[test]
    fn what_fails_is_an_error_with_its_word() {
        let mut story = story();
        story.upstream = story.upstream.map(|asked| Asked { failure: Some("unreachable"), ..asked });
        (story.told.status, story.told.reason) = (502, Some("unreachable"));
        for span in spans(&story).iter().filter(|span| ["GET /api/v2/cdr", "upstream"].contains(&&*span.name))
        {
            has(span, "error.type", "unreachable");
            assert_eq!(span.status, Status::error(""));
        }
        let mut story = self::story();
        story.told.status = 500;
        for span in spans(&story).iter().filter(|span| ["GET /api/v2/cdr", "upstream"].contains(&&*span.name))
        {
            has(span, "error.type", "500");
        }
        story.told.status = 0;
        has(&spans(&story)[0], "error.type", "no_answer");
        has_not(&spans(&story)[0], "http.response.status_code");
    }
}
