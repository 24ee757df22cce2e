//! Reading the credentials that a request presents (contract section 4, Credentials). Reads headers and query only;
//! whether they are good is [`super::authenticate`]'s to say.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::borrow::Cow;

use super::query::{self, Occurrence};

/// `[credentials]`: the names read, headers first, then the query.
#[derive(Clone, Debug)]
pub struct CredentialNames {
    pub token_headers: Vec<HeaderName>,
    pub key_headers: Vec<HeaderName>,
    pub token_query: Vec<String>,
    pub key_query: Vec<String>,
}

/// What `auth-token.md` has.
const DOCUMENTED_QUERY: [&str; 2] = ["access_token", "x_key"];

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

impl CredentialNames {
    /// Whether a query holds what an engine would read as a credential and is none here.
    #[must_use]
    pub fn passes_over(&self, query: Option<&str>) -> bool {
        let configured = self.token_query.len() + self.key_query.len();
        self.in_query()
            .skip(configured)
            .any(|name| query.is_some_and(|query| query.split('&').any(|piece| query::gives(piece, name))))
    }

    /// The names in a query (and of a JSON body) that are a credential to us, or to an engine: it reads its own whatever is
    /// configured here, before it reads headers.
    pub(super) fn in_query(&self) -> impl Iterator<Item = &str> {
        let configured = self.token_query.iter().chain(&self.key_query).map(String::as_str);
        let is_configured = |name: &&str| self.token_query.iter().chain(&self.key_query).any(|n| n == name);
        configured.chain(DOCUMENTED_QUERY.into_iter().filter(move |name| !is_configured(name)))
    }

    /// Whether a piece of a query between two `&` is a credential to any parser.
    fn given_by(&self, piece: &str) -> bool {
        self.in_query().any(|name| query::gives(piece, name))
    }
}

/// A credential given twice, or so that parsers differ in what they take: 400 `Ambiguous credentials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ambiguous credentials")]
pub struct Ambiguous;

/// The credentials of one request, not judged. Prints nothing.
pub struct Presented<'r> {
    pub token: Option<Credential<'r>>,
    pub key: Option<Credential<'r>>,
}

/// One value that is not empty.
pub struct Credential<'r> {
    /// None: not visible ASCII, so it cannot be good.
    text: Option<Cow<'r, str>>,
    header: Option<&'r HeaderValue>,
}

impl<'r> Presented<'r> {
    /// Reads token and key, each by itself. An empty value counts as absent, so one place may be empty while the other
    /// gives the value; but the same name twice is ambiguous even when one of them is empty, since servers
    /// differ in which of the two they take.
    pub fn read(
        headers: &'r HeaderMap,
        query: Option<&'r str>,
        names: &CredentialNames,
    ) -> Result<Self, Ambiguous> {
        let token = one(headers, query, &names.token_headers, &names.token_query)?;
        let key = one(headers, query, &names.key_headers, &names.key_query)?;
        Ok(Self { token, key })
    }
}

impl<'r> Presented<'r> {
    /// Of texts that came another way, read as a header's would be: an empty one is absent.
    #[must_use]
    pub fn of_texts(token: &'r str, key: Option<&'r str>) -> Self {
        let credential = |text: &'r str| {
            let is_given = !text.trim_ascii().is_empty();
            let text = is_visible(text).then_some(Cow::Borrowed(text));
            is_given.then_some(Credential { text, header: None })
        };
        Self { token: credential(token), key: key.and_then(credential) }
    }
}

/// A query without everything that some parser could take for a credential, the rest byte for byte: the one form in
/// which a query is forwarded or logged. Nothing is copied when nothing is to be taken out.
#[must_use]
pub fn without<'q>(query: &'q str, names: &CredentialNames) -> Cow<'q, str> {
    if !query.split('&').any(|piece| names.given_by(piece)) {
        return Cow::Borrowed(query);
    }
    let kept: Vec<&str> = query.split('&').filter(|piece| !names.given_by(piece)).collect();
    Cow::Owned(kept.join("&"))
}

impl Credential<'_> {
    /// The value, decoded; none when it is not visible ASCII and so cannot be good.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// As a header for the upstream, marked sensitive.
    #[must_use]
    pub fn to_header(&self) -> Option<HeaderValue> {
        let text = self.text()?;
        let mut value = match self.header {
            Some(header) => header.clone(),
            None => HeaderValue::from_str(text).ok()?,
        };
        value.set_sensitive(true);
        Some(value)
    }
}

fn one<'r>(
    headers: &'r HeaderMap,
    query: Option<&'r str>,
    header_names: &[HeaderName],
    query_names: &[String],
) -> Result<Option<Credential<'r>>, Ambiguous> {
    let mut found = None;
    for name in header_names {
        if let Some(credential) = of_header(headers, name)? {
            only(&mut found, credential)?;
        }
    }
    let Some(query) = query.filter(|q| !q.is_empty()) else { return Ok(found) };
    for name in query_names {
        if let Some(credential) = of_query(query, name)? {
            only(&mut found, credential)?;
        }
    }
    Ok(found)
}

fn only<'r>(found: &mut Option<Credential<'r>>, credential: Credential<'r>) -> Result<(), Ambiguous> {
    if found.replace(credential).is_some() { Err(Ambiguous) } else { Ok(()) }
}

fn of_header<'r>(headers: &'r HeaderMap, name: &HeaderName) -> Result<Option<Credential<'r>>, Ambiguous> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Ambiguous);
    }
    if value.as_bytes().trim_ascii().is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(value.as_bytes()).ok().filter(|text| is_visible(text)).map(Cow::Borrowed);
    Ok(Some(Credential { text, header: Some(value) }))
}

fn of_query<'r>(query: &'r str, name: &str) -> Result<Option<Credential<'r>>, Ambiguous> {
    match query::occurrence(query, name) {
        Occurrence::Ambiguous => Err(Ambiguous),
        Occurrence::Absent | Occurrence::Once("") => Ok(None),
        Occurrence::Once(value) => Ok(Some(Credential { text: decode(value), header: None })),
    }
}

fn decode(value: &str) -> Option<Cow<'_, str>> {
    let text = if value.contains(['%', '+']) {
        Cow::Owned(String::from_utf8(query::decoded(value).collect()).ok()?)
    } else {
        Cow::Borrowed(value)
    };
    is_visible(&text).then_some(text)
}

fn is_visible(text: &str) -> bool {
    // All of them, whatever the first says: a loop without a way out is one of many bytes at a time.
    text.bytes().fold(true, |all, b| all & b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names() -> CredentialNames {
        CredentialNames {
            token_headers: vec![
                HeaderName::from_static("x-access-token"),
                HeaderName::from_static("x-token"),
            ],
            key_headers: vec![HeaderName::from_static("x-key")],
            token_query: vec!["access_token".into()],
            key_query: vec!["x_key".into()],
        }
    }

    fn read(headers: &[(&'static str, &'static str)], query: &str) -> Result<[Option<String>; 2], Ambiguous> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let presented = Presented::read(&map, Some(query), &names())?;
        let text = |c: Option<Credential<'_>>| c.map(|c| c.text().unwrap_or("unreadable").to_owned());
        Ok([text(presented.token), text(presented.key)])
    }

    fn pair(token: &str, key: &str) -> Result<[Option<String>; 2], Ambiguous> {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        Ok([some(token), some(key)])
    }

    #[test]
    fn token_and_key_are_read_each_by_itself() {
        let header = [("x-access-token", "t"), ("x-key", "k")];
        assert_eq!(read(&header, ""), pair("t", "k"));
        assert_eq!(read(&[], "access_token=t&x_key=k"), pair("t", "k"));
        assert_eq!(read(&header[..1], "a=1&x_key=k&b"), pair("t", "k"));
        assert_eq!(read(&header[1..], "access_token=t"), pair("t", "k"));
        assert_eq!(read(&[], "%61ccess%5ftoken=%74%2e&x%5Fkey=k"), pair("t.", "k"));
        assert_eq!(read(&[("x-token", "t")], ""), pair("t", ""));
        assert_eq!(read(&[], "X_KEY=k&Access_Token=t"), pair("", ""));
    }

    #[test]
    fn an_empty_value_counts_as_absent() {
        assert_eq!(read(&[("x-access-token", ""), ("x-key", "")], ""), pair("", ""));
        assert_eq!(read(&[("x-access-token", ""), ("x-key", "k")], "access_token=t&x_key="), pair("t", "k"));
        assert_eq!(read(&[("x-access-token", ""), ("x-token", "t")], "x_key&access_token"), pair("t", ""));
    }

    #[test]
    fn a_value_given_twice_is_ambiguous() {
        for headers in [
            &[("x-key", "k"), ("x-key", "k")][..],
            &[("x-key", "k"), ("x-key", "")],
            &[("x-key", ""), ("x-key", "k")],
            &[("x-access-token", "t"), ("x-token", "t")],
        ] {
            assert_eq!(read(headers, ""), Err(Ambiguous), "{headers:?}");
        }
        assert_eq!(read(&[("x-key", "k")], "x_key=k"), Err(Ambiguous));
        for query in [
            "x_key=k&x_key=k",
            "x_key=&x_key=k",
            "x_key=k&a&x%5Fkey=k",
            "x_key[]=k",
            "x_key[$in]=k",
            "x_key[a][b]=k",
            "[x_key]=k",
            "x_key[=k",
            "x_key%5B%5D=k",
            "x_key%5b%24in%5d=",
            "x_key=k&access_token[]=t",
            "a=1;x_key=k",
            "x_key=k;x_key=l",
            "x.key=k",
        ] {
            assert_eq!(read(&[], query), Err(Ambiguous), "{query}");
        }
    }

    #[test]
    fn what_is_not_visible_ascii_cannot_be_good() {
        for query in ["x_key=%00", "x_key=a+b", "x_key=%C3%BC", "x_key=%ff", "x_key=a%0d%0ab", "x_key=+"] {
            assert_eq!(read(&[], query), pair("", "unreadable"), "{query}");
        }
        assert_eq!(read(&[("x-key", "a b")], ""), pair("", "unreadable"));
        assert_eq!(read(&[("x-key", "ü")], ""), pair("", "unreadable"));
    }

    #[test]
    fn headers_made_of_credentials_are_sensitive() {
        let none = HeaderMap::new();
        let presented = Presented::read(&none, Some("x_key=a%62"), &names());
        let header = presented.unwrap().key.unwrap().to_header().unwrap();
        assert!(header == "ab" && header.is_sensitive());
    }

    #[test]
    fn credentials_are_taken_out_of_a_query_and_the_rest_stays() {
        for (query, rest) in [
            ("access_token=t&x_key=k", ""),
            ("a=1&access_token=t&b=%2e&x_key=k", "a=1&b=%2e"),
            ("x_key=k&a=1", "a=1"),
            ("a=1&x_key", "a=1"),
            ("a&&x%5fkey=k&b", "a&&b"),
            ("a=1&x_key[$in]=k", "a=1"),
            ("a=1;x_key=k&b", "b"),
            ("x.key=k&b", "b"),
        ] {
            assert_eq!(without(query, &names()), rest, "{query}");
        }
        for query in ["", "a=1&&b=2", "a=x_key", "x_keys=1&%zz&=", "a=%2e+ü"] {
            assert!(matches!(without(query, &names()), Cow::Borrowed(q) if q == query), "{query}");
        }
    }

    proptest! {
        #[test]
        fn what_was_read_is_taken_out(parts in prop::collection::vec(prop::sample::select(vec![
            "a=1", "", "x_key=k", "x%5Fkey=k", "access_token=t", "x_key[]=k", "b;x_key=k", "%", "x_key", "c[x_key]=1",
        ]), 0..6)) {
            let query = parts.join("&");
            let rest = without(&query, &names()).into_owned();
            prop_assert_eq!(read(&[], &rest), pair("", ""));
            prop_assert_eq!(&*without(&rest, &names()), &*rest);
            let kept: Vec<_> = parts.iter().filter(|p| ["a=1", "", "%", "c[x_key]=1"].contains(p)).copied().collect();
            prop_assert_eq!(rest, kept.join("&"));
        }
    }
}
