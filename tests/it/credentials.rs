//! Contract section 4, Credentials.

use super::support::{TestGateway, TestUpstream};

#[test]
fn each_refusal_has_its_text() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let (a, b) = (gateway.login("reader@d"), gateway.login("reader@d"));
    let key = ("X-Key", a.key.as_str());
    for (headers, info) in [
        (vec![], "Invalid token"),
        (vec![key], "Invalid token"),
        (vec![("X-Access-Token", a.token.as_str())], "Invalid Token or Key"),
        (vec![("X-Access-Token", b.token.as_str()), key], "Invalid User"),
        (vec![("X-Access-Token", a.token.as_str()), ("X-Key", "unknown")], "Invalid User"),
    ] {
        let answer = gateway.send("GET", "/cdr", &headers);
        assert_eq!((answer.status, answer.info().as_str()), (401, info), "{headers:?}");
    }
    assert!(upstream.received().is_empty());
}

#[test]
fn a_credential_given_twice_is_ambiguous_in_every_form() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let session = gateway.login("reader@d");
    for target in
        ["/cdr?x_key=k", "/cdr?x_key[$in]=k", "/cdr?%78_key%5B%5D=k", "/public?access_token=a&access_token=a"]
    {
        let answer = gateway.send("GET", target, &session.headers());
        assert_eq!((answer.status, answer.info().as_str()), (400, "Ambiguous credentials"), "{target}");
    }
    assert!(upstream.received().is_empty());
}

#[test]
fn credentials_of_the_query_reach_the_upstream_as_headers_alone() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let session = gateway.login("reader@d");
    let target = format!("/cdr?a=%2e&access_token={}&x_key={}&b", session.token, session.key);
    assert_eq!(gateway.send("GET", &target, &[]).status, 200);
    let received = upstream.received().remove(0);
    assert_eq!(received.target(), "/cdr?a=%2e&b");
    assert_eq!(received.headers("x-access-token"), [session.token.as_str()]);
    assert_eq!(received.headers("x-key"), [session.key.as_str()]);
}
