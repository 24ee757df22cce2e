//! One segment of a path: what it may hold, and how two of them are compared. The rules that [`super::path`]
//! applies to requests and [`super::routes`] to the paths of the configuration.

use super::path::BadPath;

pub(super) const BACKSLASH: BadPath = BadPath { what: "a backslash" };
pub(super) const PARAMETERS: BadPath = BadPath { what: "`;` parameters" };
pub(super) const DELIMITER: BadPath = BadPath { what: "an encoded `?` or `#`" };
pub(super) const CONTROL: BadPath = BadPath { what: "a control character" };
pub(super) const RAW_BYTE: BadPath = BadPath { what: "a character that must be percent-encoded" };
pub(super) const BAD_ESCAPE: BadPath = BadPath { what: "invalid percent-encoding" };
pub(super) const NOT_UTF8: BadPath = BadPath { what: "percent-encoded bytes that are no UTF-8" };
pub(super) const DOUBLE: BadPath = BadPath { what: "double percent-encoding" };
pub(super) const ENCODED_DOTS: BadPath = BadPath { what: "an encoded dot segment" };

/// What was found in a segment that is good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inspected {
    /// An unreserved character is percent-encoded: the canonical form is another.
    pub(super) changes: bool,
    /// `%2F`: good on a route with `encoded_slash` only.
    pub(super) encoded_slash: bool,
}

/// The first segment of a path without its leading slash, and what is behind the slash that ends it. Segments are short:
/// a general search costs more to begin than to do.
pub(super) fn first(path: &str) -> (&str, &str) {
    let slash = path.bytes().position(|b| b == b'/');
    let at = |at: usize| path.get(..at).zip(path.get(at + 1..));
    slash.and_then(at).unwrap_or((path, ""))
}

/// Judges one segment. Literal `.` and `..` are the caller's and must not be given.
pub(super) fn inspect(segment: &str) -> Result<Inspected, BadPath> {
    let mut characters = Characters(segment.as_bytes());
    let mut found = Inspected::default();
    let (mut part, mut escape) = (Part::Empty, Escape::None);
    while let Some(c) = characters.next()? {
        refuse(c)?;
        let slash = c.value == '/';
        if slash && part.is_dot_segment() {
            return Err(ENCODED_DOTS);
        }
        found.encoded_slash |= slash;
        found.changes |= c.encoded && is_unreserved(c.value);
        part = part.and(c.value);
        escape = escape.and(c.value)?;
    }
    if part.is_dot_segment() { Err(ENCODED_DOTS) } else { Ok(found) }
}

/// Appends the canonical form of a segment that [`inspect`] found good: unreserved characters decoded, everything
/// else as it was sent, the letter case of hexadecimal digits included.
pub(super) fn write_canonical(segment: &str, out: &mut String) {
    let mut rest = segment;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        out.push_str(before);
        let (escape, after) = escape.split_at_checked(3).unwrap_or((escape, ""));
        match octet(escape.as_bytes()).map(|(value, _)| char::from(value)) {
            Some(c) if is_unreserved(c) => out.push(c),
            _ => out.push_str(escape),
        }
        rest = after;
    }
    out.push_str(rest);
}

/// Whether a canonical segment of a request is a route's `literal` ([`folded`]). Percent-encoded characters are
/// compared decoded: an upstream that decodes before it matches must not see a route's path where none was seen here.
pub(super) fn matches(segment: &str, literal: &str, case_sensitive: bool) -> bool {
    if segment.contains('%') {
        return comparable(segment, case_sensitive).eq(literal.chars());
    }
    if case_sensitive { segment == literal } else { segment.eq_ignore_ascii_case(literal) }
}

/// A hash that is equal for all segments that [`matches`] finds equal to one literal, and for that literal
/// ([`hash_of_folded`]). Not keyed: the table holds what the operator wrote, so a client cannot fill its buckets.
pub(super) fn hash(segment: &str, case_sensitive: bool) -> u64 {
    if segment.contains('%') {
        let mut buffer = [0; 4];
        let mut hasher = Fnv::default();
        comparable(segment, case_sensitive)
            .for_each(|c| c.encode_utf8(&mut buffer).bytes().for_each(|b| hasher.feed(b)));
        return hasher.finish();
    }
    let mut hasher = Fnv::default();
    if case_sensitive {
        segment.bytes().for_each(|b| hasher.feed(b));
    } else {
        segment.bytes().for_each(|b| hasher.feed(b.to_ascii_lowercase()));
    }
    hasher.finish()
}

pub(super) fn hash_of_folded(literal: &str) -> u64 {
    let mut hasher = Fnv::default();
    literal.bytes().for_each(|b| hasher.feed(b));
    hasher.finish()
}

/// FNV-1a.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn feed(&mut self, b: u8) {
        self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    /// A hash table takes its bucket from the low bits and its tag from the high ones: mix them.
    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A literal of a route as [`matches`] wants it: percent-decoded and, unless case counts, in lower case. It is
/// written with or without percent-encoding.
pub(super) fn folded(literal: &str, case_sensitive: bool) -> String {
    comparable(&encoded(literal), case_sensitive).collect()
}

/// Percent-encodes what may not stand raw in a request's path, so that a literal can be judged by [`inspect`].
pub(super) fn encoded(literal: &str) -> String {
    const RAW: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b' ');
    percent_encoding::utf8_percent_encode(literal, RAW).to_string()
}

/// The decoded characters of a canonical segment, folded unless case counts. Ends early at what is not canonical.
fn comparable(segment: &str, case_sensitive: bool) -> impl Iterator<Item = char> {
    let mut characters = Characters(segment.as_bytes());
    std::iter::from_fn(move || characters.next().ok().flatten())
        .map(move |c| if case_sensitive { c.value } else { fold(c.value) })
}

/// Lower case, but never from outside ASCII into it: the Kelvin sign is no `k` to any backend.
fn fold(c: char) -> char {
    if c.is_ascii() {
        return c.to_ascii_lowercase();
    }
    let mut lower = c.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) if !one.is_ascii() => one,
        _ => c,
    }
}

/// RFC 3986 section 2.3.
pub(super) fn is_unreserved(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
}

/// One character of a segment and whether it was percent-encoded.
#[derive(Clone, Copy)]
struct Character {
    value: char,
    encoded: bool,
}

/// Reads a segment character by character, decoding.
struct Characters<'s>(&'s [u8]);

impl Characters<'_> {
    fn next(&mut self) -> Result<Option<Character>, BadPath> {
        let Some((&first, rest)) = self.0.split_first() else { return Ok(None) };
        if first == b'%' {
            return self.escaped().map(|value| Some(Character { value, encoded: true }));
        }
        self.0 = rest;
        if !first.is_ascii() || first == b' ' {
            return Err(RAW_BYTE);
        }
        Ok(Some(Character { value: char::from(first), encoded: false }))
    }

    /// One character out of one to four escapes (RFC 3629 section 4: no overlong form, no surrogate).
    fn escaped(&mut self) -> Result<char, BadPath> {
        let lead = self.octet()?;
        let length = match lead {
            0..=0x7f => return Ok(char::from(lead)),
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => return Err(NOT_UTF8),
        };
        let mut buffer = [lead, 0, 0, 0];
        for slot in buffer.iter_mut().take(length).skip(1) {
            *slot = self.octet().map_err(|_| NOT_UTF8)?;
        }
        let text = buffer.get(..length).and_then(|b| std::str::from_utf8(b).ok());
        text.and_then(|t| t.chars().next()).ok_or(NOT_UTF8)
    }

    fn octet(&mut self) -> Result<u8, BadPath> {
        let (value, rest) = octet(self.0).ok_or(BAD_ESCAPE)?;
        self.0 = rest;
        Ok(value)
    }
}

/// The value of an escape (`%41`) at the beginning, and what follows it.
fn octet(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let [b'%', high, low, rest @ ..] = bytes else { return None };
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    Some((digit(high)? << 4 | digit(low)?, rest))
}

/// Characters that servers read differently, raw or encoded (contract section 4, Path).
fn refuse(c: Character) -> Result<(), BadPath> {
    match c.value {
        '\\' => Err(BACKSLASH),
        ';' => Err(PARAMETERS),
        '?' | '#' => Err(DELIMITER),
        c if c.is_control() => Err(CONTROL),
        _ => Ok(()),
    }
}

/// What stands between two encoded slashes, as far as dot segments go.
#[derive(Clone, Copy)]
enum Part {
    Empty,
    Dot,
    DotDot,
    Other,
}

impl Part {
    fn and(self, c: char) -> Self {
        match (c, self) {
            ('/', _) => Self::Empty,
            ('.', Self::Empty) => Self::Dot,
            ('.', Self::Dot) => Self::DotDot,
            _ => Self::Other,
        }
    }

    fn is_dot_segment(self) -> bool {
        matches!(self, Self::Dot | Self::DotDot)
    }
}

/// Finds `%25` before two hexadecimal digits, also where these are percent-encoded themselves.
#[derive(Clone, Copy)]
enum Escape {
    None,
    Percent,
    OneDigit,
}

impl Escape {
    fn and(self, c: char) -> Result<Self, BadPath> {
        match (self, c) {
            (_, '%') => Ok(Self::Percent),
            (Self::Percent, c) if c.is_ascii_hexdigit() => Ok(Self::OneDigit),
            (Self::OneDigit, c) if c.is_ascii_hexdigit() => Err(DOUBLE),
            _ => Ok(Self::None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_compared_decoded_and_without_regard_to_case() {
        for (segment, literal) in [
            ("CDR", "cdr"),
            ("a%20b", "A b"),
            ("%C3%BC", "ü"),
            ("%c3%9C", "ü"),
            ("a%40b", "a@b"),
            ("a@b", "a%40b"),
            ("a%25", "A%25"),
        ] {
            let literal = folded(literal, false);
            assert!(matches(segment, &literal, false), "{segment} {literal}");
            assert_eq!(hash(segment, false), hash_of_folded(&literal), "{segment}");
        }
        assert!(!matches("CDR", &folded("cdr", true), true));
        assert!(matches("Cdr", &folded("Cdr", true), true));
    }

    #[test]
    fn no_character_outside_ascii_is_folded_into_it() {
        assert!(!matches("%E2%84%AA", "k", false), "the Kelvin sign");
        assert!(!matches("%C5%BF", "s", false), "the long s");
        assert!(!matches("%C4%B0", "i", false), "the dotted capital I");
    }

    #[test]
    fn an_encoded_slash_is_reported_and_a_dot_segment_beside_it_refused() {
        let slash = Ok(Inspected { changes: false, encoded_slash: true });
        for good in ["a%2Fb", "%2f", "a%2F%2Fb", "a%2F..b", "a..%2Fb"] {
            assert_eq!(inspect(good), slash, "{good}");
        }
        for bad in ["a%2F..%2Fb", "..%2Fb", "a%2F..", "a%2F.", ".%2fb", "%2e%2e%2Fb", "%2F%2E", "%2e", ".%2E"]
        {
            assert_eq!(inspect(bad), Err(ENCODED_DOTS), "{bad}");
        }
    }
}
