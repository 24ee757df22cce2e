//! WebSocket frames (RFC 6455 section 5), as far as a gateway looks at them: the first message of a client, read whole
//! and strictly, and where one frame of a server ends and the next begins. Knows no stream.

use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use zeroize::Zeroizing;

/// The largest first message, and the most that may come before its end.
const MAX_MESSAGE: usize = 16 * 1024;
const MAX_BYTES: usize = 64 * 1024;

/// A close frame of a server that says 1008, policy violation.
pub(super) const CLOSE_1008: [u8; 4] = [0x88, 2, 0x03, 0xf0];

/// What a client has sent so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// More is to come.
    Unfinished,
    /// Its first message, text.
    Message,
    /// No first message, or not one that may be: the socket closes.
    Bad,
}

/// Reads a client's first message. Nothing that comes before its end is to be forwarded but the frames of it. What is kept
/// may hold a password or a token, and is wiped.
#[derive(Default)]
pub(super) struct FirstMessage {
    /// What was read and is no whole frame yet.
    unread: Zeroizing<Vec<u8>>,
    /// The frames of the message as they came.
    frames: Zeroizing<Vec<u8>>,
    text: Zeroizing<Vec<u8>>,
    began: bool,
    complete: bool,
    taken: usize,
    /// Answers to pings, to be sent to the client.
    pub(super) pongs: Vec<u8>,
}

impl FirstMessage {
    /// Takes what the client sent.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Opening {
        self.unread.extend_from_slice(bytes);
        self.taken += bytes.len();
        loop {
            if self.complete {
                // However it came in pieces.
                let is_late = self.taken - self.unread.len() > MAX_BYTES;
                return if is_late { Opening::Bad } else { Opening::Message };
            }
            match self.next() {
                Ok(true) => {}
                Ok(false) if self.taken > MAX_BYTES => return Opening::Bad,
                Ok(false) => return Opening::Unfinished,
                Err(Bad) => return Opening::Bad,
            }
        }
    }

    /// What came behind the frames that were read.
    pub(super) fn unread(&self) -> Vec<u8> {
        self.unread.to_vec()
    }

    /// The message, its frames as they came, and what came behind them.
    pub(super) fn into_parts(mut self) -> (Zeroizing<Vec<u8>>, Zeroizing<Vec<u8>>) {
        self.frames.extend_from_slice(&self.unread);
        (self.text, self.frames)
    }

    /// One frame; false: it is not there yet.
    fn next(&mut self) -> Result<bool, Bad> {
        let mut cursor = Cursor::new(self.unread.as_slice());
        let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|_| Bad)? else {
            return Ok(false);
        };
        let start = usize::try_from(cursor.position()).map_err(|_| Bad)?;
        let length = usize::try_from(length).map_err(|_| Bad)?;
        let mask = header.mask.ok_or(Bad)?;
        // Extensions were not offered on, so no bit of theirs may be set.
        if header.rsv1 || header.rsv2 || header.rsv3 || length > MAX_MESSAGE - self.text.len() {
            return Err(Bad);
        }
        self.is_in_order(&header, length)?;
        let Some(masked) = self.unread.get(start..start + length) else { return Ok(false) };
        let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        let end = start + length;
        match header.opcode {
            OpCode::Data(_) => {
                self.text.extend(payload);
                self.frames.extend_from_slice(self.unread.get(..end).unwrap_or_default());
                (self.began, self.complete) = (true, header.is_final);
            }
            OpCode::Control(Control::Ping) => {
                self.pongs.extend([0x8a, u8::try_from(length).unwrap_or_default()]);
                self.pongs.extend(payload);
            }
            OpCode::Control(_) => {}
        }
        self.unread.drain(..end);
        Ok(true)
    }

    fn is_in_order(&self, header: &FrameHeader, length: usize) -> Result<(), Bad> {
        let good = match header.opcode {
            OpCode::Data(Data::Text) => !self.began,
            OpCode::Data(Data::Continue) => self.began,
            OpCode::Control(Control::Ping | Control::Pong) => header.is_final && length <= 125,
            // A close before the first message ends it as well as a bad one.
            OpCode::Data(_) | OpCode::Control(_) => false,
        };
        if good { Ok(()) } else { Err(Bad) }
    }
}

struct Bad;

/// Where a server's bytes stand: between two frames, or within one. Copies nothing.
#[derive(Default)]
pub(super) struct Boundary {
    header: [u8; 14],
    known: usize,
    left: u64,
    /// What came was no frame, or was written in part: nothing is known any more.
    lost: bool,
    /// Something is being written.
    began: bool,
}

impl Boundary {
    /// Whether a frame of our own may be put in here.
    pub(super) fn is_between(&self) -> bool {
        !self.is_lost() && self.known == 0 && self.left == 0
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost || self.began
    }

    /// What is written next is not known to be there before [`Boundary::pass`] says so.
    pub(super) fn begin(&mut self) {
        self.began = true;
    }

    /// Notes what is passed on.
    pub(super) fn pass(&mut self, mut bytes: &[u8]) {
        self.began = false;
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let step = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= step as u64;
                bytes = bytes.get(step..).unwrap_or_default();
                continue;
            }
            self.take(bytes[0]);
            bytes = &bytes[1..];
        }
    }

    fn take(&mut self, byte: u8) {
        let Some(place) = self.header.get_mut(self.known) else {
            self.lost = true;
            return;
        };
        *place = byte;
        self.known += 1;
        match FrameHeader::parse(&mut Cursor::new(&self.header[..self.known])) {
            Ok(None) => {}
            Ok(Some((_, length))) => (self.known, self.left) = (0, length),
            Err(_) => self.lost = true,
        }
    }

    /// Bytes up to the end of the frame that has begun, as far as its header tells; 0 between two.
    pub(super) fn left(&self) -> u64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![first];
        match payload.len() {
            n @ 0..126 => out.push(0x80 | n as u8),
            n @ 126..65536 => {
                out.push(0x80 | 126);
                out.extend((n as u16).to_be_bytes());
            }
            n => {
                out.push(0x80 | 127);
                out.extend((n as u64).to_be_bytes());
            }
        }
        let mask = [7, 1, 200, 33];
        out.extend(mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        out
    }

    const TEXT: u8 = 0x81;

    #[test]
    fn a_message_in_pieces_is_one_and_its_frames_go_on_as_they_came() {
        let parts = [
            frame(0x01, b"he"),
            frame(0x89, b"ping"),
            frame(0x00, b"l"),
            frame(0x8a, b""),
            frame(0x80, b"lo"),
        ];
        let mut first = FirstMessage::default();
        let all = parts.concat();
        for byte in &all[..all.len() - 1] {
            assert_eq!(first.take(&[*byte]), Opening::Unfinished);
        }
        assert_eq!(first.take(&all[all.len() - 1..]), Opening::Message);
        assert_eq!(first.pongs, b"\x8a\x04ping");
        let (text, frames) = first.into_parts();
        assert_eq!(*text, b"hello");
        assert_eq!(*frames, [&parts[0][..], &parts[2], &parts[4]].concat());
    }

    #[test]
    fn what_comes_behind_the_message_is_kept_unread() {
        let mut first = FirstMessage::default();
        let behind = [0xff, 0xff, 0x00];
        assert_eq!(first.take(&[&frame(TEXT, b"a")[..], &behind].concat()), Opening::Message);
        assert_eq!(*first.into_parts().1, [&frame(TEXT, b"a")[..], &behind].concat());
    }

    #[test]
    fn what_is_no_text_message_of_a_client_is_bad() {
        let mut unmasked = frame(TEXT, b"a");
        unmasked[1] &= 0x7f;
        for bad in [
            unmasked,
            frame(0x82, b"binary"),
            frame(0x80, b"continues nothing"),
            frame(0xc1, b"compressed"),
            frame(0xa1, b"rsv2"),
            frame(0x91, b"rsv3"),
            frame(0x88, b"close"),
            frame(0x09, b"ping in two"),
            frame(0x89, &[0; 126]),
            frame(0x83, b"reserved"),
            frame(0x8b, b"reserved control"),
            frame(TEXT, &[b' '; 16 * 1024 + 1]),
            [frame(0x01, b"a"), frame(TEXT, b"b")].concat(),
            [frame(0x01, &[b' '; 16 * 1024]), frame(0x80, b"x")].concat(),
        ] {
            assert_eq!(FirstMessage::default().take(&bad), Opening::Bad, "{:?}", &bad[..4]);
        }
        assert_eq!(FirstMessage::default().take(&frame(TEXT, &[b' '; 16 * 1024])), Opening::Message);
        // Told by its header alone: the rest need not come.
        assert_eq!(FirstMessage::default().take(&frame(TEXT, &[0; 70_000])[..14]), Opening::Bad);
    }

    #[test]
    fn a_flood_of_pings_is_no_opening() {
        let mut first = FirstMessage::default();
        let ping = frame(0x89, &[0; 125]);
        let ends = (0..1000).map(|_| first.take(&ping)).find(|opening| *opening != Opening::Unfinished);
        assert_eq!(ends, Some(Opening::Bad));
    }

    #[test]
    fn a_boundary_is_between_two_frames_and_nowhere_else() {
        let server =
            [vec![0x81, 3, b'a', b'b', b'c'], [&[0x82u8, 126, 1, 0][..], &[9; 256]].concat(), vec![0x89, 0]];
        let ends: Vec<usize> = server
            .iter()
            .scan(0, |at, f| {
                *at += f.len();
                Some(*at)
            })
            .collect();
        let mut boundary = Boundary::default();
        for (n, byte) in server.concat().iter().enumerate() {
            assert_eq!(boundary.is_between(), n == 0 || ends.contains(&n), "{n}");
            boundary.pass(&[*byte]);
        }
        assert!(boundary.is_between() && !boundary.is_lost());
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_pieces_do_not_matter(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200) {
            let at = at.min(bytes.len());
            let (mut whole, mut pieces) = (FirstMessage::default(), FirstMessage::default());
            let of_whole = whole.take(&bytes);
            let first = pieces.take(&bytes[..at]);
            if first != Opening::Bad {
                prop_assert_eq!(pieces.take(&bytes[at..]), of_whole);
            }
            let (mut a, mut b) = (Boundary::default(), Boundary::default());
            a.pass(&bytes);
            b.pass(&bytes[..at]);
            b.pass(&bytes[at..]);
            prop_assert_eq!((a.is_between(), a.is_lost(), a.left()), (b.is_between(), b.is_lost(), b.left()));
        }
    }
}
