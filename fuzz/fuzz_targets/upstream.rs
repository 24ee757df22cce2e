//! What a server sends (byte 0: the method of the request; bytes 1 to 3: how it comes in pieces) is the same answer in
//! pieces as in one, and its body is what its framing says, or it is broken.
#![no_main]

use http::Method;
use libfuzzer_sys::fuzz_target;
use postern::upstream::fuzzed::read_answer;

fuzz_target!(|data: &[u8]| {
    let Some(([method, a, b, c], bytes)) = data.split_first_chunk() else { return };
    let method = [Method::GET, Method::HEAD, Method::POST][usize::from(*method) % 3].clone();
    let whole = read_answer(&[bytes], &method);
    assert_eq!(whole, read_answer(&pieces(bytes, [*a, *b, *c]), &method));

    let Some(head) = &whole.head else { return assert!(whole.is_broken && whole.body.is_empty()) };
    match head.framing {
        "none" => assert!(whole.body.is_empty() && !whole.is_broken),
        "length" => {
            let told = head.length.expect("a length");
            let body = whole.body.len() as u64;
            assert!(body <= told && whole.is_broken == (body < told));
        }
        "chunked" if !whole.is_broken => assert_eq!(whole.body, unchunked(&bytes[head.ends_at..])),
        "chunked" => assert!(whole.body.len() <= bytes.len() - head.ends_at),
        "until close" => assert_eq!(whole.body, &bytes[head.ends_at..]),
        other => panic!("{other}"),
    }
    for name in ["transfer-encoding", "connection", "keep-alive", "upgrade"] {
        assert!(!head.fields.contains_key(name), "{name} goes on");
    }
    assert!(head.fields.get_all("content-length").iter().count() < 2);
});

/// Of the lengths in turn.
fn pieces(bytes: &[u8], lengths: [u8; 3]) -> Vec<&[u8]> {
    let (mut pieces, mut left) = (Vec::new(), bytes);
    for length in lengths.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (piece, rest) = left.split_at(usize::from(*length).clamp(1, left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces
}

/// By the shortest reader there is.
fn unchunked(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|w| w == b"\r\n").expect("a size line");
        let line = bytes[..end].iter().map(|b| char::from(*b));
        let digits: String = line.take_while(char::is_ascii_hexdigit).collect();
        let size = usize::from_str_radix(&digits, 16).expect("a size");
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&bytes[end + 2..end + 2 + size]);
        assert_eq!(&bytes[end + 2 + size..end + 4 + size], b"\r\n");
        bytes = &bytes[end + 4 + size..];
    }
}
