//! The rules of one configuration, asked without sessions: which route a request has, and whether a caller of some
//! role is granted what the route asks. Pure: `decide` puts the session in, `explain` and `replay` a role.

use http::Method;
use std::sync::Arc;

use super::acl::{ResourceId, RoleSettings, Roles};
use super::path::{BadPath, CanonicalPath, ENCODED_SLASH};
use super::permit::Scope;
use super::query;
use super::route_tree::{Entry, RouteTree};
use super::routes::{Own, Route, RouteSettings, Rule};
use super::{Denied, Reason};
use crate::identity::{RoleName, UserName};
use crate::permission::{Acl, Permission};

/// Compiled routes and roles.
pub struct Policy {
    routes: RouteTree,
    roles: Roles,
    /// Each route's resource, by the route's number. None: no role is allowed anything there.
    resources: Vec<Option<ResourceId>>,
}

/// What the rules look at of a request.
#[derive(Clone, Copy)]
pub struct Question<'q> {
    pub path: &'q CanonicalPath,
    pub method: &'q Method,
    pub query: Option<&'q str>,
}

/// What the rules look at of a caller. Without a user no own variant is asked but by `fallback`.
#[derive(Clone, Copy)]
pub struct Caller<'c> {
    pub user: Option<&'c UserName>,
    pub role: &'c RoleName,
    /// Rights that were told whole; none: those of the role.
    pub listed: Option<&'c Acl>,
}

impl<'c> Caller<'c> {
    /// Of whom no more is known than his role.
    #[must_use]
    pub fn of_role(role: &'c RoleName) -> Self {
        Self { user: None, role, listed: None }
    }
}

/// What granted a request; both none where the route asks for no permission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The permission that was asked and is held, by itself or by `*`.
    pub asked: Option<Permission>,
    pub scope: Option<Scope>,
}

impl Policy {
    /// Compiles routes, which `config` has found free of conflicts, and roles.
    #[must_use]
    pub fn new(routes: &[RouteSettings], roles: &[RoleSettings], case_sensitive: bool) -> Self {
        let roles = Roles::new(roles);
        let resource = |r: &RouteSettings| match &r.rule {
            Rule::Resource { name, .. } => roles.resource(name),
            Rule::Public | Rule::Authenticated | Rule::Deny => None,
        };
        let resources = routes.iter().map(resource).collect();
        Self { routes: RouteTree::new(routes, case_sensitive), roles, resources }
    }

    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// The whole judgement of a caller of whom only this is known. A public route grants, whoever calls.
    pub fn judge(&self, question: Question<'_>, caller: Caller<'_>) -> Result<(Arc<Route>, Grant), Denied> {
        let entry = match self.entry(question) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(Denied::new(Reason::NoRoute, None)),
            Err(_) => return Err(Denied::new(Reason::BadPath, None)),
        };
        let route = Arc::clone(&entry.route);
        if route.rule == Rule::Public {
            return Ok((route, Grant::default()));
        }
        match self.grant(entry, question, caller) {
            Ok(grant) => Ok((route, grant)),
            Err(refusal) => Err(Denied { asked: refusal.asked, ..Denied::new(refusal.reason, Some(route)) }),
        }
    }

    /// The route of a request. A path with an encoded slash is bad on a route that does not let it through, and where
    /// there is no route.
    pub(super) fn entry(&self, question: Question<'_>) -> Result<Option<&Entry>, BadPath> {
        let Question { path, method, query } = question;
        let found = self.routes.entry(path, method, query)?;
        if path.has_encoded_slash() && !found.is_some_and(|entry| entry.route.encoded_slash) {
            return Err(ENCODED_SLASH);
        }
        Ok(found)
    }

    /// Whether the path finds the same route, and means the same there, where dot segments are not resolved. Asked of a
    /// path that goes on as it was sent.
    pub(super) fn is_read_alike(&self, question: Question<'_>) -> bool {
        let Some(kept) = question.path.with_dots_kept() else { return true };
        match (self.entry(question), self.entry(Question { path: &kept, ..question })) {
            (Ok(Some(one)), Ok(Some(other))) => one.number == other.number && !one.names_a_user(),
            _ => false,
        }
    }

    /// Whether a role is known and may do nothing that the caller may not: he may give it to others.
    #[must_use]
    pub fn may_give(&self, caller: Caller<'_>, role: &RoleName) -> bool {
        let own = self.roles.get(caller.role);
        let held = |resource: &str| match caller.listed {
            Some(acl) => acl.held(resource),
            None => own.map(|own| own.held(resource)).unwrap_or_default(),
        };
        let given = self.roles.get(role);
        given.is_some_and(|given| {
            given.resources().all(|(resource, _)| given.held(resource).is_within(held(resource)))
        })
    }

    /// Whether the route lets an authenticated caller through.
    pub(super) fn grant(
        &self,
        entry: &Entry,
        question: Question<'_>,
        caller: Caller<'_>,
    ) -> Result<Grant, Refusal> {
        let (name, permission, own) = match &entry.route.rule {
            Rule::Public | Rule::Authenticated => return Ok(Grant::default()),
            Rule::Deny => return Err(Refusal { reason: Reason::DenyRoute, asked: None }),
            Rule::Resource { name, permission, own } => (name, *permission, *own),
        };
        let plain = permission.unwrap_or_else(|| Permission::of_method(question.method));
        let [first, second] = asked(plain, own, || owns(own, entry, question, caller.user));
        let refused = Refusal { reason: Reason::NoPermission, asked: first };
        let resource = self.resources.get(entry.number).copied().flatten();
        let role = self.roles.get(caller.role);
        let holds = |permission| match (caller.listed, role, resource) {
            (Some(acl), ..) => acl.holds(permission, name),
            (None, Some(role), Some(on)) => role.holds(permission, on),
            (None, ..) => false,
        };
        let all = holds(Permission::All);
        let held = [first, second].into_iter().flatten().find(|p| all || holds(*p)).ok_or(refused)?;
        let scope = if all || !held.is_own() { Scope::All } else { Scope::Own };
        Ok(Grant { asked: Some(held), scope: Some(scope) })
    }
}

/// Why the rules refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) asked: Option<Permission>,
}

/// The permissions that are asked, in order. A permission without an own variant (`*`) is asked as it is.
fn asked(plain: Permission, own: Own, owns: impl Fn() -> bool) -> [Option<Permission>; 2] {
    match own {
        Own::Never => [Some(plain), None],
        Own::Fallback => [Some(plain), plain.own()],
        Own::UserQuery | Own::UserCaller | Own::Domain if owns() => {
            [Some(plain.own().unwrap_or(plain)), None]
        }
        Own::UserQuery | Own::UserCaller | Own::Domain => [Some(plain), None],
    }
}

/// Whether the own variant is asked instead of the plain one. User names are compared with their letter case.
fn owns(own: Own, entry: &Entry, question: Question<'_>, caller: Option<&UserName>) -> bool {
    let Some(caller) = caller else { return false };
    let user = entry.user(question.path).unwrap_or_default();
    match own {
        Own::Never | Own::Fallback => false,
        Own::Domain => caller.domain().is_some(),
        Own::UserCaller => caller.domain().is_some_and(|domain| is_user(caller, user, domain.bytes())),
        Own::UserQuery => query::only(question.query, "domain")
            .is_some_and(|domain| is_user(caller, user, query::decoded(domain))),
    }
}

/// Whether `user` (as it is in the path, percent-encoded) `@` `domain` is the caller's full name.
fn is_user(caller: &UserName, user: &str, domain: impl Iterator<Item = u8>) -> bool {
    let user = percent_encoding::percent_decode_str(user);
    user.chain(std::iter::once(b'@')).chain(domain).eq(caller.as_str().bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::samples::route;
    use Permission::{All, Create, Delete, DeleteOwn, Read, ReadOwn, Update, UpdateOwn};

    fn policy() -> Policy {
        let on = |path: &str, permission, own| {
            let rule = Rule::Resource { name: "account".into(), permission, own };
            RouteSettings { rule, ..route(path) }
        };
        let open = |path: &str, rule| RouteSettings { rule, ..route(path) };
        let routes = [
            on("/never", None, Own::Never),
            on("/caller/{user}", None, Own::UserCaller),
            on("/query/{user}", None, Own::UserQuery),
            on("/domain", None, Own::Domain),
            on("/fallback", None, Own::Fallback),
            on("/override", Some(Read), Own::Never),
            open("/me", Rule::Authenticated),
            open("/public", Rule::Public),
            open("/closed", Rule::Deny),
            RouteSettings { encoded_slash: true, ..open("/enc", Rule::Authenticated) },
            RouteSettings {
                rule: Rule::Resource { name: "nobody's".into(), permission: None, own: Own::Never },
                ..route("/x")
            },
        ];
        let role = |name: &str, held: &[Permission]| RoleSettings {
            name: RoleName::new(name),
            number: None,
            inherits: Vec::new(),
            allow: vec![("account".into(), held.to_vec())],
        };
        let roles = [
            role("own", &[ReadOwn, UpdateOwn, DeleteOwn]),
            role("plain", &[Create, Read, Update]),
            role("both", &[Read, ReadOwn]),
            role("star", &[All]),
            role("none", &[]),
        ];
        Policy::new(&routes, &roles, false)
    }

    /// `own@example.org GET /path`: the caller's local part is his role.
    fn judge(ask: &str) -> Result<Grant, (Reason, Option<Permission>)> {
        let [caller, method, target] = ask.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let user = UserName::new(caller);
        let role = RoleName::new(user.local());
        let path = CanonicalPath::parse(target).map_err(|_| (Reason::BadPath, None))?;
        let (method, query) = (method.parse().unwrap(), path.sent().query());
        let question = Question { path: &path, method: &method, query };
        let judged = policy().judge(question, Caller { user: Some(&user), role: &role, listed: None });
        judged.map(|(_, grant)| grant).map_err(|d| (d.reason, d.asked))
    }

    fn all(asked: Permission) -> Result<Grant, (Reason, Option<Permission>)> {
        Ok(Grant { asked: Some(asked), scope: Some(Scope::All) })
    }

    fn own(asked: Permission) -> Result<Grant, (Reason, Option<Permission>)> {
        Ok(Grant { asked: Some(asked), scope: Some(Scope::Own) })
    }

    fn lacks(asked: Permission) -> Result<Grant, (Reason, Option<Permission>)> {
        Err((Reason::NoPermission, Some(asked)))
    }

    #[test]
    fn a_permission_is_held_exactly_or_by_star() {
        assert_eq!(judge("plain@d GET /never"), all(Read));
        assert_eq!(judge("plain@d DELETE /never"), lacks(Delete));
        assert_eq!(judge("plain@d OPTIONS /never"), lacks(All));
        assert_eq!(judge("star@d OPTIONS /never"), all(All));
        assert_eq!(judge("star@d FOO /never/x"), all(All));
        assert_eq!(judge("own@d GET /never"), lacks(Read));
        assert_eq!(judge("none@d GET /never"), lacks(Read));
        assert_eq!(judge("ghost@d GET /never"), lacks(Read));
        assert_eq!(judge("star@d GET /x"), lacks(Read), "a resource that no role names");
        assert_eq!(judge("both@d POST /override"), all(Read));
    }

    #[test]
    fn rules_without_a_resource_need_no_permission() {
        assert_eq!(judge("none@d DELETE /me/x"), Ok(Grant::default()));
        assert_eq!(judge("none@d DELETE /public/x"), Ok(Grant::default()));
        assert_eq!(judge("star@d GET /closed"), Err((Reason::DenyRoute, None)));
        assert_eq!(judge("star@d GET /nothing"), Err((Reason::NoRoute, None)));
    }

    #[test]
    fn own_by_the_callers_domain_is_asked_instead() {
        for path in ["/caller/own", "/caller/own/x", "/caller/%6fwn/", "/Caller/own?domain=other"] {
            assert_eq!(judge(&format!("own@example.org GET {path}")), own(ReadOwn), "{path}");
        }
        for path in [
            "/caller/OWN",
            "/caller/own2",
            "/caller/own@example.org",
            "/caller/own%40example.org",
            "/caller/*",
            "/caller/own%20",
        ] {
            assert_eq!(judge(&format!("own@example.org GET {path}")), lacks(Read), "{path}");
        }
        assert_eq!(judge("own@example.org POST /caller/own"), lacks(Permission::CreateOwn));
        assert_eq!(judge("plain@example.org GET /caller/plain"), lacks(ReadOwn));
        assert_eq!(judge("plain@example.org GET /caller/own"), all(Read));
        assert_eq!(judge("both GET /caller/both"), all(Read), "a caller without a domain owns nothing");
        assert_eq!(judge("star@d OPTIONS /caller/star"), all(All));
        assert_eq!(judge("star@d GET /caller/star"), all(ReadOwn), "granted by `*`: scope all");
    }

    #[test]
    fn own_by_the_query_needs_the_domain_once() {
        for query in ["domain=example.org", "a=1&domain=example%2Eorg&b"] {
            assert_eq!(judge(&format!("own@example.org PUT /query/own?{query}")), own(UpdateOwn), "{query}");
        }
        for query in [
            "",
            "domain=",
            "domain=other",
            "Domain=example.org",
            "domain=EXAMPLE.org",
            "domain=example.org&domain=example.org",
            "domain=example.org&domain=other",
            "domain=example.org+",
            "domain[]=example.org",
        ] {
            assert_eq!(judge(&format!("own@example.org PUT /query/own?{query}")), lacks(Update), "{query}");
        }
        assert_eq!(judge("plain@d PUT /query/plain?domain=d"), lacks(UpdateOwn));
        assert_eq!(judge("plain@d PUT /query/plain"), all(Update));
    }

    #[test]
    fn own_by_domain_and_by_fallback() {
        assert_eq!(judge("own@d GET /domain"), own(ReadOwn));
        assert_eq!(judge("plain@d GET /domain"), lacks(ReadOwn));
        assert_eq!(judge("plain GET /domain"), all(Read));
        assert_eq!(judge("own@d GET /fallback"), own(ReadOwn));
        assert_eq!(judge("both@d GET /fallback"), all(Read));
        assert_eq!(judge("plain@d GET /fallback"), all(Read));
        assert_eq!(judge("own@d POST /fallback"), lacks(Create));
        assert_eq!(judge("own@d OPTIONS /fallback"), lacks(All));
    }

    #[test]
    fn an_encoded_slash_passes_on_its_routes_only() {
        assert_eq!(judge("none@d GET /enc/a%2Fb"), Ok(Grant::default()));
        for path in
            ["/me/a%2Fb", "/nothing%2Fx", "/enc%2Fa", "/public/a%2fb", "/closed/a%2fb", "/enc/a%2F..%2Fb"]
        {
            assert_eq!(judge(&format!("star@d GET {path}")), Err((Reason::BadPath, None)), "{path}");
        }
    }

    fn table() -> Policy {
        let open = |path: &str, rule| RouteSettings { rule, ..route(path) };
        let routes = [
            open("/me", Rule::Authenticated),
            open("/closed", Rule::Deny),
            open("/of/{user}", Rule::Authenticated),
        ];
        Policy::new(&routes, &[], false)
    }

    #[test]
    fn a_path_that_goes_on_as_it_was_sent_has_one_route() {
        let is_read_alike = |target: &str| {
            let path = CanonicalPath::parse(target).unwrap();
            table().is_read_alike(Question { path: &path, method: &Method::GET, query: None })
        };
        for target in [
            "/me",
            "/me/x",
            "//me///x",
            "/%6de",
            "/me/./x",
            "/me/x/../y",
            "/ME/.",
            "/nowhere",
            "/of/a",
            "/me/a..b/.c",
            "/me/../ME/x/../../closed/../me",
        ] {
            assert!(is_read_alike(target), "{target}");
        }
        for target in ["/closed/../me", "/x/../me", "/./me", "/me/../closed", "/of/a/../b", "/nowhere/."] {
            assert!(!is_read_alike(target), "{target}");
        }
    }
}
