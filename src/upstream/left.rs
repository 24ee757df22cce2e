//! What is left of an answer's body, by its framing (RFC 9112 section 6.3). Pure: works on buffers.

use bytes::BytesMut;

use super::chunked::{Decoder, Step};
use super::parse::{Broken, Framing};

#[derive(Debug)]
pub(super) enum Left {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Over,
}

impl Left {
    pub(super) fn of(framing: Framing) -> Self {
        match framing {
            Framing::None | Framing::Length(0) => Self::Over,
            Framing::Length(n) => Self::Length(n),
            Framing::Chunked => Self::Chunked(Decoder::default()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// Takes the next piece off the front. A body with a length is over with its last piece, a chunked one with
    /// [`Step::End`], which is for the caller to note.
    pub(super) fn step(&mut self, buf: &mut BytesMut) -> Result<Step, Broken> {
        match self {
            Self::Length(left) if !buf.is_empty() => {
                let take = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                *left -= take as u64;
                if *left == 0 {
                    *self = Self::Over;
                }
                Ok(Step::Data(buf.split_to(take).freeze()))
            }
            Self::UntilClose if !buf.is_empty() => Ok(Step::Data(buf.split().freeze())),
            Self::Chunked(decoder) => decoder.step(buf),
            Self::Length(_) | Self::UntilClose | Self::Over => Ok(Step::More),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Over)
    }

    /// Whether the end of the connection is the end of the body; else it is cut there.
    pub(super) fn ends_with_stream(&self) -> bool {
        matches!(self, Self::UntilClose)
    }
}
