//! Envoy joins the lines of a field with commas before it asks (RFC 9110 section 5.3): two credentials would look like
//! one that nobody knows, or, on a public route, like one that is nobody's business.

use http::{HeaderMap, HeaderValue};
use std::borrow::Cow;

use crate::access::credentials::CredentialNames;

/// The header with each credential taken apart at its commas, which no token and no key has.
#[must_use]
pub(super) fn apart<'h>(headers: &'h HeaderMap, names: &CredentialNames) -> Cow<'h, HeaderMap> {
    let is_joined = |value: &HeaderValue| value.as_bytes().contains(&b',');
    let mut apart = Cow::Borrowed(headers);
    for name in names.token_headers.iter().chain(&names.key_headers) {
        if !headers.get_all(name).iter().any(is_joined) {
            continue;
        }
        let lines = headers.get_all(name).iter().flat_map(|line| line.as_bytes().split(|b| *b == b','));
        let lines = lines.filter_map(|line| HeaderValue::from_bytes(line.trim_ascii()).ok());
        let apart = apart.to_mut();
        apart.remove(name);
        lines.for_each(|line| {
            apart.append(name.clone(), line);
        });
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_credentials_are_taken_apart() {
        let names = CredentialNames::default();
        let mut headers = HeaderMap::new();
        headers.insert("accept", "a, b".parse().unwrap());
        headers.insert("x-key", "k".parse().unwrap());
        assert!(matches!(apart(&headers, &names), Cow::Borrowed(_)));
        headers.append("x-key", "l, m,".parse().unwrap());
        let apart = apart(&headers, &names);
        assert_eq!(apart.get_all("x-key").iter().collect::<Vec<_>>(), ["k", "l", "m", ""]);
        assert_eq!(apart["accept"], "a, b");
    }
}
