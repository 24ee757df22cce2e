//! May this caller do this? Pure but for the read of the session map: a canonical path, a method and credentials
//! go in, a [`Permit`] or a [`Denied`] comes out. Default deny.
//!
//! Knows no HTTP statuses, no upstream and no configuration file.

pub mod acl;
mod adoption;
mod authenticate;
pub mod authority;
pub mod body;
mod conflicts;
pub mod credentials;
pub mod explain;
pub mod own_path;
pub mod path;
pub mod permit;
pub mod policy;
pub mod query;
pub mod route_tree;
pub mod routes;
#[cfg(test)]
pub(crate) mod samples;
mod segment;
mod shared;
pub mod shown;
#[cfg(test)]
mod tests;

use http::{HeaderMap, Method};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::identity::RoleName;
use crate::permission::{Permission, PermissionSet};
use crate::session::Session;
use crate::session::adopted::Adopted;
use crate::session::adopter::Adopter;
use crate::session::map::Sessions;
use crate::session::token::Tokens;

use acl::RoleSettings;
use authenticate::Authenticator;
use body::BodyFault;
use credentials::{Ambiguous, CredentialNames, Presented};
use own_path::OwnPath;
use path::CanonicalPath;
use permit::{ForwardQuery, GuardedPermit, Judged};
use policy::{Caller, Policy, Question, Refusal};
use routes::{Route, RouteSettings, Rule, WebSocketMode};

pub use permit::{Permit, Principal, Scope};

/// Everything of the configuration that decides.
#[derive(Clone)]
pub struct AccessSettings {
    pub routes: Vec<RouteSettings>,
    pub roles: Vec<RoleSettings>,
    pub names: CredentialNames,
    /// `[paths] case_sensitive`
    pub case_sensitive: bool,
    /// `[login] below`: prefixes below which the gateway's own paths are too.
    pub own_below: Vec<String>,
}

impl AccessSettings {
    /// Which of the gateway's own paths this is.
    #[must_use]
    pub fn own_path(&self, path: &CanonicalPath) -> Option<OwnPath> {
        path.own(self.case_sensitive, &self.own_below)
    }
}

/// Where callers are known from.
pub struct Callers {
    pub sessions: Arc<Sessions>,
    pub tokens: Arc<Tokens>,
    /// `[sessions.adopt]`
    pub adopter: Option<Arc<Adopter>>,
}

/// The question: everything of a request that bears on the decision.
pub struct AccessRequest<'r> {
    pub path: CanonicalPath,
    pub method: &'r Method,
    pub headers: &'r HeaderMap,
    /// As it was sent.
    pub query: Option<&'r str>,
    /// Where it came from.
    pub client: IpAddr,
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

impl Denied {
    fn new(reason: Reason, route: Option<Arc<Route>>) -> Self {
        Self { reason, route, principal: None, asked: None }
    }
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
    /// The engine that may know the caller could not be asked.
    EngineUnavailable,
    /// The store that replicas share is away, and the caller is not known here or was too long ago.
    StoreUnavailable,
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
            Self::EngineUnavailable => "engine_unavailable",
            Self::StoreUnavailable => "store_unavailable",
            Self::NoRoute => "no_route",
            Self::DenyRoute => "deny_route",
            Self::NoPermission => "no_permission",
        }
    }
}

/// Judges requests: compiled routes and roles of one configuration, beside the sessions of all.
///
/// Each request clones `Arc`s of its route: give every worker thread an `Access` of its own, or their counters are
/// shared by all cores.
pub struct Access {
    policy: Policy,
    names: CredentialNames,
    case_sensitive: bool,
    own_below: Vec<String>,
    authenticator: Authenticator,
}

impl Access {
    /// Compiles the settings, which `config` has found free of conflicts.
    #[must_use]
    pub fn new(settings: AccessSettings, callers: Callers) -> Self {
        let AccessSettings { routes, roles, names, case_sensitive, own_below } = settings;
        let policy = Policy::new(&routes, &roles, case_sensitive);
        let Callers { sessions, tokens, adopter } = callers;
        let authenticator = Authenticator::new(sessions, tokens, adopter);
        Self { policy, names, case_sensitive, own_below, authenticator }
    }

    /// The decision, in the contract's order: path, ambiguous credentials, what a public or deny route says, the
    /// caller, then route and permission: without good credentials nobody learns which routes exist. Awaits nothing
    /// for a known session, unless an engine made it and is to be asked about it again.
    pub async fn decide(&self, request: AccessRequest<'_>, now: UnixMillis) -> Result<Permit, Denied> {
        let AccessRequest { path, method, headers, query, client } = request;
        let question = Question { path: &path, method, query };
        let entry = self.policy.entry(question).map_err(|_| Denied::new(Reason::BadPath, None))?;
        let deny = |reason| Denied::new(reason, entry.map(|e| Arc::clone(&e.route)));

        let presented = Presented::read(headers, query, &self.names);
        let presented = presented.map_err(|Ambiguous| deny(Reason::AmbiguousCredentials))?;
        match entry.map(|e| (e, &e.route.rule)) {
            Some((_, Rule::Deny)) => return Err(deny(Reason::DenyRoute)),
            Some((entry, Rule::Public)) => {
                let query = query.map(|q| ForwardQuery::of(&path, q.into()));
                return Ok(Permit::on(entry, path, query));
            }
            Some((_, Rule::Authenticated | Rule::Resource { .. })) | None => {}
        }

        let principal = self.authenticator.caller(&presented, client, now).await;
        let principal = principal.map_err(|u| Denied { principal: u.principal, ..deny(u.reason) })?;
        let caller = caller_of(&principal);
        let judged = entry.ok_or(Refusal { reason: Reason::NoRoute, asked: None });
        match judged.and_then(|e| self.policy.grant(e, question, caller).map(|grant| (e, grant))) {
            Ok((entry, grant)) => {
                let credentials = Judged::of(&presented, &principal).ok_or_else(|| deny(Reason::NoToken))?;
                let query = query.map(|q| ForwardQuery::of(&path, credentials::without(q, &self.names)));
                Ok(Permit::on(entry, path, query).granted(principal, grant, credentials))
            }
            Err(refusal) => {
                Err(Denied { principal: Some(principal), asked: refusal.asked, ..deny(refusal.reason) })
            }
        }
    }

    /// The upgrade to a WebSocket on a route whose clients are judged by their first message. None: on another route,
    /// where an upgrade is a request like any other. Credentials are not looked at, but ambiguous ones are bad here too.
    pub fn guarded(&self, request: &AccessRequest<'_>) -> Option<Result<GuardedPermit, Denied>> {
        let AccessRequest { path, method, headers, query, .. } = request;
        let question = Question { path, method, query: *query };
        let entry = self.policy.entry(question).ok().flatten()?;
        if entry.route.websocket != WebSocketMode::FirstFrame || entry.route.rule == Rule::Deny {
            return None;
        }
        if Presented::read(headers, *query, &self.names).is_err() {
            return Some(Err(Denied::new(Reason::AmbiguousCredentials, Some(Arc::clone(&entry.route)))));
        }
        let query = query.map(|q| ForwardQuery::of(path, credentials::without(q, &self.names)));
        Some(Ok(GuardedPermit::on(entry, path.clone(), query)))
    }

    /// Whether a path that goes on as it was sent is the same to a server that resolves no dot segments.
    pub fn is_read_alike(&self, path: &CanonicalPath, method: &Method, query: Option<&str>) -> bool {
        self.policy.is_read_alike(Question { path, method, query })
    }

    /// Who presents these texts, of a WebSocket's first message.
    pub async fn introduced(
        &self,
        token: &str,
        key: Option<&str>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<Principal, Reason> {
        let presented = Presented::of_texts(token, key);
        self.authenticator.caller(&presented, client, now).await.map_err(|unknown| unknown.reason)
    }

    /// Whether a caller may open a WebSocket: what its upgrade, a GET, asks for.
    pub fn admits(
        &self,
        path: &CanonicalPath,
        query: Option<&str>,
        principal: &Principal,
    ) -> Result<(), Reason> {
        let question = Question { path, method: &Method::GET, query };
        let entry = self.policy.entry(question).map_err(|_| Reason::BadPath)?.ok_or(Reason::NoRoute)?;
        let granted = self.policy.grant(entry, question, caller_of(principal));
        granted.map(|_| ()).map_err(|refusal| refusal.reason)
    }

    /// The session that a request's credentials are of, for a logout: routes and permissions are not asked. A domain
    /// token has none.
    pub async fn session_of(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<(Arc<Session>, Judged), Reason> {
        let presented = Presented::read(headers, query, &self.names);
        let presented = presented.map_err(|Ambiguous| Reason::AmbiguousCredentials)?;
        let principal = self.authenticator.leaving(&presented, client, now).await.map_err(|u| u.reason)?;
        let credentials = Judged::of(&presented, &principal).ok_or(Reason::NoToken)?;
        match principal {
            Principal::Session(session) => Ok((session, credentials)),
            Principal::Domain(_) => Err(Reason::NoKey),
        }
    }

    /// What a caller holds, by resource: as the engine told it, else his role's.
    #[must_use]
    pub fn rights(&self, principal: &Principal) -> BTreeMap<String, Vec<&'static str>> {
        if let Some(listed) = principal.adopted().and_then(Adopted::listed) {
            let words = |held: PermissionSet| held.iter().map(Permission::as_str).collect();
            return listed.iter().map(|(name, held)| (name.to_owned(), words(held))).collect();
        }
        let resources = self.role(principal.role()).into_iter().flat_map(acl::Role::resources);
        resources.map(|(name, words)| (name.to_owned(), words.to_vec())).collect()
    }

    /// What a role holds, inherited resources merged in, and its number: for the login answer. None for a role
    /// that does not exist.
    #[must_use]
    pub fn role(&self, name: &RoleName) -> Option<&acl::Role> {
        self.policy.roles().get(name)
    }

    /// Which of the gateway's own paths this is.
    #[must_use]
    pub fn own_path(&self, path: &CanonicalPath) -> Option<OwnPath> {
        path.own(self.case_sensitive, &self.own_below)
    }

    /// What the route asks of a body, judged for its caller. A public route's caller has no rights to give.
    pub fn judge_body(&self, permit: &Permit, body: &[u8]) -> Result<(), BodyFault> {
        let roles = CallersRoles { policy: &self.policy, caller: permit.principal().map(caller_of) };
        permit.route().body.judge(body, &self.names, &roles)
    }

    /// The rules alone, for `explain` and `replay`.
    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// The roles of the configuration beside what a caller may do himself.
struct CallersRoles<'c> {
    policy: &'c Policy,
    caller: Option<Caller<'c>>,
}

impl body::Roles for CallersRoles<'_> {
    fn exists(&self, role: &str) -> bool {
        self.policy.roles().names().any(|name| name.as_str().to_lowercase() == role.to_lowercase())
    }

    fn is_within_callers(&self, role: &str) -> bool {
        self.caller.is_some_and(|caller| self.policy.may_give(caller, &RoleName::new(role)))
    }
}

fn caller_of(principal: &Principal) -> Caller<'_> {
    let listed = principal.adopted().and_then(Adopted::listed);
    Caller { user: Some(principal.user()), role: principal.role(), listed }
}
