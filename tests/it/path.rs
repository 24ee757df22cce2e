//! Paths: decided in one form, forwarded in that form, refused where two servers could differ (contract section 4, Path).

use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

/// Everything that gets past the path check is forwarded to whoever is logged in.
async fn open_gateway() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = configured(|settings| {
        let open = "access = 'authenticated'\nupstream = 'engine'";
        settings.route(&format!("path = '/'\n{open}"));
        settings.route(&format!("path = '/enc'\n{open}\nencoded_slash = true"));
        settings.route(&format!("path = '/engine'\n{open}\nstrip_prefix = '/engine'"));
    })
    .await;
    let session = gateway.login("100").await;
    (upstream, gateway, session)
}

#[tokio::test]
async fn what_is_forwarded_is_the_normalised_path_in_the_clients_letter_case() {
    let (upstream, gateway, session) = open_gateway().await;
    for (sent, forwarded) in [
        ("/", "/"),
        ("/a/b", "/a/b"),
        ("/a/%62c", "/a/bc"),
        ("/a/%41%7E%2d%5F", "/a/A~-_"),
        ("/a/./b", "/a/b"),
        ("/a/x/../b", "/a/b"),
        ("/x/../a", "/a"),
        ("/a//b///c", "/a/b/c"),
        ("/a/", "/a/"),
        ("/a//", "/a/"),
        ("/AbC/dEf", "/AbC/dEf"),
        ("/a%20b", "/a%20b"),
        ("/a/%E4%BD%A0", "/a/%E4%BD%A0"),
        ("/a/100%25", "/a/100%25"),
        ("/a/b@c:d,e+f=g&h'(i)*!$", "/a/b@c:d,e+f=g&h'(i)*!$"),
        ("/a/...", "/a/..."),
        ("/a/.hidden", "/a/.hidden"),
        ("/a/b#fragment", "/a/b"),
        ("http://localhost/a/b", "/a/b"),
        ("http://LOCALHOST/a/../b", "/b"),
    ] {
        let answer = gateway.ask(Ask::get(sent).with(&session)).await;
        assert_eq!(answer.status, 200, "{sent}: {}", answer.brief());
        assert_eq!(upstream.last().target, forwarded, "{sent}");
    }
}

#[tokio::test]
async fn the_query_is_forwarded_byte_for_byte() {
    let (upstream, gateway, session) = open_gateway().await;
    for query in
        ["a=1", "", "a=%2f%2F..%2e&b", "&&=;&", "a=b?c=d?", "x=../../etc", "%zz=%", "a=%25%32%66", "q='!*()~"]
    {
        let answer = gateway.ask(Ask::get(format!("/a/b?{query}")).with(&session)).await;
        assert_eq!(answer.status, 200, "{query}: {}", answer.brief());
        assert_eq!(upstream.last().query().unwrap_or_default(), query);
    }
}

#[tokio::test]
async fn a_path_that_two_servers_could_read_differently_is_400_bad_path() {
    let (upstream, gateway, session) = open_gateway().await;
    let paths = "/a%2fb /a%2Fb /a%5cb /a%5Cb /a%3bb /a%3Bb /a%3fb /a%3Fb /a%23b /a%00b /a%0ab /a%0d%0ab /a%09b /a%7fb \
        /a%1fb /a/%2e%2e/b /a/%2E/b /a/.%2e/b /a/%2e./b /%2e%2e /a%252fb /a%252e%252e /a%2541 /a\\b /a/..\\b /a;x=1 /a;/b \
        /;jsessionid=1/a /a% /a%4 /a%zz /a%4g/b /a%ff /a%c0%af /a%e4%bd /a%ed%a0%80 /.. /../a /a/../../b /./../a \
        /a//../../../b";
    for path in paths.split_ascii_whitespace() {
        let answer = gateway.ask(Ask::get(path).with(&session)).await;
        assert_eq!((answer.status, answer.info().as_str()), (400, "Bad path"), "{path}: {}", answer.brief());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_bad_path_is_400_whoever_asks_and_the_connection_goes_on() {
    let (upstream, gateway, session) = open_gateway().await;
    let mut client = gateway.client().await;
    client.ask(&Ask::get("/a%2fb")).await.assert_refusal(400, "Bad path");
    client.ask(&Ask::get("/public/%2e%2e/vault")).await.assert_refusal(400, "Bad path");
    client.ask(&Ask::get("/a").with(&session)).await.assert_ok();
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn raw_bytes_outside_ascii_and_control_bytes_do_not_pass() {
    let (upstream, gateway, session) = open_gateway().await;
    for path in [&b"/a\xc3\xa9"[..], b"/a\xff", b"/\xe4\xbd\xa0", b"/a\x01", b"/a\x7f", b"/a\tb", b"/a\x00b"]
    {
        if let Some(answer) = gateway.try_raw(Ask::get(path).with(&session).bytes()).await {
            assert_eq!(answer.status, 400, "{path:?}: {}", answer.brief());
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_absolute_target_must_name_the_host() {
    let (upstream, gateway, session) = open_gateway().await;
    for target in [
        "http://other.example/a",
        "http://localhost:81/a",
        "http://user@localhost/a",
        "http://localhost.evil/a",
    ] {
        let answer = gateway.ask(Ask::get(target).with(&session)).await;
        assert_eq!(answer.status, 400, "{target}: {}", answer.brief());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn other_forms_of_a_target_are_not_forwarded() {
    let (upstream, gateway, session) = open_gateway().await;
    for (method, target) in
        [("OPTIONS", "*"), ("GET", "a/b"), ("GET", ""), ("CONNECT", "localhost:80"), ("GET", "localhost:80")]
    {
        if let Some(answer) = gateway.try_raw(Ask::new(method, target).with(&session).bytes()).await {
            assert!((400..600).contains(&answer.status), "{method} {target}: {}", answer.brief());
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_encoded_slash_passes_where_the_route_says_so_unless_a_dot_segment_hides_in_it() {
    let (upstream, gateway, session) = open_gateway().await;
    for path in ["/enc/a%2Fb", "/enc/a%2fb/c"] {
        let answer = gateway.ask(Ask::get(path).with(&session)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.brief());
        assert!(upstream.last().target.eq_ignore_ascii_case(path), "{}", upstream.last().target);
    }
    let before = upstream.requests().len();
    for path in [
        "/enc/a%2F..%2Fb",
        "/enc/..%2Fb",
        "/enc/a%2f.",
        "/enc/a%2F%2e%2e",
        "/enc/a%5cb",
        "/enc%2Fa",
        "/a/enc%2fb",
    ] {
        let answer = gateway.ask(Ask::get(path).with(&session)).await;
        assert_eq!((answer.status, answer.info().as_str()), (400, "Bad path"), "{path}");
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn a_prefix_can_be_stripped_from_what_is_forwarded() {
    let (upstream, gateway, session) = open_gateway().await;
    for (sent, forwarded) in [
        ("/engine/api/x", "/api/x"),
        ("/ENGINE/Api/x?q=1", "/Api/x?q=1"),
        ("/engine//api//x/", "/api/x/"),
        ("/engine", "/"),
        ("/engine/", "/"),
        ("/engine?q", "/?q"),
        ("/enginex", "/enginex"),
    ] {
        gateway.ask(Ask::get(sent).with(&session)).await.assert_ok();
        assert_eq!(upstream.last().target, forwarded, "{sent}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_path_reaches_what_is_not_permitted() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for path in [
        "/api/v2/vault",
        "/API/V2/VAULT/x",
        "/api/v2/cdr/../vault",
        "/api/v2/cdr/x/../../vault/y",
        "/api/v2//vault",
        "/./api/v2/vault/",
        "/api/v2/v%61ult",
        "/%61pi/v2/vault",
        "/public/../api/v2/vault",
        "/me/../api/v2/./vault",
        "/api/v2/vault#/api/v2/cdr",
        "/api/v2/vault?/api/v2/cdr",
        "http://localhost/api/v2/vault",
    ] {
        let answer = gateway.ask(Ask::get(path).with(&session)).await;
        assert_eq!((answer.status, answer.info().as_str()), (403, "Permission denied!"), "{path}");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn letter_case_counts_where_the_configuration_says_so() {
    let (upstream, gateway) = configured(|settings| settings.set("paths.case_sensitive", "true")).await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::get("/api/v2/cdr/AbC").with(&session)).await.assert_ok();
    assert_eq!(upstream.only().target, "/api/v2/cdr/AbC");
    for path in ["/API/v2/cdr/AbC", "/api/v2/CDR", "/Me/x"] {
        gateway.ask(Ask::get(path).with(&session)).await.assert_refusal(403, "Permission denied!");
    }
}
