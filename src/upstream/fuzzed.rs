//! The readers of what a server sends, and of what a client sends before it is known, opened for `fuzz/` alone. Not an
//! interface.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode};

use super::chunked::Step;
use super::frames::{Boundary, FirstMessage, Opening};
use super::heads::HeadReader;
use super::left::Left;
use super::parse::{Broken, Framing, Head};

/// What came of a server's bytes, up to the end of its connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadAnswer {
    /// None: there was no final one.
    pub head: Option<ReadHead>,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
    /// It is no HTTP, or ended before its end.
    pub is_broken: bool,
}

/// The head of a final answer.
#[derive(Debug, PartialEq, Eq)]
pub struct ReadHead {
    pub status: StatusCode,
    pub fields: HeaderMap,
    /// `none`, `length`, `chunked` or `until close`
    pub framing: &'static str,
    pub length: Option<u64>,
    pub keep_alive: bool,
    /// The bytes up to its end.
    pub ends_at: usize,
}

/// Reads an answer to `method` that comes in these pieces, as `forward` does.
#[must_use]
pub fn read_answer(pieces: &[&[u8]], method: &Method) -> ReadAnswer {
    let mut answer = ReadAnswer::default();
    answer.is_broken = read(&mut answer, pieces, method) != Ok(true);
    answer
}

/// Whether it came whole.
fn read(answer: &mut ReadAnswer, pieces: &[&[u8]], method: &Method) -> Result<bool, Broken> {
    let (mut buf, mut heads, mut came) = (BytesMut::new(), HeadReader::default(), 0);
    let mut left = None;
    for piece in pieces {
        buf.extend_from_slice(piece);
        came += piece.len();
        while left.is_none()
            && let Some(head) = heads.read(&mut buf, method)?
        {
            if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
                left = Some(Left::of(head.framing));
                answer.head = Some(ReadHead::of(head, came - buf.len()));
            }
        }
        if let Some(left) = &mut left {
            read_body(answer, left, &mut buf)?;
        }
    }
    Ok(left.is_some_and(|left| left.is_over() || left.ends_with_stream()))
}

fn read_body(answer: &mut ReadAnswer, left: &mut Left, buf: &mut BytesMut) -> Result<(), Broken> {
    while !left.is_over() {
        match left.step(buf)? {
            Step::Data(data) => answer.body.extend_from_slice(&data),
            Step::More => break,
            Step::End(trailers) => {
                answer.trailers = trailers;
                *left = Left::Over;
            }
        }
    }
    Ok(())
}

impl ReadHead {
    fn of(head: Head, ends_at: usize) -> Self {
        let (framing, length) = match head.framing {
            Framing::None => ("none", None),
            Framing::Length(n) => ("length", Some(n)),
            Framing::Chunked => ("chunked", None),
            Framing::UntilClose => ("until close", None),
        };
        let Head { status, headers: fields, keep_alive, .. } = head;
        Self { status, fields, framing, length, keep_alive, ends_at }
    }
}

/// What came of a client's bytes on a WebSocket that waits for its first message.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReadOpening {
    /// None: there was none, and nothing goes on to the server.
    pub message: Option<Vec<u8>>,
    /// What goes on once the message is judged good.
    pub onward: Vec<u8>,
    /// What of it came behind the message.
    pub behind: Vec<u8>,
    pub pongs: Vec<u8>,
    pub is_bad: bool,
}

/// Reads what a client sends in these pieces, as a guarded socket does.
#[must_use]
pub fn read_opening(pieces: &[&[u8]]) -> ReadOpening {
    let (mut first, mut read) = (FirstMessage::default(), ReadOpening::default());
    let mut pieces = pieces.iter();
    for piece in pieces.by_ref() {
        match first.take(piece) {
            Opening::Unfinished => {}
            Opening::Bad => {
                read.is_bad = true;
                break;
            }
            Opening::Message => {
                read.pongs = std::mem::take(&mut first.pongs);
                let unread = first.unread();
                let (text, frames) = first.into_parts();
                let rest = pieces.flat_map(|piece| piece.iter().copied());
                read.onward = frames.iter().copied().chain(rest.clone()).collect();
                read.behind = unread.into_iter().chain(rest).collect();
                read.message = Some(text.to_vec());
                return read;
            }
        }
    }
    read.pongs = first.pongs;
    read
}

/// Where a server's frames stand behind these pieces: between two, lost, and the bytes up to the end of one.
#[must_use]
pub fn boundary(pieces: &[&[u8]]) -> (bool, bool, u64) {
    let mut boundary = Boundary::default();
    pieces.iter().for_each(|piece| boundary.pass(piece));
    (boundary.is_between(), boundary.is_lost(), boundary.left())
}
