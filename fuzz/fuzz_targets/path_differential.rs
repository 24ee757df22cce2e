//! The reader of paths against another one that is slow and plain: RFC 3986 sections 5.2.4 and 6.2.2 with what contract
//! section 4 refuses. Both refuse, or both say the same path.
#![no_main]

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use postern::access::path::CanonicalPath;

fuzz_target!(|target: &str| {
    let Ok(parsed) = PathAndQuery::try_from(target) else { return };
    let read = CanonicalPath::parse(target);
    let slowly = reference(parsed.path());
    match (&read, &slowly) {
        (Ok(read), Some(slowly)) => {
            assert_eq!(read.as_str(), slowly);
            assert_eq!(read.has_encoded_slash(), slowly.to_lowercase().contains("%2f"));
        }
        (Err(_), None) => {}
        _ => panic!("{target:?}: {read:?}, slowly {slowly:?}"),
    }
});

/// None: refused.
fn reference(path: &str) -> Option<String> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    if !segments.iter().all(|segment| is_good(segment)) {
        return None;
    }
    let mut kept: Vec<String> = Vec::new();
    for segment in &segments {
        match *segment {
            "" | "." => {}
            // A server that decodes first would take back a part of a segment only.
            ".." if kept.pop()?.to_lowercase().contains("%2f") => return None,
            ".." => {}
            _ => kept.push(canonical(segment)),
        }
    }
    let is_folder = matches!(*segments.last()?, "" | "." | "..");
    let end = if is_folder && !kept.is_empty() { "/" } else { "" };
    Some(format!("/{}{end}", kept.join("/")))
}

fn is_good(segment: &str) -> bool {
    if segment == "." || segment == ".." {
        return true;
    }
    let Some(decoded) = decode(segment) else { return false };
    let is_plain = |c: char| c.is_ascii_graphic();
    let is_double = decoded
        .as_bytes()
        .windows(3)
        .any(|three| three[0] == b'%' && three[1].is_ascii_hexdigit() && three[2].is_ascii_hexdigit());
    segment.chars().all(is_plain)
        && !decoded.chars().any(|c| c.is_control() || matches!(c, '\\' | ';' | '?' | '#'))
        && !decoded.split('/').any(|part| part == "." || part == "..")
        && !is_double
}

/// Each escape once. None: one that is none, or no UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

/// Unreserved characters decoded (RFC 3986 section 6.2.2.2), all else as it came. No new escape can come of it: `%25` before
/// two hex digits is refused.
fn canonical(segment: &str) -> String {
    let mut out = segment.to_owned();
    if !out.contains('%') {
        return out;
    }
    for byte in (0..=127u8).filter(|b| b.is_ascii_alphanumeric() || b"-._~".contains(b)) {
        let (high, low) = (byte >> 4, byte & 15);
        for hex in [format!("%{high:x}{low:x}"), format!("%{high:X}{low:X}")] {
            out = out.replace(&hex, &char::from(byte).to_string());
        }
    }
    out
}
