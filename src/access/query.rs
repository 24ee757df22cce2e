//! Reading a query's parameters without taking it apart: names and values are compared percent-decoded, `+` as a
//! blank (WHATWG URL, `application/x-www-form-urlencoded`). Nothing here is changed.

use std::borrow::Cow;

/// How often a parameter is in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occurrence<'q> {
    Absent,
    /// Its value, as it was sent.
    Once(&'q str),
    /// Twice, or under a name that some parser folds into it: parsers differ in which one they take.
    Ambiguous,
}

/// What a parser may make of a parameter's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    Same,
    /// Not the name, but bracket-reading parsers (qs, PHP) fold it into that.
    Folds,
    Other,
}

/// Looks for a parameter. `;` separates for some parsers (HTML 4.01 appendix B.2.2): what it hides counts as given.
pub(super) fn occurrence<'q>(query: &'q str, wanted: &str) -> Occurrence<'q> {
    let mut found = Occurrence::Absent;
    for piece in query.split('&') {
        let (name, value) = pair(piece);
        match likeness(name, wanted) {
            Likeness::Same if found == Occurrence::Absent => found = Occurrence::Once(value),
            Likeness::Same | Likeness::Folds => return Occurrence::Ambiguous,
            Likeness::Other => {}
        }
        if hides(piece, wanted) {
            return Occurrence::Ambiguous;
        }
    }
    found
}

/// Whether some parser finds a value of the parameter that `is_wanted`, however often and by whatever name it is given.
pub(super) fn may_give(query: &str, wanted: &str, is_wanted: impl Fn(&str) -> bool) -> bool {
    query.split('&').any(|piece| {
        let (name, value) = pair(piece);
        let value = value.split(';').next().unwrap_or_default();
        hides(piece, wanted) || likeness(name, wanted) != Likeness::Other && is_wanted(value)
    })
}

/// The value of a parameter that is given once.
pub(super) fn only<'q>(query: Option<&'q str>, name: &str) -> Option<&'q str> {
    match occurrence(query?, name) {
        Occurrence::Once(value) => Some(value),
        Occurrence::Absent | Occurrence::Ambiguous => None,
    }
}

/// A parameter's value, decoded, if it is given once: twice it decides nothing, whichever one another reader takes.
#[must_use]
pub fn value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    let raw = only(query, name)?;
    if !raw.contains(['%', '+']) {
        return Some(Cow::Borrowed(raw));
    }
    let bytes: Vec<u8> = decoded(raw).collect();
    Some(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether a piece between two `&` is the parameter to any parser.
pub(super) fn gives(piece: &str, wanted: &str) -> bool {
    likeness(pair(piece).0, wanted) != Likeness::Other || hides(piece, wanted)
}

/// Name or value as bytes, decoded. An escape that is none stands for itself.
pub(super) fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut bytes = text.bytes();
    std::iter::from_fn(move || match bytes.next()? {
        b'+' => Some(b' '),
        b'%' => {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let mut ahead = bytes.clone();
            match (digit(ahead.next()), digit(ahead.next())) {
                (Some(high), Some(low)) => {
                    bytes = ahead;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            }
        }
        b => Some(b),
    })
}

/// Compares a parameter's name with one that is looked for.
pub(super) fn likeness(name: &str, wanted: &str) -> Likeness {
    if decoded(name).eq(wanted.bytes()) {
        Likeness::Same
    } else if folds(name, wanted) {
        Likeness::Folds
    } else {
        Likeness::Other
    }
}

fn pair(piece: &str) -> (&str, &str) {
    piece.split_once('=').unwrap_or((piece, ""))
}

/// Whether a parser that separates at `;` finds the parameter within a piece. The first part's name is left to the
/// caller where it is the piece's own.
fn hides(piece: &str, wanted: &str) -> bool {
    if !piece.contains(';') {
        return false;
    }
    let own = usize::from(!pair(piece).0.contains(';'));
    piece.split(';').skip(own).any(|part| likeness(pair(part).0, wanted) != Likeness::Other)
}

/// `x_key[]`, `x_key[$in]`, `x_key.a`, `[x_key]`, `x_key[`: qs and the like. ` x_key`, `x.key`, `x key`, `x[key`:
/// PHP, which drops leading blanks and makes an underscore of a dot, a blank and a bracket that nothing closes.
fn folds(name: &str, wanted: &str) -> bool {
    let mut bytes = decoded(name).skip_while(|b| matches!(b, b'\t'..=b'\r' | b' ' | b'[' | b'?'));
    let mut opened = false;
    for want in wanted.bytes() {
        let Some(got) = bytes.next() else { return false };
        if got != want && underscored(got) != underscored(want) {
            return false;
        }
        opened |= got == b'[';
    }
    let Some(next) = bytes.next() else { return true };
    let closed = opened && (next == b']' || bytes.any(|b| b == b']'));
    !closed && matches!(next, b'[' | b']' | b'.' | b' ' | 0)
}

fn underscored(b: u8) -> u8 {
    if matches!(b, b'.' | b' ' | b'[') { b'_' } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_parser_folds_are_known() {
        for name in
            "x_key[] x_key[$in] x_key[a][b] x_key[ [x_key] [x_key][a] [x_key]a x_key%5B%5D x%5Fkey[] x_key%5b %5Bx_key%5D \
             x_key.a x.key x+key x%20key +x_key %20x_key x[key x_key] x_key%00 x_key+ ?x_key [[x_key]]"
                .split_whitespace()
        {
            assert_eq!(likeness(name, "x_key"), Likeness::Folds, "{name}");
        }
    }

    #[test]
    fn a_name_is_compared_decoded() {
        for name in ["x_key", "x%5Fkey", "%78_key", "x%5fke%79"] {
            assert_eq!(likeness(name, "x_key"), Likeness::Same, "{name}");
        }
        for name in [
            "x_keys",
            "xx_key",
            "X_KEY",
            "a[x_key]",
            "x-key",
            "key",
            "",
            "x_ke",
            "x[key]",
            "x_key%",
            "x%255Fkey",
            "x_key_[]",
        ] {
            assert_eq!(likeness(name, "x_key"), Likeness::Other, "{name}");
        }
    }

    #[test]
    fn a_parameter_is_found_once_or_is_ambiguous() {
        for (query, value) in [
            ("domain=a", "a"),
            ("x=1&domain=a&y=2", "a"),
            ("&&domain=a", "a"),
            ("d%6fmain=a%2eb", "a%2eb"),
            ("domain=a=b", "a=b"),
            ("domain", ""),
            ("domain=a;x=1", "a;x=1"),
        ] {
            assert_eq!(occurrence(query, "domain"), Occurrence::Once(value), "{query}");
        }
        for query in ["", "x=domain", "domains=1", "x=domain=a", "Domain=a", "domain%3Da", "x=1;y=2"] {
            assert_eq!(occurrence(query, "domain"), Occurrence::Absent, "{query}");
        }
        for query in [
            "domain=a&domain=a",
            "domain=a&x&domain=",
            "domain=a&domain[]=b",
            "domain[]=b",
            "x=1;domain=a",
            "domain=a;domain=b",
            "domain;x=1",
            "domain=a&x;domain",
        ] {
            assert_eq!(occurrence(query, "domain"), Occurrence::Ambiguous, "{query}");
        }
    }
}
