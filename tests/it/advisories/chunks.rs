//! Chunked bodies that two servers could delimit differently.

use super::{HIDDEN, Scene};

/// Of the grammar of chunks (RFC 9112 section 7.1) nothing is taken but the grammar: RUSTSEC-2021-0079 (hyper: a size
/// that wraps), CVE-2025-22871 (Go: a bare LF behind an extension), CVE-2025-55315 (Kestrel: a line end in an extension),
/// CVE-2025-43859 (h11: what follows a chunk is not looked at), CVE-2023-38697 (protocol-http1: signs and `0x`).
const CHUNKS: &[&str] = &[
    "5\nhello\r\n0\r\n\r\n",
    "5\rhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5\t\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-5\r\nhello\r\n0\r\n\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "5h\r\nhello\r\n0\r\n\r\n",
    "5_\r\nhello\r\n0\r\n\r\n",
    "5.\r\nhello\r\n0\r\n\r\n",
    "5,5\r\nhello\r\n0\r\n\r\n",
    "\"5\"\r\nhello\r\n0\r\n\r\n",
    "\u{0665}\r\nhello\r\n0\r\n\r\n",
    "\r\nhello\r\n0\r\n\r\n",
    ";a\r\nhello\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    "00000000000000000000000000000000000000000000000000000000000000000000000000000005\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhello\r0\r\n\r\n",
    "5\r\nhelloXX0\r\n\r\n",
    "5\r\nhello0\r\n\r\n",
    "5\r\nhell\r\n0\r\n\r\n",
    "5\r\nhello!\r\n0\r\n\r\n",
    "5;\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5;a\r\r\nhello\r\n0\r\n\r\n",
    "5;\x00\r\nhello\r\n0\r\n\r\n",
    "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    "5;\x7f\r\nhello\r\n0\r\n\r\n",
    "5 a\r\nhello\r\n0\r\n\r\n",
    "5,a\r\nhello\r\n0\r\n\r\n",
    "5\x00;a\r\nhello\r\n0\r\n\r\n",
    "5\x0b\r\nhello\r\n0\r\n\r\n",
    "5\r\nhello\r\n0\n\r\n",
    "5\r\nhello\r\n0\r\n\n",
    "5\r\nhello\r\n0\r\n\r\r\n\r\n",
    "5\r\nhello\r\n0 \r\n\r\n",
    "5\r\nhello\r\n-0\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n\n",
    "5\r\nhello\r\n0\r\nX y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n",
    "5\r\nhello\r\n0\r\n: y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
    "5\r\nhello\r\n0\r\nX: y\x00\r\n\r\n",
];

#[tokio::test]
async fn a_chunked_body_that_breaks_the_grammar_never_ends_well() {
    let scene = Scene::new().await;
    let head = scene.head("Transfer-Encoding: chunked\r\n");
    for body in CHUNKS {
        let bytes = format!("{head}{body}{HIDDEN}");
        scene.is_refused(&format!("{body:?}"), &[bytes.as_bytes()]).await;
        // Byte by byte where it matters: a reader that keeps half a line must not be fooled.
        let (start, end) = bytes.as_bytes().split_at(head.len());
        let mut pieces = vec![start];
        pieces.extend(end.chunks(1));
        scene.is_refused(&format!("{body:?}, byte by byte"), &pieces).await;
    }
    let long = format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    scene.is_refused("a long extension (CVE-2023-39326)", &[long.as_bytes()]).await;
    assert!(scene.upstream.requests().iter().all(|seen| !seen.target.contains("hidden")));
}

/// One who follows the bytes by half a line only would lose count here, and not see what is ambiguous behind it.
#[tokio::test]
async fn nobody_loses_count_by_lines_that_are_cut() {
    let body = "PUT / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n";
    let (size, zeros) = (format!("{:x}", body.len()), "0".repeat(80));
    for (first, second) in
        [(zeros.clone(), format!("{size}\r\n")), (format!("{size};a={}", zeros.repeat(4)), "\r\n".to_owned())]
    {
        let scene = Scene::new().await;
        let head = scene.head("Transfer-Encoding: chunked\r\n");
        let both = scene.head("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n");
        let mut client = scene.gateway.client().await;
        client.send(format!("{head}{first}")).await;
        scene.upstream.wait_for_requests(1).await;
        client.send(format!("{second}{body}\r\n0\r\n\r\n{both}0\r\n\r\n{HIDDEN}")).await;
        let answers = String::from_utf8_lossy(&client.closed().await).into_owned();
        let targets: Vec<String> = scene.upstream.requests().into_iter().map(|seen| seen.target).collect();
        assert_eq!(targets, ["/up/echo"], "{answers}");
    }
}
