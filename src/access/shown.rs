//! What a log shows of a path or of what is left of a query: nothing of a credential that its sender put in the wrong
//! place or escaped once too often, and that is therefore read as none (contract section 7).

use std::borrow::Cow;

use super::credentials::CredentialNames;

const HIDDEN: &str = "[credentials]";
/// Of a login whose fields went into the query.
const PASSWORD: &str = "password";
/// How a JWT begins: `{"` in base64.
const JWT: &[u8] = b"eyJ";
/// Shorter is no header of a JWT.
const JWT_HEADER: usize = 16;
/// `%2526` is `&` to somebody.
const ESCAPED_AT_MOST: usize = 2;

/// The text up to what may be a credential: behind a credential's name in any spelling, or from where a JWT begins.
#[must_use]
pub fn shown<'t>(text: &'t str, names: &CredentialNames) -> Cow<'t, str> {
    // Most paths: neither an escape nor what could stand between a name and its value.
    let is_plain = !text.bytes().any(|b| matches!(b, b'%' | b'=' | b':'));
    if is_plain && memchr::memmem::find(text.as_bytes(), JWT).is_none() {
        return Cow::Borrowed(text);
    }
    let mut read: Vec<(u8, usize)> = text.bytes().enumerate().map(|(at, b)| (b, at)).collect();
    if text.contains('%') {
        for _ in 0..ESCAPED_AT_MOST {
            read = unescaped(&read);
        }
    }
    let headers = names.token_headers.iter().chain(&names.key_headers).map(http::HeaderName::as_str);
    let names: Vec<&str> = headers.chain(names.in_query()).chain([PASSWORD]).collect();
    match (0..read.len()).find_map(|at| hidden_from(&read, at, &names)) {
        Some(end) => Cow::Owned(format!("{}{HIDDEN}", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// Where in the text nothing more may be shown, if what is to be hidden begins here.
fn hidden_from(read: &[(u8, usize)], at: usize, names: &[&str]) -> Option<usize> {
    let rest = read.get(at..)?;
    if is_jwt(rest) {
        return rest.first().map(|(_, at)| *at);
    }
    let before = at.checked_sub(1).and_then(|before| read.get(before));
    if before.is_some_and(|(b, _)| b.is_ascii_alphanumeric()) {
        return None;
    }
    names.iter().find_map(|name| {
        let there = rest.get(..name.len())?.iter().map(|(b, _)| folded(*b));
        let (next, end) = rest.get(name.len())?;
        let is_whole = match next {
            b'=' | b':' => true,
            // A path may be of passwords.
            _ => *name != PASSWORD && !next.is_ascii_alphanumeric() && folded(*next) != b'_',
        };
        (is_whole && there.eq(name.bytes().map(folded))).then_some(*end)
    })
}

fn is_jwt(rest: &[(u8, usize)]) -> bool {
    let bytes = || rest.iter().map(|(b, _)| *b);
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    bytes().take(JWT.len()).eq(JWT.iter().copied()) && {
        let header = bytes().take_while(is_base64).count();
        header >= JWT_HEADER && bytes().nth(header) == Some(b'.')
    }
}

fn folded(b: u8) -> u8 {
    if b == b'-' { b'_' } else { b.to_ascii_lowercase() }
}

/// Each byte with the place where it began.
fn unescaped(read: &[(u8, usize)]) -> Vec<(u8, usize)> {
    let digit = |at: usize| {
        let (b, _) = read.get(at)?;
        char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok())
    };
    let (mut out, mut at) = (Vec::with_capacity(read.len()), 0);
    while let Some((b, place)) = read.get(at) {
        match (b, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low, *place));
                at += 3;
            }
            _ => {
                out.push((*b, *place));
                at += 1;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Cow<'_, str> {
        shown(text, &CredentialNames::default())
    }

    #[test]
    fn what_stands_behind_a_credentials_name_is_not_shown() {
        for (text, expected) in [
            ("/star%3Faccess_token=T&x_key=K", "/star%3Faccess_token[credentials]"),
            ("/star;access_token=T;x_key=K", "/star;access_token[credentials]"),
            ("/star/X-Key:K", "/star/X-Key[credentials]"),
            ("a=1&X_Key=K", "a=1&X_Key[credentials]"),
            ("a=1%26x%5fkey%3DK", "a=1%26x%5fkey[credentials]"),
            ("a=1%2526x_key%253DK", "a=1%2526x_key[credentials]"),
            ("x[access_token]=T", "x[access_token[credentials]"),
            ("url=/x%3Faccess-token%3DT", "url=/x%3Faccess-token[credentials]"),
            ("X-Access-Token=T", "X-Access-Token[credentials]"),
            ("user=a&Password=P", "user=a&Password[credentials]"),
            ("a=1%26password%3DP", "a=1%26password[credentials]"),
            ("passwords=3", "passwords=3"),
            ("/a%40b/password/history", "/a%40b/password/history"),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }

    #[test]
    fn a_jwt_is_shown_nowhere() {
        let jwt = "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln";
        assert_eq!(show(&format!("/star/{jwt}")), "/star/[credentials]");
        assert_eq!(show(&format!("t={jwt}&b")), "t=[credentials]");
        assert_eq!(show("/%65yJ0eXAiOiJKV1QiLCJhbGc%2Ex"), "/[credentials]");
    }

    #[test]
    fn all_else_is_shown_as_it_is() {
        for text in [
            "",
            "/",
            "/api/v2/max_key=1",
            "a=1&b=%41%zz&x_keys=2",
            "/x_key",
            "access_token_type=a",
            "/eyJ.x",
            "/%C3%BC",
        ] {
            assert!(matches!(show(text), Cow::Borrowed(shown) if shown == text), "{text}");
        }
    }
}
