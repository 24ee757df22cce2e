//! The proof that a request was judged and may go on.

use http::HeaderValue;
use http::uri::PathAndQuery;
use std::borrow::Cow;
use std::sync::Arc;

use super::credentials::Presented;
use super::path::CanonicalPath;
use super::policy::Grant;
use super::route_tree::Entry;
use super::routes::Route;
use crate::identity::{RoleName, UserName};
use crate::permission::Permission;
use crate::session::Session;
use crate::session::adopted::Adopted;
use crate::session::domain_tokens::KnownToken;

/// Who the caller turned out to be.
#[derive(Clone, Debug)]
pub enum Principal {
    Session(Arc<Session>),
    /// A domain token; the user is `id@domain`.
    Domain(Arc<KnownToken>),
}

impl Principal {
    /// The full name: a domain token's is `id@domain`.
    #[must_use]
    pub fn user(&self) -> &UserName {
        match self {
            Self::Session(session) => &session.user,
            Self::Domain(known) => &known.user,
        }
    }

    /// What an engine told of him; none of one who was made known here.
    #[must_use]
    pub fn adopted(&self) -> Option<&Adopted> {
        match self {
            Self::Session(session) => session.adopted(),
            Self::Domain(known) => known.adopted(),
        }
    }

    #[must_use]
    pub fn role(&self) -> &RoleName {
        match self {
            Self::Session(session) => &session.role,
            Self::Domain(known) => &known.record.role,
        }
    }
}

/// `X-Postern-Scope`: whether a plain permission or exactly an own variant granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Own,
}

/// The credentials that were judged: exactly these go on to the upstream. Marked sensitive.
#[derive(Clone)]
pub struct Judged {
    pub token: HeaderValue,
    /// None for a domain token, also when the client sent one.
    pub key: Option<HeaderValue>,
}

impl Judged {
    /// None only where the token cannot stand in a header, which no good one is.
    pub(super) fn of(presented: &Presented<'_>, principal: &Principal) -> Option<Self> {
        let token = presented.token.as_ref()?.to_header()?;
        match principal {
            Principal::Session(_) => Some(Self { token, key: Some(presented.key.as_ref()?.to_header()?) }),
            Principal::Domain(_) => Some(Self { token, key: None }),
        }
    }
}

/// A query as it is forwarded.
#[derive(Clone)]
pub enum ForwardQuery {
    /// As the client sent it, byte for byte.
    AsSent(PathAndQuery),
    /// Less the credentials; empty when nothing else was in it.
    Stripped(String),
}

impl ForwardQuery {
    /// Shares the request's own bytes where the query is that of `path`'s target.
    pub(super) fn of(path: &CanonicalPath, query: Cow<'_, str>) -> Self {
        match query {
            Cow::Borrowed(query) if path.sent().query() == Some(query) => Self::AsSent(path.sent().clone()),
            query => Self::Stripped(query.into_owned()),
        }
    }
}

/// A request that was judged and may be forwarded. Made by `access` alone.
pub struct Permit {
    route: Arc<Route>,
    path: CanonicalPath,
    /// Bytes of the path that `strip_prefix` takes off.
    stripped: usize,
    query: Option<ForwardQuery>,
    principal: Option<Principal>,
    scope: Option<Scope>,
    asked: Option<Permission>,
    credentials: Option<Judged>,
}

/// The upgrade of a WebSocket whose client is judged by his first message (contract section 4, `first_frame`): no
/// [`Permit`], for nobody was judged. Made by `access` alone.
pub struct GuardedPermit(Permit);

impl GuardedPermit {
    pub(super) fn on(entry: &Entry, path: CanonicalPath, query: Option<ForwardQuery>) -> Self {
        Self(Permit::on(entry, path, query))
    }

    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        self.0.route()
    }

    /// What was asked for, to be judged once it is known who asks.
    #[must_use]
    pub fn path(&self) -> &CanonicalPath {
        &self.0.path
    }

    /// For the upgrade alone, without the caller's credentials and identity.
    pub(crate) fn upgrade(&self) -> &Permit {
        &self.0
    }
}

impl Permit {
    /// For a caller whom the rules grant it.
    pub(super) fn granted(self, principal: Principal, grant: Grant, credentials: Judged) -> Self {
        let Grant { asked, scope } = grant;
        Self { principal: Some(principal), scope, asked, credentials: Some(credentials), ..self }
    }

    /// Without a caller: that of a public route, where credentials pass as they came.
    pub(super) fn on(entry: &Entry, path: CanonicalPath, query: Option<ForwardQuery>) -> Self {
        Self {
            route: Arc::clone(&entry.route),
            stripped: path.bytes_of_segments(entry.stripped_segments),
            path,
            query,
            principal: None,
            scope: None,
            asked: None,
            credentials: None,
        }
    }

    #[must_use]
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The path to forward: canonical, in the client's letter case, less `strip_prefix`. Begins with `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        match self.path.as_str().get(self.stripped..) {
            Some(rest) if rest.starts_with('/') => rest,
            _ => "/",
        }
    }

    /// Path and query as one, `strip_prefix` left on: for an ingress that forwards the request itself.
    #[must_use]
    pub fn whole_target(&self) -> String {
        let path = self.path.as_str();
        self.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
    }

    /// The query to forward, without the `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        match self.query.as_ref()? {
            ForwardQuery::AsSent(target) => target.query(),
            ForwardQuery::Stripped(query) => (!query.is_empty()).then_some(query),
        }
    }

    /// None on a public route, whatever credentials came.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// None on a route without a resource.
    #[must_use]
    pub fn scope(&self) -> Option<Scope> {
        self.scope
    }

    /// The permission that granted; none on a route without a resource.
    #[must_use]
    pub fn asked(&self) -> Option<Permission> {
        self.asked
    }

    /// None on a public route: credentials pass there as they came, unjudged.
    #[must_use]
    pub fn credentials(&self) -> Option<&Judged> {
        self.credentials.as_ref()
    }
}
