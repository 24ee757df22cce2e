//! The PROXY protocol, versions 1 and 2: a proxy tells whose connection it passes on, before everything else
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).
//!
//! [`parse`] judges bytes, [`receive`] takes exactly those of the header from a connection: what follows them is TLS's
//! or HTTP's.

use proxy_header::{ParseConfig, ProxyHeader};
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Of version 1, its CRLF included (section 2.1).
const MAX_V1: usize = 107;
/// Of version 2, whose length field would allow 64 KiB: the addresses and more TLVs than balancers send.
pub const MAX: usize = 4096;

const V1: &[u8] = b"PROXY ";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// Version 2, command LOCAL: the proxy's own connection, whatever addresses follow.
const V2_LOCAL: u8 = 0x20;

/// What the bytes are that have come so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of them belong to the header, and more of it is to come.
    Unfinished,
    /// The first `length` are the header. No `source`: the connection is the proxy's own, or its client has no
    /// Internet address.
    Whole { length: usize, source: Option<SocketAddr> },
}

/// Why a connection that must begin with a header is closed.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    #[error("it does not begin with a PROXY protocol header")]
    Absent,
    #[error("its PROXY protocol header is malformed")]
    Malformed,
    #[error("its PROXY protocol header is too long")]
    TooLong,
    #[error("it ended before its PROXY protocol header did")]
    Ended,
    /// A balancer that looks whether somebody listens.
    #[error("it ended without a byte")]
    Silent,
    #[error("its PROXY protocol header cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Reads a header from the beginning of `bytes`.
///
/// # Errors
/// The bytes are the beginning of no header that is taken.
pub fn parse(bytes: &[u8]) -> Result<Progress, Fault> {
    if begins(bytes, V1) {
        parse_v1(bytes)
    } else if begins(bytes, V2) {
        parse_v2(bytes)
    } else {
        Err(Fault::Absent)
    }
}

/// As far as they have come.
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    bytes.iter().zip(signature).all(|(a, b)| a == b)
}

fn parse_v1(bytes: &[u8]) -> Result<Progress, Fault> {
    let Some(end) = memchr::memchr(b'\n', bytes.get(..MAX_V1).unwrap_or(bytes)) else {
        return if bytes.len() < MAX_V1 { Ok(Progress::Unfinished) } else { Err(Fault::TooLong) };
    };
    let line = bytes.get(..=end).unwrap_or_default();
    let text = line.strip_suffix(b"\r\n").and_then(|line| line.strip_prefix(V1)).ok_or(Fault::Malformed)?;
    let length = line.len();
    // Whatever follows UNKNOWN is to be ignored (section 2.1).
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return Ok(Progress::Whole { length, source: None });
    }
    // The crate takes ports like `+9` and `009`, which others may read otherwise.
    let mut ports = text.rsplit(|b| *b == b' ').take(2);
    if !ports.all(is_plain_number) {
        return Err(Fault::Malformed);
    }
    whole(line)
}

/// Digits without a leading zero.
fn is_plain_number(digits: &[u8]) -> bool {
    digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'))
}

fn parse_v2(bytes: &[u8]) -> Result<Progress, Fault> {
    let Some([command, _family, high, low]) = bytes.get(V2.len()..V2_FIXED).and_then(|b| b.first_chunk())
    else {
        return Ok(Progress::Unfinished);
    };
    let length = V2_FIXED + usize::from(u16::from_be_bytes([*high, *low]));
    if length > MAX {
        return Err(Fault::TooLong);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Progress::Unfinished) };
    if *command == V2_LOCAL {
        return Ok(Progress::Whole { length, source: None });
    }
    whole(header)
}

fn whole(header: &[u8]) -> Result<Progress, Fault> {
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    match ProxyHeader::parse(header, config) {
        Ok((read, length)) if length == header.len() => {
            let source = read.proxied_address().map(|address| address.source);
            let canonical = source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port()));
            Ok(Progress::Whole { length, source: canonical })
        }
        _ => Err(Fault::Malformed),
    }
}

/// Takes the header from the stream and not a byte more: bytes are looked at first, and taken once they are known to be
/// the header's. The caller bounds the time.
///
/// # Errors
/// There is no header that is taken, and the connection is to be closed.
pub(super) async fn receive(stream: &mut TcpStream) -> Result<Option<SocketAddr>, Fault> {
    let mut buffer = vec![0; MAX];
    let mut taken = 0;
    loop {
        let (before, free) = buffer.split_at_mut_checked(taken).ok_or(Fault::TooLong)?;
        let seen = stream.peek(free).await?;
        if seen == 0 {
            return Err(if before.is_empty() { Fault::Silent } else { Fault::Ended });
        }
        let (known, source) = match parse(buffer.get(..taken + seen).unwrap_or_default())? {
            Progress::Unfinished => (taken + seen, None),
            Progress::Whole { length, source } => (length, Some(source)),
        };
        let theirs = buffer.get_mut(taken..known).ok_or(Fault::Malformed)?;
        stream.read_exact(theirs).await?;
        taken = known;
        if let Some(source) = source {
            return Ok(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(header: &[u8]) -> Option<String> {
        match parse(header) {
            Ok(Progress::Whole { length, source }) => {
                assert_eq!(length, header.len());
                Some(source.map_or("own".to_owned(), |source| source.to_string()))
            }
            Ok(Progress::Unfinished) => panic!("unfinished: {header:?}"),
            Err(_) => None,
        }
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    fn samples() -> Vec<(Vec<u8>, &'static str)> {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x1f, 0x90, 0x01, 0xbb];
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 7, 9);
        let tlvs = [&v4[..], &[0x03, 0, 4, 1, 2, 3, 4], &[0xe0, 0, 2, 9, 9], &[0x04, 0, 0]].concat();
        let mapped = "PROXY TCP6 ::ffff:192.0.2.1 ::1 8080 443\r\n";
        vec![
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 8080 443\r\n".to_vec(), "192.0.2.1:8080"),
            (b"PROXY TCP6 2001:db8::7 ::1 0 443\r\n".to_vec(), "[2001:db8::7]:0"),
            (mapped.into(), "192.0.2.1:8080"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "own"),
            (b"PROXY UNKNOWN ffff:f...f:ffff 65535\r\n".to_vec(), "own"),
            (v2(0x21, 0x11, &v4), "192.0.2.1:8080"),
            (v2(0x21, 0x12, &v4), "192.0.2.1:8080"),
            (v2(0x21, 0x21, &v6), "[2001::7]:9"),
            (v2(0x21, 0x11, &tlvs), "192.0.2.1:8080"),
            (v2(0x21, 0x00, &[]), "own"),
            (v2(0x21, 0x31, &[7; 216]), "own"),
            (v2(0x20, 0x00, &[]), "own"),
            (v2(0x20, 0x11, &v4), "own"),
            (v2(0x20, 0x99, b"whatever"), "own"),
        ]
    }

    #[test]
    fn headers_are_read_whole_and_every_beginning_of_one_is_unfinished() {
        for (header, expected) in samples() {
            assert_eq!(source(&header).as_deref(), Some(expected), "{}", header.escape_ascii());
            for end in 0..header.len() {
                assert_eq!(parse(&header[..end]).ok(), Some(Progress::Unfinished), "{end} {expected}");
            }
            let followed = [&header[..], b"\x16\x03\x01\r\nPROXY GET /"].concat();
            let whole = parse(&followed).ok();
            assert!(
                matches!(whole, Some(Progress::Whole { length, .. }) if length == header.len()),
                "{whole:?}"
            );
        }
    }

    #[test]
    fn what_another_reader_could_take_otherwise_is_refused() {
        for bad in [
            "PROXY TCP4 192.0.2.1 10.0.0.1 +9 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080 +443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 009 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080 65536\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080 443 1\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1  8080 443\r\n",
            "PROXY TCP4 192.0.2.01 10.0.0.1 8080 443\r\n",
            "PROXY TCP4 2001:db8::7 ::1 8080 443\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 8080 443\r\n",
            "PROXY TCP4 a.example b.example 8080 443\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080 443\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 8080 443\r\r\n",
            "PROXY\tTCP4 192.0.2.1 10.0.0.1 8080 443\r\n",
            "PROXYxTCP4 192.0.2.1 10.0.0.1 8080 443\r\n",
            "PROXY UNKNOWNTCP4\r\n",
            "PROXY tcp4 192.0.2.1 10.0.0.1 8080 443\r\n",
            "PROXY \r\n",
            "proxy TCP4 192.0.2.1 10.0.0.1 8080 443\r\n",
            "GET / HTTP/1.1\r\n",
            "\x16\x03\x01",
        ] {
            assert_eq!(source(bad.as_bytes()), None, "{bad:?}");
        }
        for bad in [
            v2(0x11, 0x11, &[0; 12]),
            v2(0x22, 0x11, &[0; 12]),
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 12]),
            v2(0x21, 0x13, &[0; 12]),
            v2(0x21, 0x41, &[0; 12]),
            v2(0x21, 0x31, &[0; 12]),
        ] {
            assert_eq!(source(&bad), None, "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn the_size_is_bounded_before_the_bytes_have_come() {
        let long = format!("PROXY UNKNOWN {}", "x".repeat(MAX_V1));
        assert!(matches!(parse(long.as_bytes()), Err(Fault::TooLong)));
        assert!(matches!(parse(format!("{long}\r\n").as_bytes()), Err(Fault::TooLong)));
        assert_eq!(parse(&long.as_bytes()[..MAX_V1 - 1]).ok(), Some(Progress::Unfinished));
        let announced = [V2, &[0x21, 0x11, 0xff, 0xff]].concat();
        assert!(matches!(parse(&announced), Err(Fault::TooLong)));
        let most = [V2, &[0x21, 0x11], &4080_u16.to_be_bytes()].concat();
        assert_eq!(parse(&most).ok(), Some(Progress::Unfinished));
    }
}
