//! The heads of answers as they come, in pieces. Pure: works on buffers.

use bytes::BytesMut;
use http::Method;

use super::parse::{self, Broken, Head};

/// Reads one head after another.
#[derive(Debug, Default)]
pub(super) struct HeadReader {
    /// Bytes of the buffer that were looked at without finding the head's end.
    scanned: usize,
}

impl HeadReader {
    /// Takes the next head off the front. One that did not come whole is parsed again only once its end is there.
    pub(super) fn read(&mut self, buf: &mut BytesMut, method: &Method) -> Result<Option<Head>, Broken> {
        if buf.is_empty() || (self.scanned > 0 && buf.len() <= parse::MAX_HEAD && !self.has_end(buf)) {
            self.scanned = buf.len();
            return Ok(None);
        }
        let head = parse::head(buf, method)?;
        self.scanned = if head.is_some() { 0 } else { buf.len() };
        Ok(head)
    }

    fn has_end(&self, buf: &[u8]) -> bool {
        let fresh = buf.get(self.scanned.saturating_sub(3)..).unwrap_or_default();
        fresh.windows(2).any(|w| w == b"\n\n") || fresh.windows(3).any(|w| w == b"\n\r\n")
    }
}
