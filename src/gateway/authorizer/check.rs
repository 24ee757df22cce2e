//! The messages of Envoy's `ext_authz` (`envoy.service.auth.v3`): what a check asks about, and how the verdict is told.
//! Pure; decides nothing.

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{HeaderValue as Field, HeaderValueOption, address::Address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Struct, Value};
use envoy_types::pb::google::rpc::Status;
use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use std::net::IpAddr;
use tonic::Code;

use super::convention::{AskFault, is_more_behind_a_fragment};
use super::joined;
use crate::access::credentials::CredentialNames;
use crate::body::Full;
use crate::upstream::ingress::Amendment;

/// What a check asks about.
#[derive(Debug, Default)]
pub struct Check {
    pub method: Method,
    pub target: Uri,
    pub headers: HeaderMap,
    /// The client's address, as Envoy knows it.
    pub client: Option<IpAddr>,
}

/// Reads a check.
///
/// # Errors
/// It names no request, or one that is none.
pub fn read(check: CheckRequest, names: &CredentialNames) -> Result<Check, AskFault> {
    let attributes = check.attributes.ok_or(AskFault::NoRequest)?;
    let client = attributes.source.and_then(|source| source.address).and_then(|address| address.address);
    let request = attributes.request.and_then(|request| request.http).ok_or(AskFault::NoRequest)?;
    if request.method.is_empty() || request.path.is_empty() {
        return Err(AskFault::NoRequest);
    }
    let method =
        Method::from_bytes(request.method.as_bytes()).map_err(|_| AskFault::BadMethod("The method"))?;
    if !request.path.starts_with('/') {
        return Err(AskFault::BadTarget("The path"));
    }
    if is_more_behind_a_fragment(request.path.as_bytes()) {
        return Err(AskFault::BadPath);
    }
    agreed(&request)?;
    let target = PathAndQuery::try_from(request.path.as_str()).map_err(|_| AskFault::BadPath)?;
    let headers = fields(&request, names)?;
    Ok(Check { method, target: Uri::from(target), headers, client: client.and_then(ip_of) })
}

fn ip_of(address: Address) -> Option<IpAddr> {
    match address {
        Address::SocketAddress(socket) => socket.address.parse().ok().map(|ip: IpAddr| ip.to_canonical()),
        Address::Pipe(_) | Address::EnvoyInternalAddress(_) => None,
    }
}

/// Method and path are told by the pseudo-header fields too, byte for byte: `path` is text, in which Envoy writes `!` for
/// each byte that is no UTF-8. And the header is told once. Where two say otherwise, it is not guessed who is right.
fn agreed(request: &HttpRequest) -> Result<(), AskFault> {
    let raw = request.header_map.as_ref().map_or(&[][..], |map| map.headers.as_slice());
    if !raw.is_empty() && !request.headers.is_empty() {
        return Err(AskFault::Conflict);
    }
    for (name, told) in [(":method", &request.method), (":path", &request.path)] {
        let in_map = request.headers.get(name).map(String::as_bytes);
        let mut all = raw.iter().filter(|field| field.key == name).map(value_of).chain(in_map);
        if all.any(|other| other != told.as_bytes()) {
            return Err(AskFault::Conflict);
        }
    }
    Ok(())
}

fn value_of(field: &Field) -> &[u8] {
    match field.raw_value.as_slice() {
        [] => field.value.as_bytes(),
        raw => raw,
    }
}

/// The header, less the pseudo-header fields. Envoy joins the lines of a field unless it is told to `encode_raw_headers`.
fn fields(request: &HttpRequest, names: &CredentialNames) -> Result<HeaderMap, AskFault> {
    if let Some(raw) = request.header_map.as_ref().filter(|raw| !raw.headers.is_empty()) {
        return map_of(raw.headers.iter().map(|field| (field.key.as_str(), value_of(field).to_vec())));
    }
    let fields = request.headers.iter().map(|(name, value)| (name.as_str(), value.clone().into_bytes()));
    map_of(fields).map(|fields| joined::apart(&fields, names).into_owned())
}

fn map_of<'f>(fields: impl Iterator<Item = (&'f str, Vec<u8>)>) -> Result<HeaderMap, AskFault> {
    let mut map = HeaderMap::with_capacity(fields.size_hint().0);
    for (name, value) in fields.filter(|(name, _)| !name.starts_with(':')) {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| AskFault::BadField)?;
        map.append(name, HeaderValue::try_from(value).map_err(|_| AskFault::BadField)?);
    }
    Ok(map)
}

/// What Envoy makes of its access log, its filters and its routes: nothing secret.
#[derive(Debug, Default)]
pub struct Metadata(Vec<(&'static str, String)>);

impl Metadata {
    pub fn add(&mut self, name: &'static str, value: Option<impl Into<String>>) {
        self.0.extend(value.map(|value| (name, value.into())));
    }

    fn into_struct(self) -> Struct {
        let value = |text| Value { kind: Some(Kind::StringValue(text)) };
        Struct { fields: self.0.into_iter().map(|(name, text)| (name.to_owned(), value(text))).collect() }
    }
}

/// It may pass, changed so.
#[must_use]
pub fn allowed(amendment: Amendment, metadata: Metadata) -> CheckResponse {
    let Amendment { identity, credentials, remove, target } = amendment;
    let target = target.and_then(|target| Some((":path".to_owned(), HeaderValue::try_from(target).ok()?)));
    let named = |map: HeaderMap| {
        let named = map.into_iter().filter_map(|(name, value)| Some((name?.as_str().to_owned(), value)));
        named.collect::<Vec<_>>()
    };
    let set = named(identity).into_iter().chain(named(credentials)).chain(target);
    let ok = OkHttpResponse {
        headers: set.filter_map(|(name, value)| option(name, &value)).collect(),
        headers_to_remove: remove.iter().map(|name| name.as_str().to_owned()).collect(),
        ..OkHttpResponse::default()
    };
    CheckResponse {
        status: Some(status(Code::Ok)),
        dynamic_metadata: Some(metadata.into_struct()),
        http_response: Some(HttpResponse::OkResponse(ok)),
    }
}

/// It may not; the client is answered so.
#[must_use]
pub fn denied(answer: Response<Full>, metadata: Metadata) -> CheckResponse {
    let (head, body) = answer.into_parts();
    let code = match head.status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        _ => Code::PermissionDenied,
    };
    let fields = head.headers.iter().filter_map(|(name, value)| option(name.as_str().to_owned(), value));
    let denied = DeniedHttpResponse {
        status: Some(HttpStatus { code: i32::from(head.status.as_u16()) }),
        headers: fields.collect(),
        // What the gateway writes is JSON, which is UTF-8.
        body: String::from_utf8_lossy(&body.into_bytes()).into_owned(),
    };
    CheckResponse {
        status: Some(status(code)),
        dynamic_metadata: Some(metadata.into_struct()),
        http_response: Some(HttpResponse::DeniedResponse(denied)),
    }
}

fn status(code: Code) -> Status {
    Status { code: i32::from(code), ..Status::default() }
}

fn option(name: String, value: &HeaderValue) -> Option<HeaderValueOption> {
    let value = value.to_str().ok()?.to_owned();
    let option = HeaderValueOption {
        header: Some(Field { key: name, value, raw_value: Vec::new() }),
        append_action: i32::from(HeaderAppendAction::OverwriteIfExistsOrAdd),
        ..HeaderValueOption::default()
    };
    Some(option)
}
