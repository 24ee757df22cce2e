//! What concerns every request alike: `[credentials]`, `[cors]`, `[paths]`, `[authz]`,
//! `[limits]`, `[log]`.

use http::{HeaderName, Method};
use std::time::Duration;
use tracing::Level;

use super::findings::Findings;
use super::table::Table;
use crate::access::credentials::CredentialNames;
use crate::gateway::authorizer::Convention;
use crate::gateway::cors::CorsSettings;
use crate::server::Limits;
use crate::telemetry::{LogFormat, LogSettings};

/// Headers that carry the message itself: read as a credential, they would be taken out of what is forwarded.
const NO_CREDENTIAL: [&str; 7] =
    ["host", "connection", "content-length", "content-type", "transfer-encoding", "upgrade", "te"];

pub(super) fn credentials(table: Option<Table>, f: &mut Findings) -> CredentialNames {
    let default = CredentialNames::default();
    let Some(mut table) = table else { return default };
    let (token, key) = (["token_headers", "token_query"], ["key_headers", "key_query"]);
    let names = CredentialNames {
        token_headers: table.parsed_list(token[0], f, credential_header).unwrap_or(default.token_headers),
        key_headers: table.parsed_list(key[0], f, credential_header).unwrap_or(default.key_headers),
        token_query: table.parsed_list(token[1], f, query_name).unwrap_or(default.token_query),
        key_query: table.parsed_list(key[1], f, query_name).unwrap_or(default.key_query),
    };
    if names.token_headers.iter().any(|name| names.key_headers.contains(name)) {
        table.fault(key[0], "names a header of token_headers; one name cannot carry both", f);
    }
    if names.token_query.iter().any(|name| names.key_query.contains(name)) {
        table.fault(key[1], "names a parameter of token_query; one name cannot carry both", f);
    }
    if names.token_headers.is_empty() && names.token_query.is_empty() {
        table.fault(token[0], "is empty, and so is token_query: nobody could log in; name one", f);
    }
    table.finish(f);
    names
}

fn credential_header(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = header_name(text)?;
    if NO_CREDENTIAL.contains(&name.as_str()) {
        return Err(format!("\"{text}\" has a meaning of its own; choose another name"));
    }
    Ok(name)
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no header name"))
}

/// Without the characters that a query is made of, nor those that a bracket-reading parser folds.
fn query_name(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !text.is_empty() && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is no parameter name; letters, digits, _, - and . make one"))
    }
}

pub(super) fn cors(mut table: Table, f: &mut Findings) -> CorsSettings {
    let settings = CorsSettings {
        allow_origins: list(&mut table, ("allow_origins", &["*"]), origin, f),
        allow_methods: list(
            &mut table,
            ("allow_methods", &["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]),
            |text| method(text).map(|method| method.to_string()),
            f,
        ),
        allow_headers: list(
            &mut table,
            ("allow_headers", &["Content-type", "Accept", "X-Access-Token", "X-Key"]),
            |text| header_name(text).map(|_| text.to_owned()),
            f,
        ),
        max_age: table.duration_or_zero("max_age", Duration::from_secs(86_400), f),
    };
    table.finish(f);
    settings
}

fn list(
    table: &mut Table,
    (name, default): (&str, &[&str]),
    read: impl FnMut(&str) -> Result<String, String>,
    f: &mut Findings,
) -> Vec<String> {
    let listed = table.parsed_list(name, f, read);
    listed.unwrap_or_else(|| default.iter().map(|text| (*text).to_owned()).collect())
}

/// As browsers send it: scheme, host and port, nothing behind.
fn origin(text: &str) -> Result<String, String> {
    let named = text.split_once("://").filter(|(scheme, host)| {
        let is_visible =
            |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase() && !matches!(b, b'/' | b'*' | b',');
        !scheme.is_empty()
            && !host.is_empty()
            && text.bytes().all(|b| is_visible(b) || b == b'/')
            && !host.contains('/')
    });
    if text == "*" || named.is_some() {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "\"{text}\" is no origin; write it as browsers do, \"https://app.example.com\", or \"*\" for all"
        ))
    }
}

/// Methods are told apart by letter case (RFC 9110 section 9.1): `get` would never match.
pub(super) fn method(text: &str) -> Result<Method, String> {
    let method = Method::from_bytes(text.as_bytes()).map_err(|_| format!("\"{text}\" is no method"))?;
    let upper = text.to_ascii_uppercase();
    let standard = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    if upper != text && standard.contains(&upper.as_str()) {
        return Err(format!("\"{text}\" is no method that anyone sends; write it as \"{upper}\""));
    }
    Ok(method)
}

/// `[authz] convention`
pub(super) fn authz(table: Option<Table>, f: &mut Findings) -> Convention {
    let Some(mut table) = table else { return Convention::default() };
    let words = Convention::ALL.map(|convention| (convention.as_str(), convention));
    let convention = table.word("convention", &words, f).unwrap_or_default();
    table.finish(f);
    convention
}

/// `[paths] case_sensitive`
pub(super) fn case_sensitive(table: Option<Table>, f: &mut Findings) -> bool {
    let Some(mut table) = table else { return false };
    let case_sensitive = table.bool("case_sensitive", false, f);
    table.finish(f);
    case_sensitive
}

pub(super) fn limits(table: Option<Table>, f: &mut Findings) -> Limits {
    let d = Limits::default();
    let Some(mut table) = table else { return d };
    let limits = Limits {
        max_connections: table.number("max_connections", d.max_connections, 1, f),
        max_requests: table.number("max_requests", d.max_requests, 1, f),
        header_read_timeout: table.duration("header_read_timeout", d.header_read_timeout, f),
        idle_timeout: table.duration("idle_timeout", d.idle_timeout, f),
        body_timeout: table.duration("body_timeout", d.body_timeout, f),
        send_timeout: table.duration("send_timeout", d.send_timeout, f),
        handshake_timeout: table.duration("handshake_timeout", d.handshake_timeout, f),
        max_header_bytes: table.size("max_header_bytes", d.max_header_bytes, 1024..=16 * 1024 * 1024, f),
        drain_delay: table.duration_or_zero("drain_delay", d.drain_delay, f),
        drain_timeout: table.duration_or_zero("drain_timeout", d.drain_timeout, f),
    };
    table.finish(f);
    limits
}

pub(super) fn log(table: Option<Table>, f: &mut Findings) -> LogSettings {
    let default = LogSettings { level: Level::INFO, format: LogFormat::Json, access: true };
    let Some(mut table) = table else { return default };
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let formats = [("json", LogFormat::Json), ("text", LogFormat::Text)];
    let settings = LogSettings {
        level: table.word("level", &levels, f).unwrap_or(default.level),
        format: table.word("format", &formats, f).unwrap_or(default.format),
        access: table.bool("access", default.access, f),
    };
    table.finish(f);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        for good in ["*", "https://a.example", "http://localhost:3000", "chrome-extension://abc"] {
            assert!(origin(good).is_ok(), "{good}");
        }
        for bad in [
            "a.example",
            "https://a.example/",
            "https://A.example",
            "https://*.example",
            "",
            "null",
            "https://",
        ] {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_credentials_carry_nothing_else() {
        assert!(credential_header("X-Key").is_ok() && query_name("x_key").is_ok());
        for bad in ["Host", "content-length", "a b", ""] {
            assert!(credential_header(bad).is_err(), "{bad}");
        }
        for bad in ["x_key[]", "a&b", "a=b", "", "a b", "a%5b"] {
            assert!(query_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn methods_are_told_apart_by_letter_case() {
        assert!(method("PURGE").is_ok() && method("GET").is_ok() && method("purge").is_ok());
        assert!(method("get").is_err() && method("GE T").is_err() && method("").is_err());
    }
}
