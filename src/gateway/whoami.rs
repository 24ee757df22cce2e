//! `answer = "whoami"`: who calls, as the engine tells it (`webitel.md`, whoami); nothing is forwarded.

use http::{HeaderValue, Response, header};
use serde::Serialize;
use std::collections::BTreeMap;

use crate::access::{Access, Permit, Principal};
use crate::body::Full;

#[derive(Serialize)]
struct Whoami<'a> {
    /// What the caller holds, by resource.
    acl: BTreeMap<String, Vec<&'static str>>,
    /// The full name; a domain token's is `id@domain`.
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    #[serde(rename = "roleName")]
    role_name: &'a str,
    /// In ms since 1970; none for a domain token.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    cdr: &'a serde_json::Value,
}

/// None on a public route, which `config` refuses to answer so.
pub(super) fn answer(
    access: &Access,
    permit: &Permit,
    cdr: Option<&serde_json::Value>,
) -> Option<Response<Full>> {
    let principal = permit.principal()?;
    let empty = serde_json::json!({});
    let told = Whoami {
        acl: access.rights(principal),
        id: principal.user().as_str(),
        domain: principal.user().domain(),
        role_name: principal.role().as_str(),
        expires: match principal {
            Principal::Session(session) => Some(session.expires.0),
            Principal::Domain(_) => None,
        },
        cdr: cdr.unwrap_or(&empty),
    };
    // Texts, a number and maps of them: there is nothing that could not be written.
    let mut answer = Response::new(Full::new(serde_json::to_vec(&told).unwrap_or_default()));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(answer)
}
