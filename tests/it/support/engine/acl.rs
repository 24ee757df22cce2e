//! The engine's roles: the built-in ones, and two that an operator made.

use std::collections::{BTreeMap, HashMap};

use super::Role;

const USER: &str = "account r uo; acl/roles r; blacklist c u r; channels *; vmail ro; cdr ro; cdr/files ro; cc/tiers r; \
    metadata r; hotdesk *; kibana r";

const ADMIN: &str = "blacklist calendar rotes/default rotes/public rotes/extension rotes/domain channels cc/tiers cc/members \
    cc/queue dialer dialer/members dialer/templates hook vmail cdr cdr/files cdr/media gateway domain/item account widget \
    callback callback/members metadata hotdesk kibana";

const ROOT: &str = "acl/roles acl/resource gateway/profile domain system/reload license";

pub(super) fn roles() -> HashMap<String, Role> {
    let all =
        |names: &str| names.split_whitespace().map(|name| (name.to_owned(), vec!["*".to_owned()])).collect();
    let user = allow(USER);
    let mut admin: BTreeMap<String, Vec<String>> = all(ADMIN);
    let mut root: BTreeMap<String, Vec<String>> = all(ADMIN);
    root.extend(all(ROOT));
    admin.insert("domain".into(), vec!["ro".into(), "uo".into()]);
    let role = |parent: Option<&str>, allow| Role { parent: parent.map(Into::into), allow };
    HashMap::from([
        ("user".into(), role(None, user)),
        ("admin".into(), role(Some("user"), admin)),
        ("root".into(), role(None, root)),
        (
            "op".into(),
            role(
                None,
                allow("hook *; calendar r u; book r; vmail uo; callback/members r; cdr r; license do"),
            ),
        ),
        ("sub".into(), role(Some("user"), allow("cdr/media r c; dialer r; account u; callback r"))),
    ])
}

fn allow(text: &str) -> BTreeMap<String, Vec<String>> {
    let entry = |text: &str| {
        let mut words = text.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.collect())
    };
    text.split(';').map(entry).collect()
}

/// The resources of a role and its parents, the child's permissions first. Of an unknown role: none.
pub(super) fn merged(roles: &HashMap<String, Role>, name: &str) -> BTreeMap<String, Vec<String>> {
    let mut merged = BTreeMap::<String, Vec<String>>::new();
    let mut next = roles.get(name);
    while let Some(role) = next {
        for (resource, words) in &role.allow {
            merged.entry(resource.clone()).or_default().extend(words.iter().cloned());
        }
        next = role.parent.as_ref().and_then(|parent| roles.get(parent));
    }
    merged
}

/// Exactly this permission, or `*`.
pub(super) fn allows(roles: &HashMap<String, Role>, role: &str, resource: &str, permission: &str) -> bool {
    merged(roles, role).get(resource).is_some_and(|held| held.iter().any(|w| w == "*" || w == permission))
}

pub(super) fn number(role: &str) -> i64 {
    match role {
        "root" => 2,
        "admin" => 1,
        "user" => 0,
        _ => -1,
    }
}
