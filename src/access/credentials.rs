//! Reading the credentials that a request presents (contract section 4, Credentials): the one place that does.
//!
//! Judges nothing but whether there is exactly one reading. A backend that reads names in brackets or with other
//! separators must not find a second set, so everything that such a reader folds into a credential is ambiguous.

use http::header::GetAll;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

use super::query::form_decode;

/// `[credentials]`: the names read, headers first, then the query.
#[derive(Clone, Debug)]
pub struct CredentialNames {
    pub token_headers: Vec<HeaderName>,
    pub key_headers: Vec<HeaderName>,
    pub token_query: Vec<String>,
    pub key_query: Vec<String>,
}

impl Default for CredentialNames {
    fn default() -> Self {
        Self {
            token_headers: vec![HeaderName::from_static("x-access-token")],
            key_headers: vec![HeaderName::from_static("x-key")],
            token_query: vec!["access_token".to_owned()],
            key_query: vec!["x_key".to_owned()],
        }
    }
}

/// A value that was given more than once, or in a form that another reader would fold into a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a credential is given more than once")]
pub struct Ambiguous;

/// The credentials of one request. An empty value counts as absent.
pub struct Presented<'r> {
    pub token: Option<Value<'r>>,
    pub key: Option<Value<'r>>,
    /// Whether the query held any of them, or an empty one: it is not forwarded as it was sent then.
    pub in_query: bool,
}

/// One credential and where it stood. Prints nothing.
pub enum Value<'r> {
    Header(&'r HeaderValue),
    /// Percent-decoded.
    Query(Cow<'r, str>),
}

/// What a value that is no visible ASCII reads as: no key and no token is that.
const NEVER_GOOD: &str = "\u{fffd}";

impl Value<'_> {
    /// The text that is judged.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Header(value) => value.to_str().unwrap_or(NEVER_GOOD),
            Self::Query(text) => text,
        }
    }

    /// As a header for the upstream, marked sensitive. None for text that cannot stand in one.
    #[must_use]
    pub fn to_header(&self) -> Option<HeaderValue> {
        let mut value = match self {
            Self::Header(value) => (*value).clone(),
            Self::Query(text) => HeaderValue::from_str(text).ok()?,
        };
        value.set_sensitive(true);
        Some(value)
    }
}

impl<'r> Presented<'r> {
    /// Reads token and key, each by itself: from a header, else from the query.
    pub fn read(
        headers: &'r HeaderMap,
        query: Option<&'r str>,
        names: &CredentialNames,
    ) -> Result<Self, Ambiguous> {
        let mut presented = Self {
            token: from_headers(headers, &names.token_headers)?,
            key: from_headers(headers, &names.key_headers)?,
            in_query: false,
        };
        if let Some(query) = query {
            presented.add_query(query, names)?;
        }
        Ok(presented)
    }

    fn add_query(&mut self, query: &'r str, names: &CredentialNames) -> Result<(), Ambiguous> {
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match Kind::of(name, names) {
                Kind::Token => &mut self.token,
                Kind::Key => &mut self.key,
                Kind::Folded => return Err(Ambiguous),
                Kind::Other if hides_credential(pair, names) => return Err(Ambiguous),
                Kind::Other => continue,
            };
            self.in_query = true;
            let value = form_decode(value);
            if value.is_empty() {
                continue;
            }
            if place.replace(Value::Query(value)).is_some() {
                return Err(Ambiguous);
            }
        }
        Ok(())
    }
}

/// A query without everything that is, or folds into, a credential: byte for byte what remains. The one form in which
/// a query is forwarded or written to a log.
#[must_use]
pub fn without<'q>(query: &'q str, names: &CredentialNames) -> Cow<'q, str> {
    let is_secret = |pair: &str| {
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        Kind::of(name, names) != Kind::Other || hides_credential(pair, names)
    };
    if !query.split('&').any(is_secret) {
        return Cow::Borrowed(query);
    }
    let kept: Vec<&str> = query.split('&').filter(|pair| !is_secret(pair)).collect();
    Cow::Owned(kept.join("&"))
}

fn from_headers<'r>(headers: &'r HeaderMap, names: &[HeaderName]) -> Result<Option<Value<'r>>, Ambiguous> {
    let mut found = None;
    for name in names {
        for value in values(headers.get_all(name)) {
            if found.replace(Value::Header(value)).is_some() {
                return Err(Ambiguous);
            }
        }
    }
    Ok(found)
}

fn values<'r>(all: GetAll<'r, HeaderValue>) -> impl Iterator<Item = &'r HeaderValue> {
    all.into_iter().filter(|value| !value.as_bytes().trim_ascii().is_empty())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Token,
    Key,
    /// No credential's name to the letter, but some reader makes one of it.
    Folded,
    Other,
}

impl Kind {
    fn of(name: &str, names: &CredentialNames) -> Self {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.bytes().all(is_plain) {
            return Self::exactly(name, names);
        }
        let decoded = form_decode(name);
        match Self::exactly(&decoded, names) {
            Self::Other if folds_into(&decoded, names) => Self::Folded,
            kind => kind,
        }
    }

    fn exactly(name: &str, names: &CredentialNames) -> Self {
        if names.token_query.iter().any(|n| n == name) {
            Self::Token
        } else if names.key_query.iter().any(|n| n == name) {
            Self::Key
        } else {
            Self::Other
        }
    }
}

/// Readers in use fold `x_key[]`, `x_key[$in]`, `[x_key]` (qs), and `x.key`, `x key`, `x[key`, ` x_key` and what
/// stands behind a NUL (PHP).
fn folds_into(name: &str, names: &CredentialNames) -> bool {
    let name = name.split('\0').next().unwrap_or_default().trim_start();
    let inner = name.trim_start_matches('[');
    let base = inner.split(['[', ']']).next().unwrap_or_default();
    let underscored: String =
        name.chars().map(|c| if matches!(c, '.' | ' ' | '[') { '_' } else { c }).collect();
    let is_credential = |text: &str| Kind::exactly(text, names) != Kind::Other;
    is_credential(base) || is_credential(&underscored) || is_credential(name)
}

/// A reader that separates at `;` as well would find a credential in `a=1;x_key=2`.
fn hides_credential(pair: &str, names: &CredentialNames) -> bool {
    pair.contains(';')
        && pair.split(';').skip(1).any(|part| {
            let name = part.split_once('=').map_or(part, |(name, _)| name);
            Kind::of(name, names) != Kind::Other
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    type Texts = (Option<String>, Option<String>);

    fn read(pairs: &[(&'static str, &str)], query: Option<&str>) -> Result<Texts, Ambiguous> {
        let headers = headers(pairs);
        let presented = Presented::read(&headers, query, &CredentialNames::default())?;
        let text = |value: &Option<Value<'_>>| value.as_ref().map(|v| v.text().to_owned());
        Ok((text(&presented.token), text(&presented.key)))
    }

    fn both(token: &str, key: &str) -> Result<Texts, Ambiguous> {
        Ok((Some(token.into()), Some(key.into())))
    }

    #[test]
    fn token_and_key_come_from_headers_or_query_each_by_itself() {
        assert_eq!(read(&[("x-access-token", "t"), ("x-key", "k")], None), both("t", "k"));
        assert_eq!(read(&[("x-access-token", "t")], Some("a=1&x_key=k")), both("t", "k"));
        assert_eq!(read(&[], Some("access_token=t%2Et&%78_key=k+k")), both("t.t", "k k"));
        assert_eq!(read(&[], None), Ok((None, None)));
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        assert_eq!(read(&[("x-access-token", ""), ("x-key", " ")], Some("x_key=")), Ok((None, None)));
        assert_eq!(read(&[("x-access-token", "")], Some("access_token=t&x_key=k&x_key=")), both("t", "k"));
    }

    #[test]
    fn a_value_given_twice_is_ambiguous_equal_or_not() {
        let twice = [("x-key", "k"), ("x-key", "k")];
        assert_eq!(read(&twice, None), Err(Ambiguous));
        for query in ["x_key=k&x_key=k", "access_token=a&access_token=b", "x_key=k&x%5Fkey=k"] {
            assert_eq!(read(&[], Some(query)), Err(Ambiguous), "{query}");
        }
        assert_eq!(read(&[("x-key", "k")], Some("x_key=k")), Err(Ambiguous));
    }

    #[test]
    fn what_a_reader_folds_into_a_credential_is_ambiguous() {
        for query in [
            "x_key[]=k",
            "x_key[$in]=k",
            "x_key[a][b]=k",
            "[x_key]=k",
            "x_key[=k",
            "x_key%5B%5D=k",
            "%5Bx_key%5D=k",
            "x.key=k",
            "x%20key=k",
            "+x_key=k",
            "x_key%00a=k",
            "access_token[]=t",
            "x%5Fkey[]=",
            "a=1;x_key=k",
            "a;x_key[]=k",
            "[[x_key]]=k",
            "x[key=k",
        ] {
            assert_eq!(read(&[], Some(query)), Err(Ambiguous), "{query}");
        }
    }

    #[test]
    fn other_names_are_no_credentials() {
        for query in
            ["X_KEY=k", "x_keys=k", "my_x_key=k", "a[x_key]=k", "x-key=k", "a=x_key", "a=b;c=d", "=x_key"]
        {
            assert_eq!(read(&[], Some(query)), Ok((None, None)), "{query}");
        }
    }

    #[test]
    fn a_value_that_is_no_visible_ascii_is_there_but_never_good() {
        assert_eq!(read(&[("x-key", "\u{e9}")], Some("access_token=%ff")), both(NEVER_GOOD, NEVER_GOOD));
    }

    #[test]
    fn what_is_forwarded_is_the_rest_byte_for_byte() {
        let names = CredentialNames::default();
        for (query, rest) in [
            ("a=1&b=%2e&&c", "a=1&b=%2e&&c"),
            ("a=1&access_token=t&x_key=k&b=%2e", "a=1&b=%2e"),
            ("access_token=t&x_key=k", ""),
            ("x_key[]=k&a=+", "a=+"),
            ("a=1;x_key=k", ""),
        ] {
            assert_eq!(without(query, &names), rest, "{query}");
        }
        assert!(matches!(without("a=1", &names), Cow::Borrowed("a=1")));
    }

    proptest! {
        #[test]
        fn nothing_secret_survives_and_nothing_else_is_lost(
            pairs in proptest::collection::vec("(a|b|x_key|access_token|x_key\\[\\]|%78_key|\\[x_key)(=[a-z0-9;%]{0,4})?", 0..6)
        ) {
            let names = CredentialNames::default();
            let query = pairs.join("&");
            let rest = without(&query, &names);
            let none = HeaderMap::new();
            let again = Presented::read(&none, Some(&rest), &names).unwrap();
            prop_assert!(again.token.is_none() && again.key.is_none());
            let harmless = pairs.iter().filter(|p| p.starts_with('a') && !p.starts_with("access") && !p.contains(';'));
            prop_assert!(harmless.clone().all(|p| rest.split('&').any(|r| r == p)));
        }
    }
}
