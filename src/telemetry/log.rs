//! The operational log, on standard error: one line an event, whatever stands in it. One thread writes; a reader that is
//! too slow costs lines, which are counted and told, and nobody's time.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;
use tracing::Level;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use super::output::Output;
use super::{LogFormat, LogSettings, audit};
use crate::clock::monotonic;

/// What is written and what is not; changed by a reload.
static WANTED: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Lines that may wait for the writer. Most are below 500 bytes.
const QUEUE: usize = 4096;

/// What the writer is handed.
enum Entry {
    Line(Vec<u8>),
    /// To be told when all before it is written.
    Mark(SyncSender<()>),
}

static WRITER: OnceLock<SyncSender<Entry>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

/// Waits until what was said is written, but not for a reader that stands still.
pub fn finish(patience: Duration) {
    let Some(writer) = WRITER.get() else { return };
    let (done, written) = sync_channel(1);
    let began = monotonic();
    let mut mark = Entry::Mark(done);
    while let Err(TrySendError::Full(again)) = writer.try_send(mark) {
        if monotonic().saturating_duration_since(began) > patience {
            return;
        }
        mark = again;
        std::thread::sleep(Duration::from_millis(1));
    }
    // Not in time, or never: there is nobody to be told.
    let _: Result<(), _> = written.recv_timeout(patience);
}

fn write_all(received: &Receiver<Entry>, out: &'static Output) {
    for entry in received {
        match entry {
            // Nobody is left to be told that nobody reads.
            Entry::Line(line) => drop(out.put(&line)),
            Entry::Mark(done) => drop(done.try_send(())),
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(lost, "lines of this log are lost: who reads it is too slow");
        }
    }
}

/// Sends what the program says to `out` from here on. A second call has no effect but on the level.
pub fn start(settings: &LogSettings, out: &'static Output) {
    let (lines, received) = sync_channel(QUEUE);
    let writer = std::thread::Builder::new().name("log".into()).spawn(move || write_all(&received, out));
    if writer.is_ok() {
        // Only tests start twice in one process.
        let _: Result<(), _> = WRITER.set(lines);
    }
    let (wanted, handle) = reload::Layer::new(wanted(settings.level));
    let layer = fmt::layer().with_writer(move || OneLine::to(out)).with_ansi(false);
    let layer = match settings.format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.boxed(),
    };
    // One behind the other, not joined by `and_then`: of a joined pair the level is not known from outside, and every
    // event of every library, however minor, would be looked at.
    // Only tests start twice in one process.
    if tracing_subscriber::registry().with(wanted).with(layer).try_init().is_ok() {
        let _: Result<(), _> = WANTED.set(handle);
    }
}

/// From here on only what is at least as grave is written, and the audit log.
pub fn set_level(level: Level) {
    if let Some(handle) = WANTED.get() {
        // The subscriber lives as long as the program.
        let _: Result<(), _> = handle.reload(wanted(level));
    }
}

fn wanted(level: Level) -> Targets {
    Targets::new().with_default(level).with_target(audit::TARGET, Level::INFO)
}

/// One event: gathered, and written at once when it is whole. Of what a client sent, nothing ends the line or moves
/// a terminal: control characters, U+0085, U+2028 and U+2029 are escaped.
struct OneLine {
    event: Vec<u8>,
    out: &'static Output,
}

impl OneLine {
    fn to(out: &'static Output) -> Self {
        Self { event: Vec::with_capacity(512), out }
    }
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.event.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for OneLine {
    fn drop(&mut self) {
        let mut line = one_line(&self.event);
        line.push(b'\n');
        let Some(writer) = WRITER.get() else {
            // There is no thread for it.
            let _: io::Result<()> = self.out.put(&line);
            return;
        };
        if writer.try_send(Entry::Line(line)).is_err() {
            LOST.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let text = text.trim_end_matches('\n');
    let ends_line = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    let mut line = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if ends_line(c) {
            line.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            line.push(c);
        }
    }
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_wanted_is_not_looked_at() {
        let settings = LogSettings { level: Level::WARN, format: LogFormat::Json, access: false };
        start(&settings, super::super::output::stderr());
        // The audit log is of this level whatever is wanted else.
        assert_eq!(tracing::level_filters::LevelFilter::current(), Level::INFO);
        set_level(Level::DEBUG);
        assert_eq!(tracing::level_filters::LevelFilter::current(), Level::DEBUG);
        set_level(Level::ERROR);
        assert_eq!(tracing::level_filters::LevelFilter::current(), Level::INFO);
    }

    #[test]
    fn an_event_is_one_line_whatever_stands_in_it() {
        let event = "{\"a\":\"x\u{2028}y\u{85}z\r\n\u{1b}[31m\u{7f}\"}\n".as_bytes();
        let line = String::from_utf8(one_line(event)).unwrap();
        assert_eq!(line, r#"{"a":"x\u2028y\u0085z\u000d\u000a\u001b[31m\u007f"}"#);
        assert_eq!(one_line(b"a\xffb\n"), "a\u{fffd}b".as_bytes());
    }
}
