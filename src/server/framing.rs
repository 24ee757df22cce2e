//! Where one HTTP/1 request ends and the next begins, followed beside hyper's parser.
//!
//! hyper takes a request that carries both `Content-Length` and `Transfer-Encoding`, or the same
//! `Content-Length` twice, and hides it: the surplus header is not in the request it hands out. Contract
//! section 4 refuses such a request, because a server before or behind us may have read it the other way
//! (RFC 9112 section 6.1). So the bytes are followed on their way into hyper, and a request is named by its
//! number on the connection. Judges nothing else: what hyper refuses, hyper refuses.

use memchr::memchr_iter;

/// Of a line whose end has not come only so much is kept, and its last byte: enough for the two names, a length
/// and the CR.
const KEPT: usize = 64;

/// What the bytes so far have led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Between two requests, or before the first.
    Between,
    /// A head has begun and not ended.
    Head,
    /// A body has begun and not ended, or nothing can be said any more.
    Body,
}

/// Follows the bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct RequestFraming {
    state: State,
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    head: Head,
    heads: u32,
    fault_at: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Head,
    Sized(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Found ambiguous: the bytes are not followed any more.
    Lost,
}

/// What the lines of the head so far say about the body.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    begun: bool,
    chunked: bool,
    length: Option<u64>,
    ambiguous: bool,
}

impl RequestFraming {
    /// The next bytes from the client.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Head => self.lines(bytes, Self::head_line),
                State::Sized(left) => self.skip(bytes, left, State::Sized, State::Head),
                State::ChunkSize => self.lines(bytes, Self::chunk_size),
                State::ChunkData(left) => self.skip(bytes, left, State::ChunkData, State::ChunkEnd),
                State::ChunkEnd => self.lines(bytes, Self::chunk_end),
                State::Trailers => self.lines(bytes, Self::trailer),
                State::Lost => return,
            };
        }
    }

    /// The number (1 for the first) of the request that must be refused, and after which nothing is known.
    pub(super) fn fault_at(&self) -> Option<u32> {
        self.fault_at
    }

    pub(super) fn position(&self) -> Position {
        match self.state {
            State::Head if self.head.begun || !self.line.is_empty() => Position::Head,
            State::Head => Position::Between,
            State::Sized(_)
            | State::ChunkSize
            | State::ChunkData(_)
            | State::ChunkEnd
            | State::Trailers
            | State::Lost => Position::Body,
        }
    }

    /// Gives each line to `take` (without its LF) until the state changes; the rest of the bytes comes back.
    fn lines<'b>(&mut self, bytes: &'b [u8], take: fn(&mut Self, &[u8]) -> Step) -> &'b [u8] {
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            let step = if self.line.is_empty() {
                take(self, line)
            } else {
                self.keep(line);
                let whole = std::mem::take(&mut self.line);
                take(self, &whole)
            };
            if let Step::Change = step {
                return bytes.get(start..).unwrap_or_default();
            }
        }
        self.keep(bytes.get(start..).unwrap_or_default());
        &[]
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = KEPT.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(bytes.get(..room).unwrap_or_default());
        if room < bytes.len()
            && let (Some(end), Some(last)) = (self.line.last_mut(), bytes.last())
        {
            *end = *last;
        }
    }

    fn skip<'b>(&mut self, bytes: &'b [u8], left: u64, more: fn(u64) -> State, then: State) -> &'b [u8] {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.state = if left == 0 { then } else { more(left) };
        bytes.get(here..).unwrap_or_default()
    }

    /// A bare LF ends a line too, as it does for hyper (RFC 9112 section 2.2).
    fn head_line(&mut self, line: &[u8]) -> Step {
        let text = line.strip_suffix(b"\r").unwrap_or(line);
        if text.is_empty() {
            return if self.head.begun { self.end_of_head() } else { Step::Stay };
        }
        if !self.head.begun {
            self.head.begun = true;
        } else if let Some(b'c' | b'C') = text.first() {
            self.content_length(text, line.len() >= KEPT);
        } else if let Some(b't' | b'T') = text.first() {
            self.head.chunked |= value_of(text, b"transfer-encoding").is_some();
        }
        Step::Stay
    }

    fn content_length(&mut self, line: &[u8], cut: bool) {
        let Some(value) = value_of(line, b"content-length") else { return };
        let length = number(value.trim_ascii(), 10).filter(|_| !cut);
        self.head.ambiguous |= length.is_none() || self.head.length.is_some();
        self.head.length = length;
    }

    fn end_of_head(&mut self) -> Step {
        let head = std::mem::take(&mut self.head);
        self.heads = self.heads.saturating_add(1);
        if head.ambiguous || (head.chunked && head.length.is_some()) {
            return self.lose(self.heads);
        }
        self.state = match head.length {
            _ if head.chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(length) => State::Sized(length),
        };
        Step::Change
    }

    /// In a chunked body only CRLF ends a line: hyper's decoder is as strict, but for trailers.
    fn chunk_size(&mut self, line: &[u8]) -> Step {
        let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
        let size = line.get(..digits).and_then(|d| number(d, 16));
        match size {
            Some(size) if line.ends_with(b"\r") => {
                self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                Step::Change
            }
            Some(_) | None => self.lose(self.heads.saturating_add(1)),
        }
    }

    fn chunk_end(&mut self, line: &[u8]) -> Step {
        if line != b"\r" {
            return self.lose(self.heads.saturating_add(1));
        }
        self.state = State::ChunkSize;
        Step::Change
    }

    fn trailer(&mut self, line: &[u8]) -> Step {
        if line == b"\r" {
            self.state = State::Head;
            return Step::Change;
        }
        if !line.ends_with(b"\r") {
            return self.lose(self.heads.saturating_add(1));
        }
        Step::Stay
    }

    fn lose(&mut self, request: u32) -> Step {
        self.fault_at = Some(request);
        self.state = State::Lost;
        Step::Change
    }
}

enum Step {
    Stay,
    Change,
}

/// The value of a header line with this name. A space before the colon is not looked for: hyper refuses it.
fn value_of<'l>(line: &'l [u8], name: &[u8]) -> Option<&'l [u8]> {
    let (found, rest) = line.split_at_checked(name.len())?;
    found.eq_ignore_ascii_case(name).then(|| rest.strip_prefix(b":"))?
}

/// Digits only: no sign, no list.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(|b| char::from(*b).is_digit(radix));
    plain.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok())?
}

#[cfg(test)]
mod tests {
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
        assert_eq!(fault(&head(&format!("{te}cOntent-lENGTH:5\n"))), Some(1));
        assert_eq!(fault(&head(&format!("{cl}{cl}"))), Some(1));
        assert_eq!(fault(&head("Content-Length: +5\r\n")), Some(1));
        assert_eq!(fault(&head("Content-Length: 5, 5\r\n")), Some(1));
        assert_eq!(fault(&head(&format!("Content-Length:{}5\r\n", " ".repeat(80)))), Some(1));
        assert_eq!(fault(&head(te)), None);
        assert_eq!(fault(&head(cl)), None);
        assert_eq!(fault(&head("X-Content-Length: 5\r\nX: Content-Length: 5\r\nCookie: a\r\n")), None);
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

    const LONG_TRAILER: &str =
        "0\r\nT: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n\r\n";

    #[test]
    fn a_chunked_body_that_cannot_be_followed_spoils_the_next_request() {
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "5\nhello",
            "x\r\n",
            "\r\n",
            "1\r\nab\r\n",
            "0\r\nT: x\n\r\n",
            "11112222333344445\r\n",
            LONG_TRAILER,
        ] {
            assert_eq!(fault(&format!("{chunked}{body}")), Some(2), "{body:?}");
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
            requests.concat().chunks(cut).for_each(|piece| framing.feed(piece));
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
            bytes.as_bytes().chunks(cut).for_each(|piece| cut_up.feed(piece));
            prop_assert_eq!(whole.fault_at(), cut_up.fault_at());
            prop_assert_eq!(whole.position(), cut_up.position());
        }
    }
}
