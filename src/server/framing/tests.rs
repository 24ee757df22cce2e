//! Where requests end, whatever hyper takes, hides and lets through.

use super::*;
use proptest::prelude::*;

fn fault(bytes: &str) -> Option<u32> {
    let mut framing = RequestFraming::default();
    framing.feed(bytes.as_bytes());
    framing.fault_at()
}

#[test]
fn what_hyper_hides_is_found() {
    let head = |lines: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let (cl, te) = ("Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n");
    assert_eq!(fault(&head(&format!("{cl}{te}"))), Some(1));
    assert_eq!(fault(&head(&format!("{te}{cl}"))), Some(1));
    assert_eq!(fault(&head(&format!("{te}cOntent-lENGTH:5\r\n"))), Some(1));
    assert_eq!(fault(&head(&format!("{cl}{cl}"))), Some(1));
    assert_eq!(fault(&head("Content-Length: +5\r\n")), Some(1));
    assert_eq!(fault(&head("Content-Length: 5, 5\r\n")), Some(1));
    assert_eq!(fault(&head(&format!("Content-Length:{}5\r\n", " ".repeat(KEPT)))), Some(1));
    assert_eq!(fault(&head(te)), None);
    assert_eq!(fault(&head(cl)), None);
    assert_eq!(fault(&head("X-Content-Length: 5\r\nX: Content-Length: 5\r\nCookie: a\r\n")), None);
}

#[test]
fn a_bare_line_feed_spoils_a_head() {
    for head in [
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_eq!(fault(head), Some(1), "{head:?}");
    }
    let long = "x".repeat(KEPT);
    assert_eq!(fault(&format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n")), None);
    assert_eq!(fault(&format!("GET / HTTP/1.1\r\nX: {long}\n\r\n")), Some(1));
}

#[test]
fn the_request_behind_a_body_is_numbered_right() {
    let bad = "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let inner = "GET /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let n = inner.len();
    assert_eq!(fault(&format!("GET / HTTP/1.1\r\n\r\n{bad}")), Some(2));
    assert_eq!(
        fault(&format!("POST / HTTP/1.1\r\nContent-Length: {n}\r\n\r\n{inner}GET / HTTP/1.1\r\n\r\n")),
        None,
        "a head inside a body is no head"
    );
    let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(fault(&format!("{chunked}{n:x};ext=1\r\n{inner}\r\n0\r\nT: x\r\n\r\n{bad}")), Some(2));
}

/// What of a chunked body hyper is given.
fn read(body: &str) -> String {
    let mut framing = RequestFraming::default();
    framing.feed(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let good = framing.feed(body.as_bytes());
    assert_eq!(framing.is_broken(), good < body.len(), "{body:?}");
    body.get(..good).unwrap().to_owned()
}

#[test]
fn a_chunked_body_is_read_up_to_what_breaks_it() {
    let long = "x".repeat(KEPT);
    for (good, bad) in [
        ("", "5\nhello".to_owned()),
        ("", "x\r\n".to_owned()),
        ("", "\r\n".to_owned()),
        ("", "11112222333344445\r\n".to_owned()),
        ("", format!("{}5\r\n", "0".repeat(MAX_SIZE_DIGITS))),
        ("", "5 \r\nhello".to_owned()),
        ("", "5\t\r\nhello".to_owned()),
        ("", "5 x\r\nhello".to_owned()),
        ("", "5;\0\r\nhello".to_owned()),
        ("", "5;a\rb\r\nhello".to_owned()),
        ("", "5\r\r\nhello".to_owned()),
        ("", format!("5;{long}\r\nhello")),
        ("1\r\na", "b\r\n".to_owned()),
        ("1\r\na", "\n".to_owned()),
        ("1\r\na\r\n", "2\n".to_owned()),
        ("0\r\n", "T: x\n\r\n".to_owned()),
        ("0\r\n", format!("T: {long}\n\r\n")),
        ("0\r\n", "\n".to_owned()),
    ] {
        assert_eq!(read(&format!("{good}{bad}0\r\n\r\n")), good, "{bad:?}");
    }
    for good in
        ["00000000000005 ;a=\"b c\"\r\nhello\r\n0;\tx\r\n\r\n", "A\r\n0123456789\r\n0\r\nT: x\r\n\r\n"]
    {
        assert_eq!(read(good), good);
    }
}

#[test]
fn the_position_tells_a_begun_head_from_silence() {
    let mut framing = RequestFraming::default();
    assert_eq!(framing.position(), Position::Between);
    for (bytes, position) in [
        ("\r\n", Position::Between),
        ("GE", Position::Head),
        ("T / HTTP/1.1\r\n", Position::Head),
        ("Content-Length: 2\r\n\r", Position::Head),
        ("\n", Position::Body),
        ("a", Position::Body),
        ("b", Position::Between),
    ] {
        framing.feed(bytes.as_bytes());
        assert_eq!(framing.position(), position, "after {bytes:?}");
    }
}

fn request() -> impl Strategy<Value = Vec<u8>> {
    let body = proptest::collection::vec(any::<u8>(), 0..40);
    (0..3, body).prop_map(|(kind, body)| {
        let mut bytes = b"POST /a HTTP/1.1\r\nHost: a\r\n".to_vec();
        match kind {
            0 => bytes.extend(b"\r\n"),
            1 => {
                bytes.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                bytes.extend(body);
            }
            _ => {
                bytes.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                for chunk in body.chunks(7) {
                    bytes.extend(format!("{:X}\r\n", chunk.len()).into_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n\r\n");
            }
        }
        bytes
    })
}

proptest! {
    #[test]
    fn good_requests_are_counted_however_their_bytes_are_cut(
        requests in proptest::collection::vec(request(), 1..6),
        cut in 1_usize..60,
    ) {
        let mut framing = RequestFraming::default();
        requests.concat().chunks(cut).for_each(|piece| assert_eq!(framing.feed(piece), piece.len()));
        prop_assert_eq!(framing.fault_at(), None);
        prop_assert_eq!(framing.heads as usize, requests.len());
        prop_assert_eq!(framing.position(), Position::Between);
    }

    #[test]
    fn any_bytes_however_cut_lead_to_the_same_end(
        bytes in "[GPOST /:htpcn\r\n0-9a-f]{0,200}",
        cut in 1_usize..60,
    ) {
        let (mut whole, mut cut_up) = (RequestFraming::default(), RequestFraming::default());
        whole.feed(bytes.as_bytes());
        for piece in bytes.as_bytes().chunks(cut) {
            cut_up.feed(piece);
        }
        prop_assert_eq!(whole.fault_at(), cut_up.fault_at());
        prop_assert_eq!(whole.is_broken(), cut_up.is_broken());
        prop_assert_eq!(whole.position(), cut_up.position());
    }
}
