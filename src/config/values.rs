//! The texts of scalar values: durations, sizes, addresses, networks, URLs. Each says what would be right.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::clock::UnixMillis;

/// Sums with the clock must not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 366 * 86_400);

/// `10s`, `5m`, `100d`, `1h30m`; at most 100 years. A bare number has no unit, so it is none.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("\"{text}\" is no duration; write it as \"10s\", \"5m\" or \"100d\"");
    let has_unit = text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(char::is_whitespace);
    let parsed = humantime::parse_duration(text).ok().filter(|_| has_unit).ok_or_else(wrong)?;
    if parsed > LONGEST { Err(format!("\"{text}\" is longer than 100 years")) } else { Ok(parsed) }
}

/// `32KiB`, `1MB`; a bare number is bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    let parsed = text.parse::<bytesize::ByteSize>().map(|size| size.as_u64());
    parsed.map_err(|_| format!("\"{text}\" is no size; write it as \"32KiB\""))
}

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("\"{text}\" is no address; write it as \"127.0.0.1:8443\" or \"[::1]:8443\""))
}

/// A network; an address alone is one of its own.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("\"{text}\" is no network; write it as \"10.0.0.0/8\""))
}

/// RFC 3339, with its offset.
pub(super) fn moment(text: &str) -> Option<UnixMillis> {
    let at = text.parse::<jiff::Timestamp>().ok()?;
    u64::try_from(at.as_millisecond()).ok().map(UnixMillis)
}

/// A URL's scheme and where it leads; there is no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url<S> {
    pub(super) scheme: S,
    /// A name or an address (IPv6 without brackets).
    pub(super) host: String,
    pub(super) port: u16,
    /// What follows the authority and its `/`: only Redis has such, its database.
    pub(super) rest: String,
}

/// A URL of one of the schemes, each given with its default port. What holds a user or a password is not shown.
pub(super) fn url<S: Copy>(text: &str, schemes: &[(&str, S, u16)]) -> Result<Url<S>, String> {
    if text.contains('@') {
        return Err("holds a user or a password, which belong into keys of their own".to_owned());
    }
    let known = || schemes.iter().map(|(name, ..)| format!("{name}://")).collect::<Vec<_>>().join(", ");
    let wrong = || {
        format!(
            "\"{text}\" is no URL that can be used; write it as {} and host:port, without a path",
            known()
        )
    };
    let of_scheme = |(name, scheme, port): &(&str, S, u16)| {
        Some((*scheme, *port, text.strip_prefix(name)?.strip_prefix("://")?))
    };
    let (scheme, default, rest) = schemes.iter().find_map(of_scheme).ok_or_else(wrong)?;
    let (authority, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (host, port) = host_and_port(authority).ok_or_else(wrong)?;
    Ok(Url { scheme, host, port: port.unwrap_or(default), rest: rest.to_owned() })
}

/// `http` and `https` without a path, as every server of ours is named.
pub(super) fn http_url(text: &str) -> Result<Url<bool>, String> {
    let url = url(text, &[("http", false, 80), ("https", true, 443)])?;
    if url.rest.is_empty() {
        Ok(url)
    } else {
        Err(format!("\"{text}\" has a path; write it as http://host:port"))
    }
}

/// `host:port`, as nodes of a cluster are named.
pub(super) fn node(text: &str) -> Result<(String, u16), String> {
    match host_and_port(text) {
        Some((host, Some(port))) => Ok((host, port)),
        _ => Err(format!("\"{text}\" is no node; write it as \"host:port\"")),
    }
}

fn host_and_port(authority: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if !host.contains(':') && !is_host(host) {
        return None;
    }
    let port = match port {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => Some(port.parse().ok().filter(|n| *n > 0)?),
        Some(_) => return None,
        None => None,
    };
    Some((host.to_owned(), port))
}

/// Whether it can be a host's name or IPv4 address. Names with `_` are found in container networks.
pub(super) fn is_host(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let is_numeric = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    name.len() <= 253 && name.split('.').all(label) && (!is_numeric || name.parse::<Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_need_a_unit() {
        for (text, seconds) in [("10s", 10), ("5m", 300), ("100d", 8_640_000), ("1h30m", 5400), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "0",
            "75",
            "75 parsecs",
            "10 seconds",
            "x",
            "-1s",
            "1e3s",
            "1000000000y",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_of_known_units() {
        for (text, bytes) in [("32KiB", 32_768), ("32KB", 32_000), ("100", 100), ("1MiB", 1_048_576)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["32KX", "", "KiB", "-1KiB", "1 2KiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_and_networks() {
        assert!(address("127.0.0.1:8443").is_ok() && address("[::1]:0").is_ok());
        for text in ["127.0.0.1:99999", "localhost:80", "127.0.0.1", ":80", ""] {
            assert!(address(text).is_err(), "{text}");
        }
        assert!(network("10.0.0.0/8").is_ok() && network("::1").is_ok());
        for text in ["10.0.0.0/99", "10/8", "x"] {
            assert!(network(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_have_an_offset() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Some(UnixMillis(1000)));
        assert_eq!(moment("1970-01-01T01:00:01.5+01:00"), Some(UnixMillis(1500)));
        // TOML 1.1 lets the seconds out.
        assert_eq!(moment("1970-01-01T00:01Z"), Some(UnixMillis(60_000)));
        for text in ["2027-01-01T00:00:00", "2027-01-01", "1960-01-01T00:00:00Z", "whenever"] {
            assert_eq!(moment(text), None, "{text}");
        }
    }

    #[test]
    fn urls_name_a_host_and_a_port_and_no_path() {
        for (text, host, port) in [
            ("http://127.0.0.1:10022", "127.0.0.1", 10022),
            ("http://engine", "engine", 80),
            ("https://a.example.com/", "a.example.com", 443),
            ("http://[::1]:81", "::1", 81),
            ("http://my_engine:1", "my_engine", 1),
        ] {
            let url = http_url(text).unwrap_or_else(|what| panic!("{text}: {what}"));
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
        }
        for text in [
            "ftp://x",
            "x",
            "http://",
            "http://x/api",
            "http://x?y",
            "http://x:99999",
            "http://x:0",
            "http://x:+1",
            "http://x:",
            "http://::1:80",
            "http://[::1",
            "http://[x]:1",
            "http://a..b",
            "http://1.2.3",
            "http://a b",
        ] {
            assert!(http_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_refused_and_not_shown() {
        let what = http_url("http://user:hidden@host:1").unwrap_err();
        assert!(!what.contains("hidden"), "{what}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (duration(&text), size(&text), address(&text), network(&text), moment(&text), http_url(&text));
            let _ = (node(&text), is_host(&text));
        }

        #[test]
        fn what_a_url_yields_can_be_written_again(host in "[a-z][a-z0-9]{0,9}(\\.[a-z]{1,5})?", port in 1u16..) {
            let url = http_url(&format!("http://{host}:{port}")).unwrap();
            prop_assert_eq!((url.host, url.port), (host, port));
        }
    }
}
