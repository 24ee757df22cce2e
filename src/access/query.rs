//! Reading a query's parameters as `application/x-www-form-urlencoded` (WHATWG URL section 5).

use percent_encoding::percent_decode;
use std::borrow::Cow;

/// A parameter's decoded value, if it is given exactly once: given twice it decides nothing, whichever one another
/// reader takes.
#[must_use]
pub fn value<'q>(query: Option<&'q str>, name: &str) -> Option<Cow<'q, str>> {
    let pairs = query?.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let mut values = pairs.filter(|(n, _)| form_decode(n) == name).map(|(_, value)| form_decode(value));
    let value = values.next()?;
    values.next().is_none().then_some(value)
}

/// `+` is a blank. What is no UTF-8 becomes U+FFFD.
pub(super) fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let blanks = text.replace('+', " ");
    Cow::Owned(percent_decode(blanks.as_bytes()).decode_utf8_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_counts_only_when_it_is_given_once() {
        assert_eq!(value(Some("a=1&domain=x%2Ey+z"), "domain").as_deref(), Some("x.y z"));
        assert_eq!(value(Some("d%6Fmain=x"), "domain").as_deref(), Some("x"));
        assert_eq!(value(Some("domain"), "domain").as_deref(), Some(""));
        assert_eq!(value(Some("domain=x&domain=x"), "domain"), None);
        assert_eq!(value(Some("domain[]=x"), "domain"), None);
        assert_eq!(value(None, "domain"), None);
    }
}
