//! The chunked coding (RFC 9112 section 7.1), both ways, strictly. Pure: works on buffers.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

use super::parse::Broken;

/// The longest line of a chunk's size with its extensions.
const MAX_LINE: usize = 1024;
/// The longest trailer section.
const MAX_TRAILERS: usize = 16 * 1024;
const MAX_TRAILER_FIELDS: usize = 64;
/// What all extensions of one body may come to, so that they cannot be sent for ever in place of data.
const MAX_EXTENSIONS: usize = 64 * 1024;

/// Reads one chunked body.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    state: State,
    extensions: usize,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// What the front of the buffer held.
#[derive(Debug)]
pub(super) enum Step {
    Data(Bytes),
    /// The end, with its trailers. What is left in the buffer does not belong to the body.
    End(HeaderMap),
    /// More bytes are needed.
    More,
}

impl Decoder {
    pub(super) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Broken> {
        loop {
            match &mut self.state {
                State::Size => {
                    let Some(line) = line(buf, MAX_LINE)? else { return Ok(Step::More) };
                    let size = self.size(&line)?;
                    self.state = if size == 0 { State::Trailers } else { State::Data(size) };
                }
                State::Data(left) => {
                    if buf.is_empty() {
                        return Ok(Step::More);
                    }
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    *left -= take as u64;
                    if *left == 0 {
                        self.state = State::DataEnd;
                    }
                    return Ok(Step::Data(buf.split_to(take).freeze()));
                }
                State::DataEnd => match buf.get(..2) {
                    Some(b"\r\n") => {
                        buf.advance(2);
                        self.state = State::Size;
                    }
                    Some(_) => return Err(Broken("no line end behind a chunk")),
                    None if buf.first().is_some_and(|b| *b != b'\r') => {
                        return Err(Broken("no line end behind a chunk"));
                    }
                    None => return Ok(Step::More),
                },
                State::Trailers => {
                    let Some(trailers) = trailers(buf)? else { return Ok(Step::More) };
                    self.state = State::End;
                    return Ok(Step::End(trailers));
                }
                State::End => return Err(Broken("read behind the end")),
            }
        }
    }

    /// The size of a chunk: 1 to 15 hexadecimal digits, then nothing or an extension, which is not looked into.
    fn size(&mut self, line: &[u8]) -> Result<u64, Broken> {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let (size, rest) = line.split_at(digits);
        let rest = rest.trim_ascii_start();
        let good = (1..=15).contains(&digits)
            && (rest.is_empty() && line.len() == digits || rest.first() == Some(&b';'))
            && rest.iter().all(|b| *b == b'\t' || (*b >= b' ' && *b != 0x7f));
        self.extensions += rest.len();
        if !good || self.extensions > MAX_EXTENSIONS {
            return Err(Broken("chunk size"));
        }
        let text = std::str::from_utf8(size).map_err(|_| Broken("chunk size"))?;
        u64::from_str_radix(text, 16).map_err(|_| Broken("chunk size"))
    }
}

/// Takes a line off the front, less its CR LF. None: not complete yet.
fn line(buf: &mut BytesMut, max: usize) -> Result<Option<Bytes>, Broken> {
    let Some(end) = buf.iter().take(max).position(|b| *b == b'\n') else {
        return if buf.len() >= max { Err(Broken("line too long")) } else { Ok(None) };
    };
    let mut line = buf.split_to(end + 1).freeze();
    let text = line.strip_suffix(b"\r\n").ok_or(Broken("bare LF"))?.len();
    line.truncate(text);
    if line.contains(&b'\r') {
        return Err(Broken("bare CR"));
    }
    Ok(Some(line))
}

fn trailers(buf: &mut BytesMut) -> Result<Option<HeaderMap>, Broken> {
    if buf.starts_with(b"\r\n") {
        buf.advance(2);
        return Ok(Some(HeaderMap::new()));
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_TRAILER_FIELDS];
    let (len, map) = match httparse::parse_headers(buf, &mut fields) {
        Ok(httparse::Status::Complete((len, fields))) => (len, map_of(fields)?),
        Ok(httparse::Status::Partial) if buf.len() <= MAX_TRAILERS => return Ok(None),
        Ok(httparse::Status::Partial) | Err(_) => return Err(Broken("trailers")),
    };
    let section = buf.split_to(len);
    let bare = section.iter().enumerate().any(|(i, b)| *b == b'\n' && (i == 0 || section[i - 1] != b'\r'));
    if bare || len > MAX_TRAILERS {
        return Err(Broken("trailers"));
    }
    Ok(Some(map))
}

fn map_of(fields: &[httparse::Header<'_>]) -> Result<HeaderMap, Broken> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Broken("trailers"))?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| Broken("trailers"))?;
        map.append(name, value);
    }
    Ok(map)
}

/// Writes the line before a chunk of `size` bytes.
pub(super) fn put_size(out: &mut Vec<u8>, size: usize) {
    let _ = std::io::Write::write_fmt(out, format_args!("{size:x}\r\n"));
}

/// Writes the end of a chunked body.
pub(super) fn put_end<'t>(
    out: &mut Vec<u8>,
    trailers: impl Iterator<Item = (&'t HeaderName, &'t HeaderValue)>,
) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        super::head::put_field(out, name, value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Decoded = (Vec<u8>, HeaderMap, Vec<u8>);

    /// Feeds the pieces one after another; the data, the trailers, and what is left over.
    fn decode(pieces: &[&[u8]]) -> Result<Option<Decoded>, Broken> {
        let (mut decoder, mut buf, mut data) = (Decoder::default(), BytesMut::new(), Vec::new());
        for (i, piece) in pieces.iter().enumerate() {
            buf.extend_from_slice(piece);
            loop {
                match decoder.step(&mut buf)? {
                    Step::Data(bytes) => data.extend_from_slice(&bytes),
                    Step::More => break,
                    Step::End(trailers) => {
                        buf.extend_from_slice(&pieces[i + 1..].concat());
                        return Ok(Some((data, trailers, buf.to_vec())));
                    }
                }
            }
        }
        Ok(None)
    }

    const BODY: &[u8] = b"5\r\nhello\r\n6;x=\"y\"\r\n world\r\n0\r\nX-A: b\r\nX-C: d\r\n\r\nLEFT";

    #[test]
    fn a_body_split_anywhere_is_the_same_body() {
        for a in 0..BODY.len() {
            for b in a..BODY.len() {
                let (data, trailers, left) = decode(&[&BODY[..a], &BODY[a..b], &BODY[b..]]).unwrap().unwrap();
                assert_eq!((data.as_slice(), left.as_slice()), (&b"hello world"[..], &b"LEFT"[..]));
                assert_eq!((trailers["x-a"].as_bytes(), trailers["x-c"].as_bytes()), (&b"b"[..], &b"d"[..]));
            }
        }
    }

    #[test]
    fn a_cut_body_never_ends() {
        for cut in 0..BODY.len() - 4 {
            assert!(decode(&[&BODY[..cut]]).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn what_is_not_strictly_chunked_is_broken() {
        for bad in [
            "zz\r\n",
            "\r\n",
            "-1\r\n",
            "+5\r\n",
            "0x5\r\n",
            "5\nhello\r\n",
            "5\r\nhelloXX",
            "5 \r\nhello",
            "1000000000000000\r\n",
            " 5\r\n",
            "5;a\rb\r\n",
            "5;\0\r\n",
            "0\r\nX A: b\r\n\r\n",
            "0\r\nX-A: b\n\r\n",
            "0\r\nX-A: b\r\n c\r\n\r\n",
            "5\r\nhelloX",
        ] {
            assert!(decode(&[bad.as_bytes()]).is_err(), "{bad:?}");
        }
        let long = format!("5;{}\r\n", "x".repeat(MAX_LINE));
        assert!(decode(&[long.as_bytes()]).is_err());
        let many = format!("1;{}\r\nx\r\n", "x".repeat(900)).repeat(100);
        assert!(decode(&[many.as_bytes()]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(chunks in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..300), 0..8)) {
            let mut out = Vec::new();
            for chunk in &chunks {
                put_size(&mut out, chunk.len());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            put_end(&mut out, std::iter::empty());
            let (data, _, left) = decode(&[&out]).unwrap().unwrap();
            prop_assert_eq!(data, chunks.concat());
            prop_assert!(left.is_empty());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode(&[&bytes]);
        }
    }
}
