//! Contract section 4, Path and Permission.

use super::support::{TestGateway, TestUpstream};

#[test]
fn a_role_gets_what_it_holds_and_nothing_else_reaches_the_upstream() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let (reader, root) = (gateway.login("reader@d"), gateway.login("root"));
    for (method, target) in [
        ("DELETE", "/cdr/1"),
        ("FOO", "/cdr"),
        ("GET", "/nothing"),
        ("GET", "/closed"),
        ("GET", "/cdrx"),
        ("GET", "/accounts/reader"),
    ] {
        let answer = gateway.send(method, target, &reader.headers());
        assert_eq!((answer.status, answer.info().as_str()), (403, "Permission denied!"), "{method} {target}");
        assert!(answer.header("x-request-id").is_some());
    }
    assert!(upstream.received().is_empty());
    for (method, target) in [("DELETE", "/cdr/1"), ("FOO", "/CDR/"), ("GET", "/x/..//%63dr")] {
        assert_eq!(gateway.send(method, target, &root.headers()).status, 200, "{method} {target}");
    }
    assert_eq!(
        upstream.received().iter().map(|r| r.target().to_owned()).collect::<Vec<_>>(),
        ["/cdr/1", "/CDR/", "/cdr"]
    );
}

#[test]
fn an_own_variant_opens_ones_own_record_alone() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let owner = gateway.login("owner@d");
    assert_eq!(gateway.send("GET", "/accounts/owner", &owner.headers()).status, 200);
    assert_eq!(upstream.received()[0].headers("x-postern-scope"), ["own"]);
    for target in ["/accounts/other", "/accounts/OWNER", "/accounts/owner@d"] {
        assert_eq!(gateway.send("GET", target, &owner.headers()).status, 403, "{target}");
    }
}

#[test]
fn a_path_that_two_servers_could_read_differently_is_refused() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let root = gateway.login("root");
    for target in [
        "/cdr/%2e%2e/closed",
        "/cdr%2fx",
        "/cdr;x",
        "/cdr/%252e",
        "/cdr\\x",
        "/cdr/%00",
        "/../cdr",
        "/cdr/%c0%af",
        "http://other/cdr",
    ] {
        let answer = gateway.send("GET", target, &root.headers());
        assert_eq!((answer.status, answer.info().as_str()), (400, "Bad path"), "{target}");
    }
    assert!(upstream.received().is_empty());
}

#[test]
fn without_credentials_nobody_learns_which_routes_exist() {
    let gateway = TestGateway::start(&TestUpstream::start());
    assert_eq!(["/cdr", "/nothing"].map(|target| gateway.send("GET", target, &[]).status), [401, 401]);
    assert_eq!(gateway.send("GET", "/closed", &[]).status, 403);
    assert_eq!(gateway.send("GET", "/public/x", &[]).status, 200);
}
