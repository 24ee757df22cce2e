//! The host and port that `Host` or a target names (RFC 3986 section 3.2, RFC 9110 section 7.2).

/// What a name may hold (`reg-name`); asked of each byte of every request's host.
const OF_A_NAME: [bool; 256] = {
    let mut fits = [false; 256];
    let mut b = 0;
    while b < fits.len() {
        fits[b] = (b as u8).is_ascii_alphanumeric();
        b += 1;
    }
    let others = b"-._~%!$&'()*+,;=";
    b = 0;
    while b < others.len() {
        fits[others[b] as usize] = true;
        b += 1;
    }
    fits
};

/// A name, or an address, in brackets if it is IPv6, and the port if one is told; brackets stay. None for anything else: a
/// user, a path, a blank, nothing.
#[must_use]
pub fn split(authority: &[u8]) -> Option<(&str, Option<u16>)> {
    let end = match authority {
        [b'[', literal @ ..] => literal.iter().position(|b| *b == b']')? + 2,
        _ => authority.iter().position(|b| !is_of_a_name(*b)).unwrap_or(authority.len()),
    };
    let (host, rest) = authority.split_at_checked(end)?;
    let host = std::str::from_utf8(host).ok()?;
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(literal) => is_literal(literal),
        None => !host.is_empty(),
    };
    if !is_host {
        return None;
    }
    match rest {
        [] | [b':'] => Some((host, None)),
        [b':', digits @ ..] => Some((host, Some(port(digits)?))),
        _ => None,
    }
}

fn port(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0u16, |port, b| {
        let digit = b.is_ascii_digit().then(|| b - b'0')?;
        port.checked_mul(10)?.checked_add(u16::from(digit))
    })
}

/// IPv6, or what later versions may bring (`IPvFuture`).
fn is_literal(literal: &str) -> bool {
    match literal.strip_prefix(['v', 'V']) {
        Some(future) => !future.is_empty() && future.bytes().all(|b| is_of_a_name(b) || b == b':'),
        None => literal.parse::<std::net::Ipv6Addr>().is_ok(),
    }
}

fn is_of_a_name(b: u8) -> bool {
    OF_A_NAME[usize::from(b)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (text, host, port) in [
            ("a", "a", None),
            ("A.example.:8080", "A.example.", Some(8080)),
            ("a:", "a", None),
            ("10.0.0.1", "10.0.0.1", None),
            ("[::1]", "[::1]", None),
            ("[::ffff:10.0.0.1]:443", "[::ffff:10.0.0.1]", Some(443)),
            ("[v1.a:b]", "[v1.a:b]", None),
            ("a_b%20", "a_b%20", None),
        ] {
            assert_eq!(split(text.as_bytes()), Some((host, port)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        for text in [
            "",
            "[",
            "]",
            "[]",
            "[::1",
            "::1",
            "a:80:80",
            "a:b",
            ":80",
            "[::1]x",
            "[::1]:80:80",
            "[a]",
            "[::1%25eth0]",
            "a]",
            "[v]",
            "u@a",
            "a/b",
            "a b",
            "a:+80",
            "a:65536",
            "a,[",
            "\u{e9}",
        ] {
            assert_eq!(split(text.as_bytes()), None, "{text}");
        }
    }
}
