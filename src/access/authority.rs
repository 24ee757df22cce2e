//! Whether a request target in absolute form names the host that `Host` names (RFC 9112 section 3.2.2, contract
//! section 4: any other is a bad path).

use http::Uri;

/// Judges a target beside the request's only `Host`. A target without an authority is good, and so is one without a
/// `Host` beside it, as in HTTP/2; whether a `Host` must be there, and that it is given once, is the gateway's to say.
/// Letter case does not count, and the scheme's default port is the same as none.
#[must_use]
pub fn authority_is_host(uri: &Uri, host: Option<&[u8]>) -> bool {
    let Some(authority) = uri.authority() else { return true };
    let default = match uri.scheme_str() {
        Some("https") => 443,
        Some("http") => 80,
        // Authority form: CONNECT, refused for having no path.
        None => return true,
        Some(_) => return false,
    };
    let Some(named) = split(authority.as_str()) else { return false };
    let Some(host) = host else { return true };
    let Some(host) = std::str::from_utf8(host).ok().and_then(split) else { return false };
    named.0.eq_ignore_ascii_case(host.0) && named.1.unwrap_or(default) == host.1.unwrap_or(default)
}

/// Host and port of `host`, `host:`, `host:1`, `[::1]:1`. None for anything else, user information included.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    let end = match authority.strip_prefix('[') {
        Some(literal) => literal.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at_checked(end)?;
    if host.is_empty() || authority.contains('@') {
        return None;
    }
    match port.strip_prefix(':') {
        None => port.is_empty().then_some((host, None)),
        Some("") => Some((host, None)),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some((host, Some(digits.parse().ok()?)))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, host: Option<&str>) -> bool {
        let uri: Uri = uri.parse().unwrap();
        authority_is_host(&uri, host.map(str::as_bytes))
    }

    #[test]
    fn the_same_host_in_other_words_is_good() {
        for (uri, host) in [
            ("/a", "anything at all"),
            ("http://h/a", "h"),
            ("http://H/a", "h"),
            ("http://h:80/a", "h"),
            ("http://h/a", "h:80"),
            ("http://h:/a", "H"),
            ("https://h/a", "h:443"),
            ("https://h:8443/a", "h:8443"),
            ("http://[::1]:80/a", "[::1]"),
        ] {
            assert!(check(uri, Some(host)), "{uri} {host}");
        }
        assert!(check("https://h/a", None));
    }

    #[test]
    fn another_host_is_refused() {
        for (uri, host) in [
            ("http://h/a", "g"),
            ("http://h/a", "h:81"),
            ("https://h/a", "h:80"),
            ("http://h/a", ""),
            ("http://h/a", "h."),
            ("http://h/a", "u@h"),
            ("http://u@h/a", "h"),
            ("http://u@h/a", "u@h"),
            ("http://h/a", "h:99999"),
            ("http://h/a", "h:+80"),
            ("http://h/a", "h:80:80"),
            ("http://[::1]/a", "[::1]x"),
            ("ftp://h/a", "h"),
        ] {
            assert!(!check(uri, Some(host)), "{uri} {host}");
        }
        assert!(!check("http://u@h/a", None));
    }
}
