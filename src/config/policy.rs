//! Routes, roles, users, domain tokens: who may do what, and where it goes.

use http::{HeaderName, Method};
use std::collections::HashMap;

use super::files::Files;
use super::table::{Faults, Table};
use super::tree::{Node, Origin, Value};
use super::{Fault, Unsupported};
use crate::access::acl::{self, Permission, RoleSettings};
use crate::access::credentials::CredentialNames;
use crate::access::route_tree;
use crate::access::routes::{
    self, BodyCredentials, Own, RouteSettings, Rule, Target, UpstreamId, WebSocketMode,
};
use crate::clock::UnixMillis;
use crate::directory::file::User;
use crate::directory::password::Stored;
use crate::directory::totp;
use crate::identity::{RoleName, UserName};
use crate::session::token::DomainToken;

/// Where roles are written, for references to them.
pub(super) struct RoleNames(pub(super) Vec<String>);

impl RoleNames {
    fn check(&self, key: &str, name: &str, origin: &Origin, faults: &mut Faults) {
        if !self.0.iter().any(|known| known == name) {
            faults.push(
                origin.fault(key, format!("there is no role \"{name}\"; there are {}", self.0.join(", "))),
            );
        }
    }

    fn take(&self, table: &mut Table, faults: &mut Faults) -> Option<RoleName> {
        let had = table.has("role");
        let read = table.parsed("role", faults, |text, origin| Ok((text.to_owned(), origin.clone())));
        let (name, origin) = table.required(read, had, "role", faults)?;
        self.check(&table.key("role"), &name, &origin, faults);
        Some(RoleName::new(&name))
    }
}

pub(super) fn roles(table: Option<Table>, faults: &mut Faults) -> (Vec<RoleSettings>, RoleNames) {
    let named = table.map(|table| table.named(faults)).unwrap_or_default();
    let names = RoleNames(named.iter().map(|(name, _)| name.clone()).collect());
    let mut settings = Vec::new();
    let mut places = HashMap::new();
    for (name, mut table) in named {
        let number = table.has("number").then(|| table.number("number", -1i64, faults));
        let inherits = table.texts("inherits", faults).unwrap_or_default();
        for (parent, origin) in &inherits {
            names.check(&table.key("inherits"), parent, origin, faults);
            places.insert(name.clone(), (table.key("inherits"), origin.clone()));
        }
        let allow = table.table("allow", faults).map(|allow| grants(allow, faults)).unwrap_or_default();
        table.finish(faults);
        let inherits = inherits.iter().map(|(parent, _)| RoleName::new(parent)).collect();
        settings.push(RoleSettings { name: RoleName::new(&name), number, inherits, allow });
    }
    for name in acl::cycles(&settings) {
        if let Some((key, origin)) = places.get(name.as_str()) {
            faults.push(origin.fault(key, format!("role \"{name}\" inherits from itself; break the circle")));
        }
    }
    (settings, names)
}

fn grants(mut allow: Table, faults: &mut Faults) -> Vec<(String, Vec<Permission>)> {
    let mut grants = Vec::new();
    for resource in allow.names() {
        let mut permissions = Vec::new();
        for (text, origin) in allow.texts(&resource, faults).unwrap_or_default() {
            match Permission::parse(&text) {
                Some(permission) => permissions.push(permission),
                None => faults.push(origin.fault(
                    &allow.key(&resource),
                    format!("\"{text}\" is no permission; there are *, c, r, u, d and the own variants co, ro, uo, do"),
                )),
            }
        }
        grants.push((resource, permissions));
    }
    grants
}

pub(super) fn users(
    table: Option<Table>,
    roles: &RoleNames,
    files: &mut Files,
    faults: &mut Faults,
) -> Vec<User> {
    let named = table.map(|table| table.named(faults)).unwrap_or_default();
    named.into_iter().filter_map(|(name, table)| user(&name, table, roles, files, faults)).collect()
}

fn user(
    name: &str,
    mut table: Table,
    roles: &RoleNames,
    files: &mut Files,
    faults: &mut Faults,
) -> Option<User> {
    let had = table.has("password") || table.has("a1");
    let both = table.has("password") && table.has("a1");
    let password = table.parsed("password", faults, |text, _| Stored::parse(text));
    let a1 = table.parsed("a1", faults, |text, _| Stored::parse_a1(text));
    if both {
        faults.push(table.origin.fault(&table.key("a1"), "stands beside password; keep one of them"));
    }
    let password = table.required(password.or(a1), had, "password", faults);
    let role = roles.take(&mut table, faults);
    let totp = table.parsed("totp_secret_file", faults, |text, origin| {
        use crate::secret::ExposeSecret;
        let secret = files.secret_text("totp_secret_file", text, origin)?;
        totp::secret(secret.expose_secret())
    });
    if name.is_empty() {
        faults.push(table.origin.fault("users", "a user without a name"));
    }
    table.finish(faults);
    Some(User { name: UserName::new(name), password: password?, role: role?, totp })
}

pub(super) fn domain_tokens(
    table: Option<Table>,
    roles: &RoleNames,
    faults: &mut Faults,
) -> Vec<DomainToken> {
    let named = table.map(|table| table.named(faults)).unwrap_or_default();
    let mut tokens = Vec::new();
    for (id, mut table) in named {
        let had = (table.has("domain"), table.has("expires"));
        let domain = table.text("domain", faults);
        let domain = table.required(domain, had.0, "domain", faults);
        let role = roles.take(&mut table, faults);
        let expires = table.take("expires").and_then(|node| time(&node, faults));
        let expires = table.required(expires, had.1, "expires", faults);
        let enabled = table.bool("enabled", true, faults);
        table.finish(faults);
        if let (Some(domain), Some(role), Some(expires)) = (domain, role, expires) {
            tokens.push(DomainToken { id, domain, role, expires, enabled });
        }
    }
    tokens
}

fn time(node: &Node, faults: &mut Faults) -> Option<UnixMillis> {
    let (Value::Time(text) | Value::Text(text)) = &node.value else {
        faults.push(node.origin.fault("expires", "must be a time as 2027-01-01T00:00:00Z"));
        return None;
    };
    let parsed = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    if parsed.is_none() {
        faults.push(node.origin.fault("expires", "must be a time with its zone, as 2027-01-01T00:00:00Z"));
    }
    parsed.map(UnixMillis)
}

pub(super) fn names(table: Option<Table>, faults: &mut Faults) -> CredentialNames {
    let mut names = CredentialNames::default();
    let Some(mut table) = table else { return names };
    for (key, list) in [("token_headers", &mut names.token_headers), ("key_headers", &mut names.key_headers)]
    {
        let Some(texts) = table.texts(key, faults) else { continue };
        list.clear();
        for (text, origin) in texts {
            match text.parse::<HeaderName>() {
                Ok(name) => list.push(name),
                Err(_) => faults.push(origin.fault(&table.key(key), format!("\"{text}\" is no header name"))),
            }
        }
    }
    for (key, list) in [("token_query", &mut names.token_query), ("key_query", &mut names.key_query)] {
        if let Some(texts) = table.texts(key, faults) {
            *list = texts.into_iter().map(|(text, _)| text).collect();
        }
    }
    table.finish(faults);
    names
}

/// Routes, in the order of the files.
pub(super) fn routes(
    node: Option<Node>,
    upstreams: &[String],
    case_sensitive: bool,
    faults: &mut Faults,
    later: &mut Unsupported,
) -> Vec<RouteSettings> {
    let Some(node) = node else { return Vec::new() };
    let Value::List(items) = node.value else {
        faults.push(node.origin.fault("routes", "must be written as [[routes]]"));
        return Vec::new();
    };
    let mut settings = Vec::new();
    for item in items {
        match item.value {
            Value::Table(entries) => {
                settings.extend(route(Table::new(entries, item.origin, "routes"), upstreams, faults, later))
            }
            other => {
                faults.push(item.origin.fault("routes", format!("must be a table, not {}", other.kind())))
            }
        }
    }
    for conflict in route_tree::conflicts(&settings, case_sensitive) {
        let first = format!("{}:{}", conflict.first.file, conflict.first.line);
        let what = format!(
            "\"{}\" cannot be told apart from the route at {first}; give one of them methods or a query",
            conflict.path
        );
        faults.push(Fault { place: Some(conflict.second), key: "routes.path".into(), what });
    }
    settings
}

fn route(
    mut table: Table,
    upstreams: &[String],
    faults: &mut Faults,
    later: &mut Unsupported,
) -> Option<RouteSettings> {
    let had = table.has("path");
    let path = table.parsed("path", faults, |text, origin| {
        routes::check_path(text).map(|()| (text.to_owned(), origin.place()))
    });
    let path = table.required(path, had, "path", faults);
    let rule = rule(&mut table, path.as_ref().map(|(path, _)| path.as_str()), faults);
    let methods = methods(&mut table, faults);
    let query = query(&mut table, faults);
    let strip = path.as_ref().map(|(path, _)| path.clone()).unwrap_or_default();
    let strip_prefix = table.parsed("strip_prefix", faults, |text, _| {
        routes::check_strip_prefix(&strip, text).map(|()| text.to_owned())
    });
    later.note_word(&table, "websocket", "first_frame");
    let modes = [
        ("credentials", WebSocketMode::Credentials),
        ("first_frame", WebSocketMode::FirstFrame),
        ("deny", WebSocketMode::Deny),
    ];
    let websocket = table.word("websocket", &modes, WebSocketMode::Credentials, faults);
    let encoded_slash = table.bool("encoded_slash", false, faults);
    later.note_word(&table, "body_credentials", "reject");
    let kinds = [("ignore", BodyCredentials::Ignore), ("reject", BodyCredentials::Reject)];
    let body_credentials = table.word("body_credentials", &kinds, BodyCredentials::Ignore, faults);
    let target = target(&mut table, upstreams, rule.as_ref(), faults, later);
    table.finish(faults);
    let (path, place) = path?;
    let strip_prefix = strip_prefix.unwrap_or_default();
    Some(RouteSettings {
        path,
        methods,
        query,
        rule: rule?,
        strip_prefix,
        websocket,
        encoded_slash,
        body_credentials,
        target: target?,
        place,
    })
}

fn rule(table: &mut Table, path: Option<&str>, faults: &mut Faults) -> Option<Rule> {
    let access = [("public", Rule::Public), ("authenticated", Rule::Authenticated), ("deny", Rule::Deny)];
    let had = (table.has("access"), table.has("resource"));
    let read = |text: &str, _: &Origin| {
        let found = access.iter().find(|(word, _)| *word == text).map(|(_, rule)| rule.clone());
        found.ok_or_else(|| {
            format!("\"{text}\" is unknown; it must be \"public\", \"authenticated\" or \"deny\"")
        })
    };
    let access = table.parsed("access", faults, read);
    let resource = table.text("resource", faults);
    let permission = table.parsed("permission", faults, |text, _| match Permission::parse(text) {
        Some(
            p @ (Permission::All
            | Permission::Create
            | Permission::Read
            | Permission::Update
            | Permission::Delete),
        ) => Ok(p),
        _ => Err(format!("\"{text}\" is no permission to ask for; there are c, r, u, d and *")),
    });
    let owns = [
        ("user@query", Own::UserQuery),
        ("user@caller", Own::UserCaller),
        ("domain", Own::Domain),
        ("fallback", Own::Fallback),
    ];
    let had_own = table.has("own");
    let own = table.word("own", &owns, Own::Never, faults);
    let mut tell = |key: &str, what: &str| faults.push(table.origin.fault(&table.key(key), what));
    if matches!(own, Own::UserQuery | Own::UserCaller)
        && !path.is_some_and(|path| routes::has_placeholder(path, "user"))
    {
        tell("own", "needs {user} as a segment of the path");
    }
    match had {
        (true, true) => tell("resource", "stands beside access; keep one of them"),
        (false, false) => tell(
            "resource",
            "is missing; name a resource, or access = \"public\", \"authenticated\" or \"deny\"",
        ),
        (true, false) if permission.is_some() => tell("permission", "asks for nothing without a resource"),
        (true, false) if had_own => tell("own", "asks for nothing without a resource"),
        (true, false) | (false, true) => {}
    }
    access.or_else(|| resource.map(|name| Rule::Resource { name, permission, own }))
}

fn methods(table: &mut Table, faults: &mut Faults) -> Option<Vec<Method>> {
    let texts = table.texts("methods", faults)?;
    if texts.is_empty() {
        faults.push(table.origin.fault(&table.key("methods"), "is empty; leave it out for all methods"));
    }
    let mut methods = Vec::new();
    for (text, origin) in texts {
        match Method::from_bytes(text.as_bytes()) {
            Ok(method) => methods.push(method),
            Err(_) => faults.push(origin.fault(&table.key("methods"), format!("\"{text}\" is no method"))),
        }
    }
    Some(methods)
}

fn query(table: &mut Table, faults: &mut Faults) -> Vec<(String, Vec<String>)> {
    let Some(mut query) = table.table("query", faults) else { return Vec::new() };
    let names = query.names();
    let texts =
        |query: &mut Table, name: &str, faults: &mut Faults| query.texts(name, faults).unwrap_or_default();
    names
        .into_iter()
        .map(|name| {
            (name.clone(), texts(&mut query, &name, faults).into_iter().map(|(text, _)| text).collect())
        })
        .collect()
}

fn target(
    table: &mut Table,
    upstreams: &[String],
    rule: Option<&Rule>,
    faults: &mut Faults,
    later: &mut Unsupported,
) -> Option<Target> {
    later.note_key(table, "answer");
    let had = table.has("upstream");
    let answer = table.has("answer");
    table.word("answer", &[("whoami", ())], (), faults);
    let upstream = table.parsed("upstream", faults, |text, _| {
        let at = upstreams.iter().position(|name| name == text);
        at.map(UpstreamId)
            .ok_or_else(|| format!("there is no upstream \"{text}\"; there are {}", upstreams.join(", ")))
    });
    match (upstream, answer, rule) {
        (Some(id), _, _) => Some(Target::Upstream(id)),
        (None, true, _) => Some(Target::Whoami),
        (None, false, Some(Rule::Deny)) => Some(Target::Nowhere),
        (None, false, _) => table.required(None, had, "upstream", faults),
    }
}
