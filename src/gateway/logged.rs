//! What of a request's target stands in the access log: nothing that its sender may have meant for credentials.

use http::Uri;
use http::uri::PathAndQuery;
use std::borrow::Cow;

use super::live::Live;
use crate::access::credentials;
use crate::access::own_path::OwnPath;
use crate::access::path::CanonicalPath;
use crate::access::shown::shown;

/// Less the credentials. That of a login is none: it carries the code of the second factor.
pub(super) fn logged_query(live: &Live, uri: &Uri) -> Option<String> {
    let query = uri.query()?;
    let own = CanonicalPath::of(uri).ok().and_then(|path| live.access.own_path(&path));
    (own != Some(OwnPath::Login)).then(|| {
        let names = &live.access.names;
        shown(&credentials::without(query, names), names).into_owned()
    })
}

/// The path, less what its sender may have meant for credentials.
pub(super) fn logged_target(live: &Live, uri: &Uri) -> Option<PathAndQuery> {
    let target = uri.path_and_query()?;
    match shown(target.path(), &live.access.names) {
        Cow::Borrowed(_) => Some(target.clone()),
        Cow::Owned(path) => PathAndQuery::try_from(path).ok(),
    }
}
