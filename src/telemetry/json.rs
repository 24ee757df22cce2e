//! One JSON line, written field by field into a buffer that is used again.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

/// A field's name with what stands around it, made by [`key!`](crate::telemetry::json::key): put out in one piece.
#[derive(Clone, Copy)]
pub struct Key(&'static str);

impl Key {
    /// Of `,"name":`.
    #[doc(hidden)]
    #[must_use]
    pub const fn of(quoted: &'static str) -> Self {
        Self(quoted)
    }
}

/// The [`Key`] of a name that needs no escaping.
macro_rules! key {
    ($name:literal) => {
        $crate::telemetry::json::Key::of(concat!(",\"", $name, "\":"))
    };
}
pub(crate) use key;

/// Writes one object's fields. What a client sent stays on its line: control characters and the line separators
/// that some readers break at (U+0085, U+2028, U+2029) are escaped.
pub struct Line<'b> {
    out: &'b mut Vec<u8>,
    first: bool,
}

impl<'b> Line<'b> {
    /// Begins an object at the end of `out`.
    pub fn begin(out: &'b mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, first: true }
    }

    /// A text; none is left out.
    pub fn text(&mut self, key: Key, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.name(key);
            self.out.push(b'"');
            escape(self.out, value);
            self.out.push(b'"');
        }
        self
    }

    /// An address, as a text.
    pub fn address(&mut self, key: Key, value: IpAddr) -> &mut Self {
        self.name(key);
        self.out.push(b'"');
        match value {
            IpAddr::V4(v4) => {
                let [first, rest @ ..] = v4.octets();
                decimal(self.out, first);
                for octet in rest {
                    self.out.push(b'.');
                    decimal(self.out, octet);
                }
            }
            IpAddr::V6(v6) => write_into(self.out, format_args!("{v6}")),
        }
        self.out.push(b'"');
        self
    }

    pub fn number(&mut self, key: Key, value: impl itoa::Integer) -> &mut Self {
        self.name(key);
        decimal(self.out, value);
        self
    }

    /// Milliseconds with three digits behind the point.
    pub fn millis(&mut self, key: Key, value: Duration) -> &mut Self {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX);
        self.number(key, micros / 1000);
        // 1000 and its digits behind the one: the point takes the place of the one.
        let point = self.out.len();
        decimal(self.out, 1000 + micros % 1000);
        if let Some(one) = self.out.get_mut(point) {
            *one = b'.';
        }
        self
    }

    /// Ends the object and the line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, Key(key): Key) {
        let key = key.as_bytes();
        let comma = usize::from(std::mem::take(&mut self.first));
        self.out.extend_from_slice(key.get(comma..).unwrap_or_default());
    }
}

fn decimal(out: &mut Vec<u8>, value: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A `Vec` takes whatever is written, so there is no error to report.
fn write_into(out: &mut Vec<u8>, what: std::fmt::Arguments<'_>) {
    let _: std::io::Result<()> = out.write_fmt(what);
}

fn escape(out: &mut Vec<u8>, text: &str) {
    // Nearly all of them: many bytes at a time, since no byte ends the loop.
    let is_plain = |b: u8| matches!(b, b' '..=b'~') & (b != b'"') & (b != b'\\');
    if text.bytes().fold(true, |all, b| all & is_plain(b)) {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let escaped = match c {
            '"' | '\\' => true,
            c => c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'),
        };
        if escaped {
            out.extend_from_slice(&text.as_bytes()[plain..at]);
            write_into(out, format_args!("\\u{:04x}", u32::from(c)));
            plain = at + c.len_utf8();
        }
    }
    out.extend_from_slice(&text.as_bytes()[plain..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(value: &str) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out);
        line.text(key!("a"), Some(value)).text(key!("none"), None).number(key!("n"), 7u8);
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let made = line("a\r\nb\u{2028}c\u{85}\"\\\u{7f}");
        assert_eq!(made, "{\"a\":\"a\\u000d\\u000ab\\u2028c\\u0085\\u0022\\u005c\\u007f\",\"n\":7}\n");
    }

    #[test]
    fn addresses_and_durations_are_written_as_their_display_has_them() {
        let written = |write: &dyn Fn(&mut Line<'_>)| {
            let mut out = Vec::new();
            let mut line = Line::begin(&mut out);
            write(&mut line);
            line.end();
            String::from_utf8(out).unwrap()
        };
        for text in ["0.0.0.0", "192.0.2.17", "255.255.255.255", "::1", "2001:db8::ff"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(
                written(&|line| {
                    line.address(key!("c"), address);
                }),
                format!("{{\"c\":\"{text}\"}}\n")
            );
        }
        for (micros, text) in
            [(0, "0.000"), (7, "0.007"), (999, "0.999"), (1000, "1.000"), (61_234_050, "61234.050")]
        {
            let took = Duration::from_micros(micros);
            assert_eq!(
                written(&|line| {
                    line.millis(key!("d"), took);
                }),
                format!("{{\"d\":{text}}}\n")
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_reads_back(text in "\\PC*|[\\x00-\\x{2030}]*") {
            let made = line(&text);
            let read: serde_json::Value = serde_json::from_str(&made).unwrap();
            prop_assert_eq!(read["a"].as_str().unwrap(), text);
            let breaks = made.trim_end_matches('\n').contains(['\n', '\r', '\u{2028}', '\u{85}']);
            prop_assert!(!breaks);
        }
    }
}
