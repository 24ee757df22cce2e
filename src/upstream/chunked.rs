//! The chunked coding of an answer (RFC 9112 section 7.1), read strictly.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};

/// A chunk's size line, extensions included, and all trailers together, at most.
const MAX_LINE: usize = 4096;
const MAX_TRAILERS: usize = 16 * 1024;

/// Where in the coding the next byte stands.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Decoder {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Done,
}

/// What comes out of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Data(Bytes),
    /// The end, with the trailers.
    End(HeaderMap),
    /// More bytes are needed.
    More,
}

/// Not in the chunked coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken chunked coding")]
pub(super) struct Broken;

impl Decoder {
    /// Takes the next piece off the front of `bytes`.
    pub(super) fn next(&mut self, bytes: &mut BytesMut) -> Result<Piece, Broken> {
        loop {
            match self {
                Self::Size => match take_line(bytes, MAX_LINE)? {
                    Some(line) => *self = after_size(size(&line)?),
                    None => return Ok(Piece::More),
                },
                Self::Data(_) if bytes.is_empty() => return Ok(Piece::More),
                Self::Data(left) => {
                    let n = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= n as u64;
                    if *left == 0 {
                        *self = Self::DataEnd;
                    }
                    return Ok(Piece::Data(bytes.split_to(n).freeze()));
                }
                Self::DataEnd if bytes.len() < 2 => return Ok(Piece::More),
                Self::DataEnd if bytes.starts_with(b"\r\n") => {
                    bytes.advance(2);
                    *self = Self::Size;
                }
                Self::DataEnd => return Err(Broken),
                Self::Trailers => return self.trailers(bytes),
                Self::Done => return Ok(Piece::End(HeaderMap::new())),
            }
        }
    }

    fn trailers(&mut self, bytes: &mut BytesMut) -> Result<Piece, Broken> {
        let mut parsed = [httparse::EMPTY_HEADER; 32];
        let (end, found) = match httparse::parse_headers(bytes, &mut parsed) {
            Ok(httparse::Status::Complete(complete)) => complete,
            Ok(httparse::Status::Partial) if bytes.len() <= MAX_TRAILERS => return Ok(Piece::More),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Broken),
        };
        let mut trailers = HeaderMap::new();
        for header in found {
            let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Broken)?;
            trailers.append(name, HeaderValue::from_bytes(header.value).map_err(|_| Broken)?);
        }
        bytes.advance(end);
        *self = Self::Done;
        Ok(Piece::End(trailers))
    }
}

fn after_size(size: u64) -> Decoder {
    if size == 0 { Decoder::Trailers } else { Decoder::Data(size) }
}

/// A line without its CRLF; a bare LF or CR is no end of a line.
fn take_line(bytes: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, Broken> {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
        return if bytes.len() > max { Err(Broken) } else { Ok(None) };
    };
    let mut line = bytes.split_to(end + 1);
    line.truncate(end);
    if line.last() != Some(&b'\r') || line.len() > max {
        return Err(Broken);
    }
    line.truncate(line.len() - 1);
    if line.contains(&b'\r') { Err(Broken) } else { Ok(Some(line)) }
}

/// Hexadecimal digits, then nothing or an extension.
fn size(line: &[u8]) -> Result<u64, Broken> {
    let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii_end();
    let text = std::str::from_utf8(digits).map_err(|_| Broken)?;
    if text.is_empty() || text.len() > 16 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Broken);
    }
    u64::from_str_radix(text, 16).map_err(|_| Broken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `parts` one by one; the body, the trailers and what is left over.
    fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Broken> {
        let (mut decoder, mut buffer, mut body) = (Decoder::default(), BytesMut::new(), Vec::new());
        for part in parts {
            buffer.extend_from_slice(part);
            loop {
                match decoder.next(&mut buffer)? {
                    Piece::Data(data) => body.extend_from_slice(&data),
                    Piece::End(trailers) => return Ok((body, Some(trailers), buffer.len())),
                    Piece::More => break,
                }
            }
        }
        Ok((body, None, buffer.len()))
    }

    const WHOLE: &[u8] = b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n";

    #[test]
    fn a_body_comes_out_whole_wherever_it_is_cut() {
        for at in 0..WHOLE.len() {
            let (body, trailers, left) = decode(&[&WHOLE[..at], &WHOLE[at..]]).unwrap();
            assert_eq!((body.as_slice(), left), (&b"hello world"[..], 0), "{at}");
            assert_eq!(trailers.unwrap()["x-sum"], "1");
        }
    }

    #[test]
    fn what_is_not_the_coding_is_broken_and_what_is_cut_is_not_the_end() {
        for bad in [
            &b"zz\r\n"[..],
            b"5\nhello",
            b"-5\r\n",
            b"0x5\r\n",
            b"\r\n",
            b"5\r\nhelloXY",
            b" 5\r\n",
            b"11111111111111111\r\n",
            b"5 5\r\n",
            b"5\r;x\r\n",
        ] {
            assert_eq!(decode(&[bad]), Err(Broken), "{bad:?}");
        }
        assert!(decode(&[&WHOLE[..WHOLE.len() - 1]]).unwrap().1.is_none());
        assert_eq!(decode(&[&b"a".repeat(5000)]), Err(Broken));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&[&bytes]);
        }
    }
}
