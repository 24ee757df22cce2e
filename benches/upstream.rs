//! The pure parts of forwarding: what every request pays besides its system calls.

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use postern::access::credentials::CredentialNames;
use postern::peer::{ListenerKind, Peer};
use postern::telemetry::ids::Ids;
use postern::upstream::measured::{HeadWriter, answer_head, chunked_body};

fn request_head(c: &mut Criterion) {
    let names = CredentialNames {
        token_headers: vec![HeaderName::from_static("x-access-token")],
        key_headers: vec![HeaderName::from_static("x-key")],
        token_query: vec![],
        key_query: vec![],
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en"),
        ("cookie", "a=1"),
        ("x-access-token", "token"),
        ("x-key", "key"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let addr = ([192, 0, 2, 1], 9).into();
    let peer = Peer::new(addr, ListenerKind::Https, false);
    let (ids, mut writer) = (Ids::of(&headers, false), HeadWriter::new(&names));
    c.bench_function("request head", |b| b.iter(|| writer.write(&headers, &peer, &ids)));
}

fn answers(c: &mut Criterion) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
        Date: Tue, 24 Nov 2026 00:00:00 GMT\r\nConnection: keep-alive\r\nKeep-Alive: timeout=5\r\n\r\nok";
    let whole = BytesMut::from(&head[..]);
    c.bench_function("answer head", |b| {
        b.iter_batched_ref(|| whole.clone(), answer_head, BatchSize::SmallInput);
    });
    let chunk = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n"].concat();
    let body = BytesMut::from(&[chunk.repeat(16).as_slice(), b"0\r\n\r\n"].concat()[..]);
    c.bench_function("chunked body of 64 KiB", |b| {
        b.iter_batched_ref(|| body.clone(), chunked_body, BatchSize::SmallInput);
    });
}

criterion_group!(benches, request_head, answers);
criterion_main!(benches);
