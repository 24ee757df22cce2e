//! May this caller do this? Pure but for the read of the session map: a canonical path, a method and credentials
//! go in, a [`Permit`] or a [`Denied`] comes out. Default deny.
//!
//! Knows no HTTP statuses, no upstream and no configuration file.

pub mod acl;
mod authenticate;
pub mod credentials;
pub mod path;
pub mod permit;
pub mod query;
pub mod route_tree;
pub mod routes;

pub use permit::{Permit, Principal, Scope};

use http::{HeaderMap, Method};
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::session::Session;
use crate::session::map::Sessions;
use crate::session::token::{DomainToken, Tokens};

use acl::{Permission, Question, RoleSettings, Roles, Verdict};
use authenticate::Authenticator;
use credentials::{CredentialNames, Presented};
use path::CanonicalPath;
use permit::{ForwardQuery, Judged};
use route_tree::RouteTree;
use routes::{Own, Route, RouteSettings, Rule};

/// Everything of the configuration that decides.
pub struct AccessSettings {
    pub routes: Vec<RouteSettings>,
    pub roles: Vec<RoleSettings>,
    pub names: CredentialNames,
    /// `[paths] case_sensitive`
    pub case_sensitive: bool,
    /// `[domain_tokens]`
    pub domain_tokens: Vec<DomainToken>,
}

/// The question: everything of a request that bears on the decision.
pub struct AccessRequest<'r> {
    pub path: CanonicalPath,
    pub method: &'r Method,
    pub headers: &'r HeaderMap,
    /// As it was sent.
    pub query: Option<&'r str>,
}

/// Why not, with what is known for the log.
#[derive(Debug)]
pub struct Denied {
    pub reason: Reason,
    pub route: Option<Arc<Route>>,
    pub principal: Option<Principal>,
    /// The permission that was asked for and not held.
    pub asked: Option<Permission>,
}

/// The reasons for a refusal (contract section 4). Their statuses and texts are `gateway::rejection`'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A path that two servers could read differently.
    BadPath,
    AmbiguousCredentials,
    NoToken,
    NoKey,
    UnknownKey,
    TokenMismatch,
    Expired,
    DomainTokenUnknown,
    DomainTokenDisabled,
    DomainTokenInvalid,
    NoRoute,
    DenyRoute,
    NoPermission,
}

impl Reason {
    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadPath => "bad_path",
            Self::AmbiguousCredentials => "ambiguous_credentials",
            Self::NoToken => "no_token",
            Self::NoKey => "no_key",
            Self::UnknownKey => "unknown_key",
            Self::TokenMismatch => "token_mismatch",
            Self::Expired => "expired",
            Self::DomainTokenUnknown => "domain_token_unknown",
            Self::DomainTokenDisabled => "domain_token_disabled",
            Self::DomainTokenInvalid => "domain_token_invalid",
            Self::NoRoute => "no_route",
            Self::DenyRoute => "deny_route",
            Self::NoPermission => "no_permission",
        }
    }
}

/// Judges requests: compiled routes and roles of one configuration, beside the sessions of all.
pub struct Access {
    routes: RouteTree,
    roles: Roles,
    names: CredentialNames,
    case_sensitive: bool,
    authenticator: Authenticator,
}

impl Access {
    /// Compiles the settings, which `config` has found free of conflicts.
    #[must_use]
    pub fn new(settings: AccessSettings, sessions: Arc<Sessions>, tokens: Arc<Tokens>) -> Self {
        let AccessSettings { routes, roles, names, case_sensitive, domain_tokens } = settings;
        let asked = routes.iter().filter_map(|route| match &route.rule {
            Rule::Resource { name, .. } => Some(name.as_str()),
            Rule::Public | Rule::Authenticated | Rule::Deny => None,
        });
        let roles = Roles::new(&roles, asked);
        let compile = |route: &RouteSettings| match &route.rule {
            Rule::Resource { name, .. } => Arc::new(Route::new(route, roles.resource(name))),
            Rule::Public | Rule::Authenticated | Rule::Deny => Arc::new(Route::new(route, None)),
        };
        let compiled = routes.iter().map(compile).collect();
        let routes = RouteTree::new(&routes, compiled, case_sensitive);
        let authenticator = Authenticator::new(sessions, tokens, domain_tokens);
        Self { routes, roles, names, case_sensitive, authenticator }
    }

    /// The decision, in the order of contract section 4. Awaits nothing for a known session.
    #[expect(clippy::unused_async, reason = "stores that must be asked for an unknown session come in here")]
    pub async fn decide(&self, request: AccessRequest<'_>, now: UnixMillis) -> Result<Permit, Denied> {
        let AccessRequest { path, method, headers, query } = request;
        let route = self.routes.find(&path, method, query);
        let denied = |reason, principal, asked| Denied { reason, route: route.cloned(), principal, asked };
        if path.has_encoded_slash() && !route.is_some_and(|route| route.encoded_slash) {
            return Err(denied(Reason::BadPath, None, None));
        }
        let presented = Presented::read(headers, query, &self.names)
            .map_err(|_| denied(Reason::AmbiguousCredentials, None, None))?;
        match route.map(|route| (route, &route.rule)) {
            Some((route, Rule::Public)) => return Ok(unjudged(route, path)),
            Some((_, Rule::Deny)) => return Err(denied(Reason::DenyRoute, None, None)),
            Some((_, Rule::Authenticated | Rule::Resource { .. })) | None => {}
        }
        let principal =
            self.authenticator.authenticate(&presented, now).map_err(|reason| denied(reason, None, None))?;
        let Some(route) = route else { return Err(denied(Reason::NoRoute, Some(principal), None)) };
        let verdict = self.judge(route, &Caller::of(&principal), &Asked { path: &path, method, query });
        if let Some(Verdict { asked, scope: None }) = verdict {
            return Err(denied(Reason::NoPermission, Some(principal), Some(asked)));
        }
        let query = self.forward_query(&path, query, &presented);
        let stripped = route.stripped_bytes(path.as_str());
        let credentials = judged(&presented, &principal);
        let (asked, scope) = (verdict.map(|v| v.asked), verdict.and_then(|v| v.scope));
        let (route, principal) = (Arc::clone(route), Some(principal));
        Ok(Permit { route, path, stripped, query, principal, scope, asked, credentials })
    }

    /// The session that logs out: by the same credentials as any other request. A domain token has none.
    pub fn session_of(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        now: UnixMillis,
    ) -> Result<Arc<Session>, Reason> {
        let presented =
            Presented::read(headers, query, &self.names).map_err(|_| Reason::AmbiguousCredentials)?;
        let token = presented.token.as_ref().ok_or(Reason::NoToken)?;
        let key = presented.key.as_ref().ok_or(Reason::NoKey)?;
        self.authenticator.session(key.text(), token.text(), now)
    }

    /// What a role holds, inherited resources merged in, and its number: for the login answer. None for a role
    /// that does not exist.
    #[must_use]
    pub fn role(&self, name: &RoleName) -> Option<&acl::Role> {
        self.roles.get(name)
    }

    /// Whether a path is one of the gateway's own: matched like all others.
    #[must_use]
    pub fn is_path(&self, path: &CanonicalPath, literal: &str) -> bool {
        path.is(literal, self.case_sensitive)
    }

    /// The permission decision on a route that asks for a resource; none on one that does not.
    fn judge(&self, route: &Route, caller: &Caller<'_>, asked: &Asked<'_>) -> Option<Verdict> {
        let Rule::Resource { permission, own, .. } = &route.rule else { return None };
        let plain = permission.unwrap_or_else(|| Permission::of_method(asked.method));
        let question = match own {
            Own::Never => Question::Plain(plain),
            Own::Fallback => Question::OwnAfter(plain),
            Own::Domain if caller.user.domain().is_some() => Question::OwnInstead(plain),
            Own::UserQuery
                if is_own(route, asked, caller, query::value(asked.query, "domain").as_deref()) =>
            {
                Question::OwnInstead(plain)
            }
            Own::UserCaller if is_own(route, asked, caller, caller.user.domain()) => {
                Question::OwnInstead(plain)
            }
            Own::Domain | Own::UserQuery | Own::UserCaller => Question::Plain(plain),
        };
        Some(acl::ask(self.roles.get(caller.role), route.resource_id, question))
    }

    /// Byte for byte, less the credentials.
    fn forward_query(
        &self,
        path: &CanonicalPath,
        query: Option<&str>,
        presented: &Presented<'_>,
    ) -> Option<ForwardQuery> {
        let query = query?;
        if presented.in_query {
            return Some(ForwardQuery::Stripped(credentials::without(query, &self.names).into_owned()));
        }
        Some(ForwardQuery::AsSent(path.sent().clone()))
    }
}

/// Who asks, for a permission decision.
struct Caller<'a> {
    user: &'a UserName,
    role: &'a RoleName,
}

impl<'a> Caller<'a> {
    fn of(principal: &'a Principal) -> Self {
        Self { user: principal.user(), role: principal.role() }
    }
}

/// What is asked for, for a permission decision.
struct Asked<'a> {
    path: &'a CanonicalPath,
    method: &'a Method,
    query: Option<&'a str>,
}

/// Whether `{user}` + `@` + `domain` is the caller, letter for letter.
fn is_own(route: &Route, asked: &Asked<'_>, caller: &Caller<'_>, domain: Option<&str>) -> bool {
    let (Some(user), Some(domain)) = (route.user(asked.path.as_str()), domain) else { return false };
    caller.user.as_str().split_once('@') == Some((&*user, domain))
}

/// A public route's permit: credentials and query as they came.
fn unjudged(route: &Arc<Route>, path: CanonicalPath) -> Permit {
    let query = path.sent().query().is_some().then(|| ForwardQuery::AsSent(path.sent().clone()));
    let stripped = route.stripped_bytes(path.as_str());
    let route = Arc::clone(route);
    Permit { route, path, stripped, query, principal: None, scope: None, asked: None, credentials: None }
}

fn judged(presented: &Presented<'_>, principal: &Principal) -> Option<Judged> {
    let token = presented.token.as_ref()?.to_header()?;
    let key = match principal {
        Principal::Session(_) => Some(presented.key.as_ref()?.to_header()?),
        Principal::Domain { .. } => None,
    };
    Some(Judged { token, key })
}
