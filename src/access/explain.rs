//! Why a request of some role would be allowed or refused: the decision of [`super::policy`], with what led to it.
//! Decides nothing itself.

use http::Method;
use serde::Serialize;
use std::collections::HashSet;

use super::acl::RoleSettings;
use super::credentials;
use super::path::CanonicalPath;
use super::permit::Scope;
use super::policy::{Caller, Grant, Policy, Question};
use super::routes::{Route, RouteSettings, Rule};
use super::{AccessSettings, Reason};
use crate::identity::{RoleName, UserName};
use crate::permission::Permission;

/// The request that is asked about.
#[derive(Clone, Copy)]
pub struct Asked<'a> {
    pub method: &'a Method,
    /// As a request line has it, with its query.
    pub target: &'a str,
    pub role: &'a RoleName,
    /// Own variants are of a user.
    pub user: Option<&'a UserName>,
}

/// The decision and its reasons.
#[derive(Debug, Serialize)]
pub struct Explanation {
    /// `allow` or `deny`, or `own` where the gateway answers itself.
    pub decision: &'static str,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub method: String,
    /// As it was asked about, less the credentials.
    pub path: String,
    /// What is judged and forwarded; none for a bad path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<ExplainedRoute>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Asked for, and held where the decision is `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<&'static str>,
    /// The caller's role and those that it inherits, nearest first.
    pub roles: Vec<String>,
    /// What granted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub granted_by: Option<GrantedBy>,
    /// What would have granted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// What the upstream is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'static str>,
}

#[derive(Debug, Serialize)]
pub struct ExplainedRoute {
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// `public`, `authenticated`, `deny` or `resource`.
    pub access: &'static str,
    pub file: String,
    pub line: usize,
}

/// The entry of a role's `allow` that decided.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct GrantedBy {
    pub role: String,
    pub resource: String,
    pub permission: &'static str,
}

/// Explains one request under a configuration; `policy` is its compiled form.
#[must_use]
pub fn explain(settings: &AccessSettings, policy: &Policy, asked: Asked<'_>) -> Explanation {
    let mut told = Explanation::begin(settings, asked);
    let path = match CanonicalPath::parse(asked.target) {
        Ok(path) => path,
        Err(bad) => {
            told.reason = Some(format!("{}: {bad}", Reason::BadPath.as_str()));
            return told;
        }
    };
    told.canonical = Some(path.as_str().to_owned());
    if let Some(own) = settings.own_path(&path) {
        told.decision = "own";
        told.reason = Some(format!("postern answers {} itself", own.as_str()));
        return told;
    }
    let question = Question { path: &path, method: asked.method, query: told.query.as_deref() };
    let judged = policy.judge(question, Caller { user: asked.user, role: asked.role, listed: None });
    match judged {
        Ok((route, grant)) => told.allowed(settings, &route, grant),
        Err(denied) => {
            told.reason = Some(denied.reason.as_str().to_owned());
            if let Some(route) = &denied.route {
                told.on(settings, route);
            }
            told.refused(denied.asked);
        }
    }
    told
}

impl Explanation {
    fn begin(settings: &AccessSettings, asked: Asked<'_>) -> Self {
        let target = asked.target.split('#').next().unwrap_or_default();
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| {
            // A target out of a log or a browser may hold a caller's credentials.
            let query = credentials::without(query, &settings.names).into_owned();
            (path, Some(query).filter(|query| !query.is_empty()))
        });
        Self {
            decision: "deny",
            reason: None,
            method: asked.method.to_string(),
            path: query.as_ref().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")),
            canonical: None,
            query,
            route: None,
            resource: None,
            permission: None,
            roles: chain(&settings.roles, asked.role).iter().map(|role| role.name.to_string()).collect(),
            granted_by: None,
            missing: None,
            scope: None,
        }
    }

    fn on(&mut self, settings: &AccessSettings, route: &Route) {
        let written = settings.routes.iter().find(|r| r.place == route.place && *r.path == *route.label);
        self.route = Some(ExplainedRoute::of(route, written));
        self.resource = route.resource().map(str::to_owned);
    }

    fn allowed(&mut self, settings: &AccessSettings, route: &Route, grant: Grant) {
        self.decision = "allow";
        self.on(settings, route);
        self.permission = grant.asked.map(Permission::as_str);
        self.scope = grant.scope.map(|scope| match scope {
            Scope::All => "all",
            Scope::Own => "own",
        });
        if let (Some(resource), Some(asked)) = (route.resource(), grant.asked) {
            let roles: Vec<_> = self.roles.iter().map(|name| RoleName::new(name)).collect();
            self.granted_by = granted_by(&settings.roles, &roles, (resource, asked));
        }
    }

    fn refused(&mut self, asked: Option<Permission>) {
        self.permission = asked.map(Permission::as_str);
        self.missing = self.resource.as_ref().zip(self.permission).map(|(resource, permission)| {
            let any = if permission == "*" { String::new() } else { " or *".to_owned() };
            format!("{permission}{any} on {resource}")
        });
    }
}

impl ExplainedRoute {
    fn of(route: &Route, written: Option<&RouteSettings>) -> Self {
        let methods = written.and_then(|written| written.methods.as_ref());
        Self {
            path: route.label.to_string(),
            methods: methods.map(|methods| methods.iter().map(ToString::to_string).collect()),
            access: match &route.rule {
                Rule::Public => "public",
                Rule::Authenticated => "authenticated",
                Rule::Deny => "deny",
                Rule::Resource { .. } => "resource",
            },
            file: route.place.file.to_string(),
            line: route.place.line,
        }
    }
}

/// A role and those that it inherits, nearest first, each once.
fn chain<'r>(roles: &'r [RoleSettings], name: &RoleName) -> Vec<&'r RoleSettings> {
    let find = |name: &RoleName| roles.iter().find(|role| role.name == *name);
    let (mut found, mut seen, mut at) = (Vec::from_iter(find(name)), HashSet::from([name.clone()]), 0);
    while let Some(role) = found.get(at).copied() {
        let next = role.inherits.iter().filter(|inherited| seen.insert((*inherited).clone()));
        found.extend(next.filter_map(find).collect::<Vec<_>>());
        at += 1;
    }
    found
}

/// The nearest role whose own entries hold the permission or `*`.
fn granted_by(
    roles: &[RoleSettings],
    chain: &[RoleName],
    (resource, asked): (&str, Permission),
) -> Option<GrantedBy> {
    let of_role = |name: &RoleName| {
        let role = roles.iter().find(|role| role.name == *name)?;
        let held = role.allow.iter().filter(|(on, _)| on == resource).flat_map(|(_, held)| held);
        let by = held.copied().find(|held| *held == asked || *held == Permission::All)?;
        Some(GrantedBy { role: name.to_string(), resource: resource.to_owned(), permission: by.as_str() })
    };
    chain.iter().find_map(of_role)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::credentials::CredentialNames;
    use crate::access::routes::Own;
    use crate::access::samples::route;

    fn settings() -> AccessSettings {
        let on = |path: &str, resource: &str, own| {
            let rule = Rule::Resource { name: resource.into(), permission: None, own };
            RouteSettings { rule, ..route(path) }
        };
        let role = |name: &str, inherits: &[&str], allow: &[(&str, &[Permission])]| RoleSettings {
            name: RoleName::new(name),
            number: None,
            inherits: inherits.iter().map(|name| RoleName::new(name)).collect(),
            allow: allow.iter().map(|(on, held)| ((*on).to_owned(), held.to_vec())).collect(),
        };
        AccessSettings {
            routes: vec![
                on("/cdr", "cdr", Own::Never),
                on("/own/{user}", "account", Own::UserCaller),
                RouteSettings { rule: Rule::Public, ..route("/public") },
                RouteSettings { rule: Rule::Deny, ..route("/closed") },
            ],
            roles: vec![
                role("admin", &["user", "other"], &[("vault", &[Permission::All])]),
                role("user", &["base"], &[("account", &[Permission::UpdateOwn])]),
                role("other", &["base", "admin"], &[]),
                role("base", &[], &[("cdr", &[Permission::Read])]),
            ],
            names: CredentialNames::default(),
            case_sensitive: false,
            own_below: Vec::new(),
        }
    }

    fn told(role: &str, method: &str, target: &str) -> Explanation {
        let settings = settings();
        let policy = Policy::new(&settings.routes, &settings.roles, false);
        let (method, role) = (Method::from_bytes(method.as_bytes()).unwrap(), RoleName::new(role));
        let user = UserName::new("7@d");
        explain(&settings, &policy, Asked { method: &method, target, role: &role, user: Some(&user) })
    }

    #[test]
    fn credentials_are_not_said_again() {
        for (target, path, query) in [
            ("/cdr/7?a=1&access_token=secret&x_key[]=secret#secret", "/cdr/7?a=1", Some("a=1")),
            ("/cdr/7?%61ccess_token=secret", "/cdr/7", None),
            ("/cdr/7", "/cdr/7", None),
        ] {
            let told = told("low", "GET", target);
            assert_eq!((told.path.as_str(), told.query.as_deref()), (path, query), "{target}");
        }
    }

    #[test]
    fn a_grant_names_the_role_that_holds_it_and_the_chain_to_it() {
        let told = told("admin", "GET", "/CDR//./x?a=1");
        assert_eq!((told.decision, told.canonical.as_deref()), ("allow", Some("/CDR/x")));
        assert_eq!(told.roles, ["admin", "user", "other", "base"]);
        let by = GrantedBy { role: "base".into(), resource: "cdr".into(), permission: "r" };
        assert_eq!((told.granted_by, told.scope, told.permission), (Some(by), Some("all"), Some("r")));
        assert_eq!(told.route.unwrap().path, "/cdr");
    }

    #[test]
    fn a_refusal_names_what_was_missing() {
        let told = told("base", "POST", "/cdr");
        assert_eq!((told.decision, told.reason.as_deref()), ("deny", Some("no_permission")));
        assert_eq!(told.missing.as_deref(), Some("c or * on cdr"));
    }

    #[test]
    fn own_variants_are_of_the_user() {
        let mine = told("user", "PUT", "/own/7");
        assert_eq!((mine.decision, mine.scope, mine.permission), ("allow", Some("own"), Some("uo")));
        let other = told("user", "PUT", "/own/8");
        assert_eq!((other.decision, other.missing.as_deref()), ("deny", Some("u or * on account")));
    }

    #[test]
    fn what_no_permission_decides_is_told_too() {
        for (target, decision, reason) in [
            ("/public/x", "allow", None),
            ("/closed", "deny", Some("deny_route")),
            ("/nothing", "deny", Some("no_route")),
            ("/public/%2e%2e/x", "deny", Some("bad_path: ")),
            ("/LOGIN/", "own", Some("postern answers /login")),
        ] {
            let told = told("ghost", "GET", target);
            assert_eq!(told.decision, decision, "{target}");
            let said = told.reason.as_deref();
            assert!(said.zip(reason).is_none_or(|(said, reason)| said.starts_with(reason)), "{said:?}");
            assert_eq!(said.is_some(), reason.is_some(), "{target}");
        }
    }
}
