//! How three kinds of servers behind the gateway would read a path, each as lenient as one of its kind is known to be.
//! Independent of the gateway's own reader: what they agree on is what the gateway may forward.

/// A reading: the segments that a route would be looked up by.
pub type Reading = fn(&[u8]) -> Vec<String>;

pub const READINGS: [(&str, Reading); 3] = [
    ("decodes segments", of_segments),
    ("decodes, then resolves", of_a_file_server),
    ("decodes all", of_the_lenient),
];

/// Express and its like: split first, then each segment is decoded once. Letter case and one slash at the end do not
/// count. Nothing is merged or resolved.
fn of_segments(path: &[u8]) -> Vec<String> {
    let path = path.strip_prefix(b"/").unwrap_or(path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    path.split(|b| *b == b'/').map(|segment| folded(&decoded(segment))).collect()
}

/// nginx and its like: all is decoded once, then slashes are merged and dot segments resolved.
fn of_a_file_server(path: &[u8]) -> Vec<String> {
    let path = before(path, b"#");
    resolved(&decoded(path))
}

/// Whoever decodes until nothing changes, overlong forms and `%u` too, takes a backslash for a slash, cuts `;`
/// parameters, a query or fragment that appears so, and ends a text at NUL.
fn of_the_lenient(path: &[u8]) -> Vec<String> {
    let mut path = path.to_vec();
    for _ in 0..8 {
        path = shortest(&decoded(&path));
    }
    let path: Vec<u8> =
        before(&path, b"?#\0\r\n").iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect();
    let cut: Vec<&[u8]> =
        path.split(|b| *b == b'/').map(|segment| before(segment, b";").trim_ascii()).collect();
    resolved(&cut.join(&b'/'))
}

fn before<'p>(path: &'p [u8], ends: &[u8]) -> &'p [u8] {
    path.split(|b| ends.contains(b)).next().unwrap_or_default()
}

fn folded(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).to_lowercase()
}

fn resolved(path: &[u8]) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for segment in path.split(|b| *b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            _ => segments.push(folded(segment)),
        }
    }
    segments
}

/// Each escape once; what is none stays.
fn decoded(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let wide = after.strip_prefix(b"u").or(after.strip_prefix(b"U"));
        let (value, digits) = match (first, wide) {
            (b'%', Some(hex)) => (hex.get(..4).and_then(number), 5),
            (b'%', None) => (after.get(..2).and_then(number), 2),
            _ => (None, 0),
        };
        match value {
            Some(value) if digits == 2 => out.push(u8::try_from(value).unwrap()),
            Some(value) => {
                let c = char::from_u32(value).unwrap_or('?');
                out.extend(c.to_string().bytes());
            }
            None => out.push(*first),
        }
        rest = after.get(if value.is_some() { digits } else { 0 }..).unwrap_or_default();
    }
    out
}

fn number(hex: &[u8]) -> Option<u32> {
    hex.iter().try_fold(0, |n, digit| Some(n * 16 + char::from(*digit).to_digit(16)?))
}

/// Overlong UTF-8 in its shortest form, and full-width forms as the ASCII that they look like.
fn shortest(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    loop {
        rest = match rest {
            [a @ 0xc0..=0xc1, b @ 0x80..=0xbf, rest @ ..] => {
                out.push((a & 1) << 6 | (b & 0x3f));
                rest
            }
            [0xe0, a @ 0x80..=0x81, b @ 0x80..=0xbf, rest @ ..] => {
                out.push((a & 1) << 6 | (b & 0x3f));
                rest
            }
            [0xef, 0xbc, low @ 0x81..=0xbf, rest @ ..] => {
                out.push(low - 0x60);
                rest
            }
            [other, rest @ ..] => {
                out.push(*other);
                rest
            }
            [] => return out,
        };
    }
}

#[test]
fn each_reading_sees_the_holes_of_its_kind() {
    let [segments, file_server, lenient] = READINGS.map(|(_, reading)| reading);
    let vault = ["api", "v2", "vault"];
    assert_eq!(segments(b"/API/v2/v%61ult/"), vault);
    assert_eq!(segments(b"/api/v2/cdr/../vault"), ["api", "v2", "cdr", "..", "vault"]);
    assert_eq!(file_server(b"/api//v2/cdr/%2e%2e/Vault"), vault);
    assert_eq!(file_server(b"/api/v2/cdr%2f..%2fvault"), vault);
    for path in [
        "/api/v2/cdr/%252e%252e/vault",
        "/api/v2/cdr%252f..%255cvault",
        "/api/v2/cdr/..;x=1/vault",
        "/api/v2/cdr\\..\\vault",
        "/api/v2/cdr%5c..%5cvault",
        "/api/v2%c0%afvault",
        "/api/v2%e0%80%afvault",
        "/api/v2%u002fvault",
        "/api/v2%ef%bc%8fvault",
        "/api/v2/vault%00/../cdr",
        "/api/v2/vault%23/../cdr",
        "/api/v2/vault%3f/../cdr",
        "/api/v2/vault%20",
    ] {
        assert_eq!(lenient(path.as_bytes()), vault, "{path}");
    }
}
