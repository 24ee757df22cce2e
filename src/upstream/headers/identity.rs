//! The header fields that tell an upstream who calls (contract section 4, Forwarding).

use http::header::HeaderName;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::borrow::Cow;

use super::Sink;
use crate::access::Scope;
use crate::identity::{RoleName, UserName};

static USER: HeaderName = HeaderName::from_static("x-webitel-user");
static DOMAIN: HeaderName = HeaderName::from_static("x-webitel-domain");
static ROLE: HeaderName = HeaderName::from_static("x-webitel-role");
static SCOPE: HeaderName = HeaderName::from_static("x-postern-scope");

/// All of them.
#[must_use]
pub(in crate::upstream) fn names() -> [&'static HeaderName; 4] {
    [&USER, &DOMAIN, &ROLE, &SCOPE]
}

/// What of a name stands in a header as it is: visible ASCII less `%`, which begins an encoded byte.
const NAME: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"').add(b',').add(b';');

/// Nothing for a public route, whose caller is nobody.
pub(in crate::upstream) fn put(
    caller: Option<(&UserName, &RoleName)>,
    scope: Option<Scope>,
    out: &mut impl Sink,
) {
    if let Some((user, role)) = caller {
        put_encoded(out, &USER, user.as_str());
        if let Some(domain) = user.domain() {
            put_encoded(out, &DOMAIN, domain);
        }
        put_encoded(out, &ROLE, role.as_str());
    }
    match scope {
        Some(Scope::All) => out.put(&SCOPE, b"all"),
        Some(Scope::Own) => out.put(&SCOPE, b"own"),
        None => {}
    }
}

fn put_encoded(out: &mut impl Sink, name: &HeaderName, text: &str) {
    if text.bytes().all(is_plain) {
        out.put(name, text.as_bytes());
        return;
    }
    let encoded: Cow<'_, str> = utf8_percent_encode(text, NAME).into();
    out.put(name, encoded.as_bytes());
}

/// Most names are: found without looking each byte up in [`NAME`].
fn is_plain(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'%' | b'"' | b',' | b';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_plain_is_what_needs_no_encoding() {
        for b in 0..128u8 {
            let text = char::from(b).to_string();
            assert_eq!(is_plain(b), utf8_percent_encode(&text, NAME).to_string() == text, "{text:?}");
        }
    }
}
