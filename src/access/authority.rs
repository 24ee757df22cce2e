//! Whether a request target in absolute form names the host that `Host` names (RFC 9112 section 3.2.2, contract
//! section 4: any other is a bad path).

use http::Uri;

use crate::host;

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
    let Some(named) = host::split(authority.as_str().as_bytes()) else { return false };
    let Some(told) = host else { return true };
    let Some(told) = host::split(told) else { return false };
    named.0.eq_ignore_ascii_case(told.0) && named.1.unwrap_or(default) == told.1.unwrap_or(default)
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
