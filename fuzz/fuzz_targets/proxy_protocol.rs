//! A PROXY protocol header is read the same however its bytes are cut, takes no byte that is not its own, and every
//! beginning of a good one is unfinished: what is taken from a connection before it is whole belongs to it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::server::proxy_protocol::{MAX, Progress, parse};

fuzz_target!(|bytes: &[u8]| {
    let Ok(progress) = parse(bytes) else { return };
    let Progress::Whole { length, .. } = progress else {
        assert!(bytes.len() < MAX);
        return;
    };
    assert!(length <= bytes.len() && length <= MAX);
    for end in 0..length {
        assert_eq!(parse(&bytes[..end]).expect("the beginning of a header"), Progress::Unfinished);
    }
    assert_eq!(parse(&bytes[..length]).expect("the header alone"), progress);
    if bytes.starts_with(b"PROXY ") {
        assert!(bytes[..length].ends_with(b"\r\n") && length <= 107);
    }
});
