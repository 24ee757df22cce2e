//! Where one HTTP/1 request ends and the next begins, followed beside hyper's parser.
//!
//! hyper takes a request that carries both `Content-Length` and `Transfer-Encoding`, or the same
//! `Content-Length` twice, and hides it: the surplus header is not in the request it hands out. Contract
//! section 4 refuses such a request, because a server before or behind us may have read it the other way
//! (RFC 9112 section 6.1). So the bytes are followed on their way into hyper, and a request is named by its
//! number on the connection. So it is with a bare LF as a line's end, which hyper takes (RFC 9112 section 2.2 allows it)
//! and another server may take for a part of the line. A chunked body is read by its grammar alone, and hyper is not
//! given the line that breaks it. Judges nothing else: what hyper refuses, hyper refuses.

#[cfg(test)]
mod tests;

use memchr::memchr_iter;

/// Of a line whose end has not come only so much is kept, and its last byte: enough for the two names, a length
/// and the CR. The line of a chunk's size may not be as long: all of it is looked at.
const KEPT: usize = 256;
/// A chunk's size may have leading zeros, not without end.
const MAX_SIZE_DIGITS: usize = 16;

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
    /// A chunked body broke the rules: nothing behind it is read.
    Broken,
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
    /// The next bytes from the client. Gives back how many of them may be read: all, or those before a line that
    /// broke a chunked body.
    pub(super) fn feed(&mut self, all: &[u8]) -> usize {
        let mut bytes = all;
        while !bytes.is_empty() {
            let before = all.len() - bytes.len();
            bytes = match self.state {
                State::Head => self.lines(bytes, Self::head_line),
                State::Sized(left) => self.skip(bytes, left, State::Sized, State::Head),
                State::ChunkSize => self.lines(bytes, Self::chunk_size),
                State::ChunkData(left) => self.skip(bytes, left, State::ChunkData, State::ChunkEnd),
                State::ChunkEnd => self.lines(bytes, Self::chunk_end),
                State::Trailers => self.lines(bytes, Self::trailer),
                State::Lost => break,
                State::Broken => return before,
            };
            if self.is_broken() {
                return before;
            }
        }
        all.len()
    }

    /// Whether a chunked body broke the rules.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.state, State::Broken)
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
            | State::Lost
            | State::Broken => Position::Body,
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

    /// A bare LF ends a line, as it does for hyper, and spoils the head.
    fn head_line(&mut self, line: &[u8]) -> Step {
        let stripped = line.strip_suffix(b"\r");
        self.head.ambiguous |= stripped.is_none();
        let text = stripped.unwrap_or(line);
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
            self.fault_at = Some(self.heads);
            self.state = State::Lost;
            return Step::Change;
        }
        self.state = match head.length {
            _ if head.chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(length) => State::Sized(length),
        };
        Step::Change
    }

    /// In a chunked body only CRLF ends a line.
    fn chunk_size(&mut self, line: &[u8]) -> Step {
        let Some(size) = size_of_chunk(line) else { return self.broken() };
        self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
        Step::Change
    }

    fn chunk_end(&mut self, line: &[u8]) -> Step {
        if line != b"\r" {
            return self.broken();
        }
        self.state = State::ChunkSize;
        Step::Change
    }

    fn trailer(&mut self, line: &[u8]) -> Step {
        if line == b"\r" {
            self.state = State::Head;
            return Step::Change;
        }
        if line.ends_with(b"\r") { Step::Stay } else { self.broken() }
    }

    fn broken(&mut self) -> Step {
        self.state = State::Broken;
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

/// RFC 9112 section 7.1: digits, then nothing or an extension, which holds no control character. hyper would take blanks
/// without an extension, and any byte in one.
fn size_of_chunk(line: &[u8]) -> Option<u64> {
    let text = line.strip_suffix(b"\r").filter(|_| line.len() < KEPT)?;
    let digits = text.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let (size, rest) = text.split_at_checked(digits).filter(|_| digits <= MAX_SIZE_DIGITS)?;
    let extended = rest.trim_ascii_start().starts_with(b";");
    let plain = |b: &u8| *b == b'\t' || (*b >= b' ' && *b != 0x7f);
    let good = rest.is_empty() || extended && rest.iter().all(plain);
    good.then(|| number(size, 16))?
}

/// Digits only: no sign, no list.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let plain = !digits.is_empty() && digits.iter().all(|b| char::from(*b).is_digit(radix));
    plain.then(|| u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok())?
}
