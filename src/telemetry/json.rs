//! One JSON line, written field by field into a buffer that is used again.

use std::fmt::Display;
use std::io::Write;

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
    pub fn text(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.name(name);
            self.out.push(b'"');
            escape(self.out, value);
            self.out.push(b'"');
        }
        self
    }

    /// A text made by `Display`, of which no character needs escaping (an address, a time, an id).
    pub fn plain(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.name(name);
        self.out.push(b'"');
        write_into(self.out, format_args!("{value}"));
        self.out.push(b'"');
        self
    }

    pub fn number(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.name(name);
        write_into(self.out, format_args!("{value}"));
        self
    }

    /// Ends the object and the line.
    pub fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    fn name(&mut self, name: &str) {
        if !self.first {
            self.out.push(b',');
        }
        self.first = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
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
        line.text("a", Some(value)).text("none", None).number("n", 7).plain("p", "x");
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_is_one_line_whatever_is_in_it() {
        let made = line("a\r\nb\u{2028}c\u{85}\"\\\u{7f}");
        assert_eq!(
            made,
            "{\"a\":\"a\\u000d\\u000ab\\u2028c\\u0085\\u0022\\u005c\\u007f\",\"n\":7,\"p\":\"x\"}\n"
        );
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
