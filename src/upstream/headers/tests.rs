//! What goes on, what is taken out, what is added, by examples and by a property.

use super::*;
use proptest::prelude::*;

struct Lines(Vec<String>);

impl Sink for Lines {
    fn put(&mut self, name: &HeaderName, value: &[u8]) {
        self.0.push(format!("{name}: {}", String::from_utf8_lossy(value)));
    }
}

fn policy() -> Policy {
    Policy::new(&CredentialNames {
        token_headers: vec![HeaderName::from_static("x-access-token")],
        key_headers: vec![HeaderName::from_static("x-key")],
        token_query: vec![],
        key_query: vec![],
    })
}

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let pair = |(n, v): &(&str, &str)| {
        (HeaderName::from_bytes(n.as_bytes()).unwrap(), HeaderValue::from_str(v).unwrap())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in fields.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn sent_by(fields: &[(&str, &str)], trusted: bool, credentials: CredentialsOut<'_>) -> Vec<String> {
    let headers = map(fields);
    let peer = Peer::new("192.0.2.1:9".parse().unwrap(), ListenerKind::Https, trusted);
    let (user, role) = (UserName::new("100@дом.com"), RoleName::new("admin"));
    let onward = Onward {
        headers: &headers,
        host: b"api.example.com",
        caller: Some((&user, &role)),
        scope: Some(Scope::Own),
        credentials,
        peer: &peer,
        ids: &Ids::of(&headers, trusted),
        extensions: true,
    };
    let mut lines = Lines(Vec::new());
    policy().outgoing(&onward, &mut lines);
    lines.0
}

fn sent(fields: &[(&str, &str)]) -> Vec<String> {
    sent_by(fields, false, CredentialsOut::None)
}

#[test]
fn what_would_mislead_the_upstream_is_dropped() {
    let bad = [
        "x_webitel_user",
        "X.Webitel.Role",
        "x-webitel-anything",
        "x-postern-scope",
        "X~Postern_Scope",
        "x-forwarded-for",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
        "x-original-url",
        "X_Rewrite_Url",
        "x-http-method-override",
        "x.http.method",
        "x_key",
        "X.Access.Token",
        "x-key",
        "content_length",
        "transfer_encoding",
        "te",
        "keep-alive",
        "proxy-connection",
        "http2-settings",
        "trailer",
        "upgrade",
    ];
    for name in bad {
        let lines = sent(&[(name, "EVIL")]);
        assert!(!lines.iter().any(|l| l.contains("EVIL")), "{name}: {lines:?}");
    }
}

#[test]
fn connection_names_away_plain_fields_only() {
    let named = "close, x-private, x-webitel-user, host, x-request-id, x-access-token";
    let judged = Judged { token: HeaderValue::from_static("t"), key: None };
    let fields = [("connection", named), ("x-private", "EVIL"), ("x-kept", "yes")];
    let lines = sent_by(&fields, false, CredentialsOut::Judged(&judged));
    assert!(!lines.iter().any(|l| l.contains("EVIL") || l.starts_with("connection")), "{lines:?}");
    for line in ["x-kept: yes", "host: api.example.com", "x-access-token: t"] {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    }
    assert!(lines.iter().any(|l| l == "x-webitel-user: 100@%D0%B4%D0%BE%D0%BC.com"), "{lines:?}");
}

#[test]
fn forwarded_fields_of_trusted_peers_are_kept_and_appended_to() {
    let fields = [("x-forwarded-for", "198.51.100.7"), ("x-forwarded-proto", "http"), ("x-real-ip", "r")];
    let lines = sent_by(&fields, true, CredentialsOut::None);
    for line in ["x-forwarded-for: 198.51.100.7, 192.0.2.1", "x-forwarded-proto: http", "x-real-ip: r"] {
        assert!(lines.iter().any(|l| l == line), "{line} in {lines:?}");
    }
    assert!(sent(&fields).iter().any(|l| l == "x-forwarded-for: 192.0.2.1"));
}

#[test]
fn credentials_pass_as_they_came_only_where_they_were_not_judged() {
    let fields = [("x-access-token", "T"), ("x-key", "K")];
    let lines = sent_by(&fields, false, CredentialsOut::AsCame);
    assert!(lines.iter().any(|l| l == "x-access-token: T") && lines.iter().any(|l| l == "x-key: K"));
    let judged = Judged { token: HeaderValue::from_static("J"), key: None };
    let lines = sent_by(&fields, false, CredentialsOut::Judged(&judged));
    assert!(lines.iter().any(|l| l == "x-access-token: J"));
    assert!(!lines.iter().any(|l| l.starts_with("x-key")));
}

#[test]
fn cookies_are_joined_and_te_keeps_trailers_only() {
    let lines = sent(&[("cookie", "a=1"), ("cookie", "b=2"), ("te", "gzip, trailers")]);
    assert!(lines.iter().any(|l| l == "cookie: a=1; b=2") && lines.iter().any(|l| l == "te: trailers"));
}

#[test]
fn an_upgrade_is_asked_by_both_fields() {
    let both = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
    assert_eq!(upgrade_asked(&Method::GET, &both).unwrap(), "websocket");
    assert!(upgrade_asked(&Method::GET, &map(&[("upgrade", "websocket")])).is_none());
    let two = map(&[("connection", "upgrade"), ("upgrade", "a"), ("upgrade", "b")]);
    assert!(upgrade_asked(&Method::GET, &two).is_none());
}

#[test]
fn protocols_that_carry_requests_are_not_asked_for() {
    for protocol in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0", "websocket, h2c", "h2c,websocket"] {
        let asked = map(&[("connection", "upgrade, http2-settings"), ("upgrade", protocol)]);
        assert!(upgrade_asked(&Method::GET, &asked).is_none(), "{protocol}");
    }
}

#[test]
fn a_switch_is_to_one_of_the_protocols_asked_for() {
    let is =
        |asked, switched| is_asked(&HeaderValue::from_static(asked), &HeaderValue::from_static(switched));
    assert!(is("websocket", "WebSocket") && is("a, websocket", "websocket"));
    assert!(!is("websocket", "other") && !is("a,, b", "") && !is("a, b", "a, b"));
}

proptest! {
    #[test]
    fn a_look_alike_of_a_dropped_name_is_dropped(
        which in 0..6usize, seps in proptest::collection::vec("[-_.~!+*']", 8)
    ) {
        let names = ["x-webitel-user", "x-postern-scope", "content-length", "x-key",
            "transfer-encoding", "x-original-url"];
        let mut seps = seps.into_iter();
        let spelt: String = names[which].chars()
            .map(|c| if c == '-' { seps.next().unwrap() } else { c.to_string() }).collect();
        let name = HeaderName::from_bytes(spelt.as_bytes()).unwrap();
        prop_assert!(matches!(policy().class(&name), Class::Dropped | Class::Credential));
        prop_assert!(!policy().trailer_passes(&name));
    }
}
