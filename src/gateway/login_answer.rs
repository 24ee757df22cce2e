//! The 200 of `POST /login` (contract section 3).

use bytes::Bytes;
use http::{HeaderValue, Response, header};
use serde::Serialize;
use std::collections::BTreeMap;

use crate::body::Full;

/// The login answer, in the order of the documentation.
#[derive(Serialize)]
pub(super) struct Answer<'a> {
    pub(super) key: &'a str,
    pub(super) username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) domain: Option<&'a str>,
    pub(super) expires: u64,
    pub(super) token: &'a str,
    pub(super) role: i64,
    #[serde(rename = "roleName")]
    pub(super) role_name: &'a str,
    pub(super) acl: &'a BTreeMap<&'a str, &'a [&'static str]>,
    pub(super) cdr: &'a serde_json::Value,
}

pub(super) fn good(answer: Bytes) -> Response<Full> {
    let mut response = Response::new(Full::new(answer));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The engine's answer, its `cdr` replaced. The numbers and texts in it stay as they are.
pub(super) fn with_cdr(body: &[u8], cdr: &serde_json::Value) -> Option<Bytes> {
    let mut answer: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(body).ok()?;
    answer.insert("cdr".to_owned(), cdr.clone());
    serde_json::to_vec(&answer).ok().map(Bytes::from)
}
