//! The operational log, on standard error: one line an event, whatever stands in it.

use std::io::{self, Write};
use std::sync::OnceLock;
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

/// What is written and what is not; changed by a reload.
static WANTED: OnceLock<Handle<Targets, Registry>> = OnceLock::new();

/// Sends what the program says to `out` from here on. A second call has no effect but on the level.
pub fn start(settings: &LogSettings, out: &'static Output) {
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
        // Nobody is left to be told that nobody reads.
        let _: io::Result<()> = self.out.put(&line);
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
