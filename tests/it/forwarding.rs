//! Contract section 4, Forwarding.

use super::support::http::{request, send, send_until_closed};
use super::support::{TestGateway, TestUpstream};

#[test]
fn the_upstream_is_told_who_calls_and_nobody_else_can_tell_it() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let session = gateway.login("reader@d");
    let mut headers = session.headers().to_vec();
    headers.extend([
        ("X-Webitel-User", "root"),
        ("X_Webitel_Role", "root"),
        ("X.Postern.Scope", "all"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Forwarded-For", "1.2.3.4"),
        ("X_Key", "other"),
        ("X-Custom", "kept"),
    ]);
    assert_eq!(gateway.send("GET", "/cdr/x?q=1", &headers).status, 200);
    let received = upstream.received().remove(0);
    for (name, values) in [
        ("x-webitel-user", vec!["reader@d"]),
        ("x-webitel-domain", vec!["d"]),
        ("x-webitel-role", vec!["reader"]),
        ("x-postern-scope", vec!["all"]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-custom", vec!["kept"]),
        ("x-http-method-override", vec![]),
        ("x_webitel_role", vec![]),
        ("x.postern.scope", vec![]),
        ("x_key", vec![]),
        ("host", vec!["localhost"]),
    ] {
        assert_eq!(received.headers(name), values, "{name}");
    }
}

#[test]
fn bodies_pass_both_ways_with_the_length_or_in_chunks() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let root = gateway.login("root");
    let posted = send(gateway.http, &request("POST", "/cdr", &root.headers(), "0123456789"));
    assert_eq!((posted.status, posted.body.as_slice()), (200, &b"ok"[..]));
    let mut chunked =
        request("POST", "/cdr", &[&root.headers()[..], &[("Transfer-Encoding", "chunked")]].concat(), "");
    chunked.extend_from_slice(b"3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(send(gateway.http, &chunked).status, 200);
    let received = upstream.received();
    assert_eq!(received[0].body, b"0123456789");
    assert_eq!(
        (received[1].body.as_slice(), received[1].headers("transfer-encoding")),
        (&b"3\r\nabc\r\n0\r\n\r\n"[..], vec!["chunked"])
    );
    let answered = gateway.send("GET", "/cdr/chunked", &root.headers());
    assert!(String::from_utf8_lossy(&answered.body).contains("hello") && answered.status == 200);
    assert_eq!(gateway.send("GET", "/cdr/until-close", &root.headers()).status, 200);
}

#[test]
fn a_broken_answer_is_a_502_or_a_broken_body_and_never_another_ones() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    let root = gateway.login("root");
    for target in ["/cdr/drop", "/cdr/two-lengths", "/cdr/both"] {
        let answer = gateway.send("GET", target, &root.headers());
        assert_eq!((answer.status, answer.info().as_str()), (502, "Bad gateway"), "{target}");
    }
    let cut = send_until_closed(gateway.http, &request("GET", "/cdr/cut", &root.headers(), ""));
    let complete = String::from_utf8_lossy(&cut).contains("Content-Length: 9") || cut.len() >= 1000;
    assert!(!complete, "a body that broke off looks complete: {:?}", String::from_utf8_lossy(&cut));
    assert_eq!(gateway.send("GET", "/cdr/extra", &root.headers()).body, b"ok");
    for _ in 0..3 {
        assert_eq!(gateway.send("GET", "/cdr/x", &root.headers()).body, b"ok");
    }
    let hop = gateway.send("GET", "/cdr/hop", &root.headers());
    assert_eq!(
        (hop.header("x-private"), hop.header("x-postern-scope"), hop.header("x-kept")),
        (None, None, Some("yes"))
    );
}

#[test]
fn a_request_that_cannot_be_delimited_is_refused_and_closes() {
    let upstream = TestUpstream::start();
    let gateway = TestGateway::start(&upstream);
    for head in [
        "GET /public HTTP/1.1\r\n\r\n",
        "GET /public HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /public HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
    ] {
        let answer = send(gateway.http, head.as_bytes());
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "{head}");
    }
    let lengths = "POST /public HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab";
    let answered = send_until_closed(gateway.http, lengths.as_bytes());
    assert!(
        answered.is_empty() || answered.starts_with(b"HTTP/1.1 400"),
        "{:?}",
        String::from_utf8_lossy(&answered)
    );
    assert!(upstream.received().is_empty());
}

#[test]
fn no_server_is_502_and_sigterm_ends_with_0() {
    let gateway = TestGateway::start_with(
        &TestUpstream::start(),
        "[upstreams.dead]\nservers = [\"http://127.0.0.1:1\"]\n[[routes]]\npath = \"/dead\"\naccess = \"public\"\nupstream = \"dead\"\n",
    );
    let answer = gateway.send("GET", "/dead", &[]);
    assert_eq!((answer.status, answer.info().as_str()), (502, "Bad gateway"));
    assert_eq!(gateway.terminate(), Some(0));
}
