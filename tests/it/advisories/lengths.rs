//! Heads that two servers could read differently, variant by variant: how long the body is and where a line ends.

use super::{Dice, HIDDEN, Scene};
use crate::support::Ask;

/// Lines that some servers take for `Transfer-Encoding: chunked` and others for something else or nothing.
const CODINGS: &[&str] = &[
    "Transfer-Encoding: chunked",
    "transfer-encoding: CHUNKED",
    "Transfer-Encoding:chunked",
    "Transfer-Encoding:\tchunked",
    "Transfer-Encoding: chunked ",
    "Transfer-Encoding : chunked",
    "Transfer-Encoding\t: chunked",
    " Transfer-Encoding: chunked",
    "\tTransfer-Encoding: chunked",
    "X: y\r\n Transfer-Encoding: chunked",
    "Transfer-Encoding:\r\n chunked",
    "Transfer-Encoding: \x0bchunked",
    "Transfer-Encoding: \x0cchunked",
    "Transfer-Encoding: chunked\x00",
    "Transfer-Encoding: \x00chunked",
    "Transfer-Encoding\x00: chunked",
    "Transfer-Encoding: xchunked",
    "Transfer-Encoding: chunkedx",
    "Transfer-Encoding: chunk",
    "Transfer-Encoding: \"chunked\"",
    "Transfer-Encoding: 'chunked'",
    "Transfer-Encoding: chunked;q=1",
    "Transfer-Encoding: chunked;",
    "Transfer-Encoding: ;chunked",
    "Transfer-Encoding: ,chunked",
    "Transfer-Encoding: chunked,",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: identity, chunked",
    "Transfer-Encoding: gzip, chunked",
    "Transfer-Encoding: chunked, gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: chunked chunked",
    "Transfer-Encoding: identity",
    "Transfer-Encoding: ",
    "Transfer-Encoding:",
    "Transfer-Encoding: cow",
    "Transfer-Encoding: \u{ff43}hunked",
    "Transfer-Encoding: chunke\u{17f}",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
    "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\r\nTransfer-encoding:",
    "X: y\nTransfer-Encoding: chunked",
    "X: y\rTransfer-Encoding: chunked",
    "Transfer-Encoding: chunked\n",
    "Transfer_Encoding: chunked",
    "Transfer-Encoding\r\n: chunked",
    "Content-Encoding: chunked",
    "TE: chunked",
    "Foo\u{a0}Transfer-Encoding: chunked",
    ": chunked",
    "Transfer-Encoding",
];

const LENGTHS: &[&str] = &[
    "",
    "Content-Length: 0",
    "Content-Length: 5",
    "Content-Length: 05",
    "Content-Length: +5",
    "Content-Length: -5",
    "Content-Length: 0x5",
    "Content-Length: 5.0",
    "Content-Length: 5e0",
    "Content-Length: 5_0",
    "Content-Length: \"5\"",
    "Content-Length: 5, 5",
    "Content-Length: 5, 6",
    "Content-Length: 5,",
    "Content-Length: ,5",
    "Content-Length: 5 5",
    "Content-Length:",
    "Content-Length: ",
    "Content-Length: \t",
    "Content-Length: \u{0665}",
    "Content-Length: 5\x0b",
    "Content-Length: 18446744073709551615",
    "Content-Length: 18446744073709551616",
    "Content-Length: 18446744073709551621",
    "Content-Length: 99999999999999999999999999999999",
    "Content-Length : 5",
    "Content-Length\t: 5",
    " Content-Length: 5",
    "Content-Length: 5\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length: 6",
    "Content-Length: 0\r\nContent-Length: 5",
    "Content-Length:\r\nContent-Length: 5",
    "Content-Length: 5\r\nContent-Length:",
    "X: y\r\n Content-Length: 5",
    "Content-Length:\r\n 5",
    "X: y\nContent-Length: 5",
    "Content-Length: 5\n",
    "Content_Length: 5",
    "Content-Length\x00: 5",
    "content-length: 5\r\nCONTENT-LENGTH: 5",
];

/// What strict readers agree on: how the body ends, when these lines tell it. None: they must refuse the request.
fn agreed(length: &str, coding: &str) -> Option<&'static str> {
    let chunked = [
        "Transfer-Encoding: chunked",
        "transfer-encoding: CHUNKED",
        "Transfer-Encoding:chunked",
        "Transfer-Encoding:\tchunked",
        "Transfer-Encoding: chunked ",
    ];
    // They say nothing of a body.
    let nothing = ["", "Transfer_Encoding: chunked", "Content-Encoding: chunked", "TE: chunked"];
    match length {
        "" | "Content_Length: 5" if chunked.contains(&coding) => Some("chunked"),
        "" | "Content_Length: 5" | "Content-Length: 0" if nothing.contains(&coding) => Some("none"),
        "Content-Length: 5" | "Content-Length: 05" if nothing.contains(&coding) => Some("five"),
        _ => None,
    }
}

/// CL.TE, TE.CL, TE.TE, CL.CL, in every combination and order: CVE-2019-18277 (HAProxy: a coding behind VT),
/// CVE-2019-18802 (Envoy: blanks behind a value), CVE-2021-40346 and CVE-2023-25725 (HAProxy: a header that is
/// dropped), CVE-2023-40225 (HAProxy: an empty length), RUSTSEC-2021-0020 (hyper: several codings),
/// RUSTSEC-2021-0078 (hyper: a length with a sign), CVE-2026-2835 (Pingora: codings, and those of HTTP/1.0).
#[tokio::test]
async fn every_combination_of_lengths_and_codings_is_refused_unless_all_read_it_alike() {
    let scene = Scene::new().await;
    let (mut refused, mut read) = (0, 0);
    for coding in CODINGS.iter().chain(&[""]) {
        for (n, length) in LENGTHS.iter().enumerate() {
            let mut lines = [*length, *coding];
            if n % 2 == 1 {
                lines.reverse();
            }
            let lines: String =
                lines.iter().filter(|line| !line.is_empty()).map(|line| format!("{line}\r\n")).collect();
            let agreed = agreed(length, coding);
            let body = match agreed {
                Some("chunked") => "5\r\nhello\r\n0\r\n\r\n".to_owned(),
                Some("five") => "hello".to_owned(),
                Some(_) => String::new(),
                None => format!("0\r\n\r\n{HIDDEN}"),
            };
            let bytes = format!("{}{body}", scene.head(&lines));
            if agreed.is_none() {
                scene.is_refused_unseen(&format!("{lines:?}"), bytes.as_bytes()).await;
                refused += 1;
                continue;
            }
            read += 1;
            let mut client = scene.gateway.client().await;
            client.send(&bytes).await;
            let answer = client.answer().await;
            let body: &[u8] = if agreed == Some("none") { b"" } else { b"hello" };
            assert_eq!(
                (answer.status, answer.json()["length"].as_u64()),
                (200, Some(body.len() as u64)),
                "{lines:?}"
            );
            assert_eq!(scene.upstream.last().body.bytes, body, "{lines:?}");
            scene.upstream.forget();
        }
    }
    assert!(refused > 1900 && read > 10, "{refused} {read}");
}

/// HTTP/1.0 has no codings, and a request's body no end without a length (CVE-2026-2835).
#[tokio::test]
async fn a_coding_in_http_1_0_is_refused() {
    let scene = Scene::new().await;
    for coding in CODINGS.iter().filter(|line| line.to_lowercase().starts_with("transfer-encoding")) {
        for length in ["", "Content-Length: 5\r\n"] {
            let head = scene.head(&format!("{coding}\r\n{length}")).replace("HTTP/1.1", "HTTP/1.0");
            let bytes = format!("{head}0\r\n\r\n{HIDDEN}");
            scene.is_refused_unseen(&format!("{coding:?} {length:?}"), bytes.as_bytes()).await;
        }
    }
}

/// A line's end other than CRLF, in every place of a head (RFC 9112 section 2.2; Go: CVE-2025-22871 in a chunk's line;
/// Node: CVE-2023-30589).
#[tokio::test]
async fn a_line_end_other_than_crlf_anywhere_in_a_head_is_refused() {
    let scene = Scene::new().await;
    let head = scene.head("X-A: b\r\nContent-Length: 5\r\n");
    let places: Vec<usize> = head.match_indices("\r\n").map(|(at, _)| at).collect();
    assert_eq!(places.len(), 7);
    for at in places {
        for end in ["\n", "\r", "\n\r", "\r\r\n", "\r \n", "\x0b\n", "\x00\r\n", "\u{85}\r\n\n"] {
            let bytes = format!("{}{end}{}hello", &head[..at], &head[at + 2..]);
            scene.is_refused_unseen(&format!("{end:?} at {at}"), bytes.as_bytes()).await;
        }
    }
    for first in ["\n", "\r", " ", "\r\n ", "\x00", "\u{feff}"] {
        scene
            .is_refused_unseen(&format!("{first:?} in front"), format!("{first}{head}hello").as_bytes())
            .await;
    }
}

/// Heads put together from pieces that matter: whatever of it reaches the upstream is clean, and was asked for by a line
/// that stood first on its connection.
#[tokio::test]
async fn of_heads_made_at_random_only_clean_ones_are_forwarded() {
    let scene = Scene::new().await;
    let mut dice = Dice::new(4711);
    let lines = [CODINGS, LENGTHS].concat();
    let ends = ["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n\r\n"];
    for number in 0..1500 {
        let mut more = String::new();
        for _ in 0..dice.below(4) {
            more += dice.pick(&lines);
            more += dice.pick(&ends);
        }
        let head = scene.head(&more);
        let head = if dice.one_in(3) { head } else { head.replace("POST", "GET") };
        let body = dice.pick(&[
            "",
            "hello",
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "\r\n",
            "5\r\nhello\r\n0\r\nHost: x\r\n\r\n",
        ]);
        let mut client = scene.gateway.client().await;
        client.send(format!("{head}{body}")).await;
        // Nothing more is coming.
        client.send(Ask::get("/closed").header("Connection", "close").bytes()).await;
        let answers = String::from_utf8_lossy(&client.closed().await).into_owned();
        assert!(answers.matches("HTTP/1.1 ").count() <= 3, "{number}: {more:?}: {answers}");
    }
    for seen in scene.upstream.requests() {
        let (_, oddities) = seen.head.framing();
        assert!(oddities.is_empty() && seen.head.oddities.is_empty(), "{oddities:?} {}", seen.head.text());
        assert_eq!(seen.target, "/up/echo");
        assert!(seen.head.one("host") == Some("localhost"), "{}", seen.head.text());
    }
    assert!(scene.upstream.requests().len() > 100);
}
