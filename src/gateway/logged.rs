//! What of a request's target stands in the access log: nothing that its sender may have meant for credentials.

use http::Uri;
use http::uri::PathAndQuery;
use std::borrow::Cow;

use super::live::Live;
use crate::access::credentials;
use crate::access::path::CanonicalPath;
use crate::access::shown::shown;

/// Less the credentials. That of a login is none: it carries the code of the second factor, or the one that another service
/// gave (`GET /login/{domain}?code=` of the engine's).
pub(super) fn logged_query(live: &Live, uri: &Uri) -> Option<String> {
    let query = uri.query()?;
    (!is_of_a_login(uri.path())).then(|| {
        let names = &live.access.names;
        shown(&credentials::without(query, names), names).into_owned()
    })
}

/// Wherever it is served: a refused request's path too is what its sender took for that of a login.
fn is_of_a_login(path: &str) -> bool {
    match CanonicalPath::parse(path) {
        Ok(path) => path.as_str().split('/').any(|segment| segment.eq_ignore_ascii_case("login")),
        Err(_) => path.to_ascii_lowercase().contains("login"),
    }
}

/// The path, less what its sender may have meant for credentials.
pub(super) fn logged_target(live: &Live, uri: &Uri) -> Option<PathAndQuery> {
    let target = uri.path_and_query()?;
    match shown(target.path(), &live.access.names) {
        Cow::Borrowed(_) => Some(target.clone()),
        Cow::Owned(path) => PathAndQuery::try_from(path).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_known_by_its_path() {
        for path in
            ["/login", "/Login/", "/api/v2/login/example.org", "/x/../%6cogin", "/login;x", "/login/%00"]
        {
            assert!(is_of_a_login(path), "{path}");
        }
        for path in ["/", "/api/v2/logins", "/relogin/x", "/logout", "/%00"] {
            assert!(!is_of_a_login(path), "{path}");
        }
    }
}
