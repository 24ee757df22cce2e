//! The request of a login: its method, its type, its body, none of which is trusted.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use std::pin::pin;
use std::time::Duration;

use super::login::LoginError;
use super::login_body::LoginBody;
use crate::body::{ReadError, read_whole};

/// The largest body of a login.
const MAX_BODY: usize = 16 * 1024;

/// The fields of a login, whose body comes without pauses longer than `quiet`.
pub(super) async fn read_login<B>(request: Request<B>, quiet: Duration) -> Result<LoginBody, LoginError>
where
    B: http_body::Body<Data = Bytes>,
{
    if request.method() != Method::POST {
        return Err(LoginError::MethodNotAllowed);
    }
    if !is_json(request.headers()) {
        return Err(LoginError::BadType);
    }
    let body = pin!(request.into_body());
    let bytes = read_whole(body, MAX_BODY, quiet).await.map_err(|error| match error {
        ReadError::TooLarge(_) => LoginError::TooLarge,
        ReadError::Timeout => LoginError::BodyTimeout,
        ReadError::Broken(_) => LoginError::BodyBroken,
    })?;
    LoginBody::read(&bytes).map_err(LoginError::BadRequest)
}

/// Exactly one `Content-Type`, `application/json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.to_str().ok().and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn json_is_told_by_its_essence_given_once() {
        let typed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_json(&headers)
        };
        assert!(typed(&["application/json"]) && typed(&["Application/JSON; charset=utf-8"]));
        for values in [
            &[][..],
            &["text/plain"],
            &["application/jsonx"],
            &["text/plain, application/json"],
            &["text/plain; application/json"],
            &["application/json", "text/plain"],
            &["application/json", "application/json"],
        ] {
            assert!(!typed(values), "{values:?}");
        }
    }
}
