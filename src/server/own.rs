//! hyper answers a head that it cannot parse by itself, without a body and before any handler is asked. Here that answer
//! gets the form of contract section 4: JSON with the request's id.

use http::HeaderMap;

use crate::telemetry::ids::Ids;

/// What is sent in place of `head`, with these lines more, when that is exactly such an answer of hyper's. Every other answer carries more headers than these three (`X-Request-Id` at least).
pub(super) fn in_place_of(head: &[u8], more: Option<&str>) -> Option<Vec<u8>> {
    const LONGEST: usize = 160;
    if head.get(9) != Some(&b'4') || head.len() > LONGEST {
        return None;
    }
    let (line, headers) = std::str::from_utf8(head).ok()?.strip_suffix("\r\n\r\n")?.split_once("\r\n")?;
    let info = match line.get(9..12)? {
        "400" => "Bad request",
        "414" => "URI too long",
        "431" => "Request header fields too large",
        _ => return None,
    };
    let known = |l: &str| l == "connection: close" || l == "content-length: 0" || l.starts_with("date: ");
    if !headers.split("\r\n").all(known) || !headers.contains("content-length: 0") {
        return None;
    }
    let body = json(info);
    let headers = headers.replace("content-length: 0", &format!("content-length: {}", body.len()));
    let ids = Ids::of(&HeaderMap::new(), false);
    let (id, more) = (ids.request(), more.unwrap_or_default());
    let told = format!("content-type: application/json\r\nx-request-id: {id}\r\n{more}");
    Some(format!("{line}\r\n{headers}\r\n{told}\r\n{body}").into_bytes())
}

/// The texts are ours: nothing in them needs escaping.
fn json(info: &str) -> String {
    format!(r#"{{"status":"error","info":"{info}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_hypers_own_is_replaced() {
        let hypers = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\
                      date: Tue, 24 Nov 2026 10:00:00 GMT\r\n\r\n";
        let ours =
            String::from_utf8(in_place_of(hypers.as_bytes(), Some("vary: Origin\r\n")).unwrap()).unwrap();
        assert!(ours.starts_with("HTTP/1.1 431 ") && ours.contains("connection: close\r\n"), "{ours}");
        assert!(ours.contains("\r\nvary: Origin\r\n\r\n{"), "{ours}");
        assert!(ours.ends_with(r#"{"status":"error","info":"Request header fields too large"}"#), "{ours}");
        for other in [
            "HTTP/1.1 400 Bad Request\r\nx-request-id: 1\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "",
        ] {
            assert_eq!(in_place_of(other.as_bytes(), None), None, "{other}");
        }
    }
}
