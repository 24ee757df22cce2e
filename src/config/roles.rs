//! `[roles.NAME]`, and references to roles.

use std::collections::HashMap;

use super::findings::{Findings, hint};
use super::table::{Table, Text};
use super::tree::Origin;
use crate::access::acl::{self, RoleSettings};
use crate::identity::RoleName;
use crate::permission::Permission;

/// In the order of their names.
pub(super) fn roles(table: Option<Table>, f: &mut Findings) -> Vec<RoleSettings> {
    let named = table.map(|table| table.named(f)).unwrap_or_default();
    let mut parents = HashMap::new();
    let mut roles = Vec::new();
    for (name, mut table) in named {
        let name = RoleName::new(&name);
        let inherits = table.texts("inherits", f).unwrap_or_default();
        let number = table.integer("number", f);
        let allow = table.table("allow", f).map(|allow| grants(allow, f)).unwrap_or_default();
        let settings = RoleSettings {
            name: name.clone(),
            number,
            inherits: inherits.iter().map(|parent| RoleName::new(&parent.text)).collect(),
            allow,
        };
        parents.insert(name, (table.key("inherits"), table.place_of("inherits"), inherits));
        table.finish(f);
        roles.push(settings);
    }
    check_inheritance(&roles, &parents, f);
    roles
}

type Parents = HashMap<RoleName, (String, Origin, Vec<Text>)>;

fn check_inheritance(roles: &[RoleSettings], parents: &Parents, f: &mut Findings) {
    for (key, _, inherits) in parents.values() {
        inherits.iter().for_each(|parent| check(roles, parent, key, f));
    }
    for name in acl::cycles(roles) {
        if let Some((key, place, _)) = parents.get(&name) {
            f.fault(place, key, format!("makes role \"{name}\" inherit from itself; break the circle"));
        }
    }
}

fn grants(mut table: Table, f: &mut Findings) -> Vec<(String, Vec<Permission>)> {
    let permission = |text: &str| {
        let what = || {
            format!(
                "\"{text}\" is no permission; there are *, c, r, u, d and the own variants co, ro, uo, do"
            )
        };
        Permission::parse(text).ok_or_else(what)
    };
    let mut grants = Vec::new();
    for resource in table.names() {
        let permissions = table.parsed_list(&resource, f, permission).unwrap_or_default();
        if resource.is_empty() {
            table.fault(&resource, "is no resource", f);
        }
        grants.push((resource, permissions));
    }
    grants
}

/// `role = "..."` of a user or a domain token; it must be there.
pub(super) fn reference(table: &mut Table, roles: &[RoleSettings], f: &mut Findings) -> Option<RoleName> {
    let named = table.text_at("role", f);
    let named = table.required("role", named, f)?;
    check(roles, &named, &table.key("role"), f);
    Some(RoleName::new(&named.text))
}

fn check(roles: &[RoleSettings], named: &Text, key: &str, f: &mut Findings) {
    let Text { text, origin } = named;
    if !roles.iter().any(|role| role.name.as_str() == text) {
        let hint = hint(text, roles.iter().map(|role| role.name.as_str()));
        f.fault(origin, key, format!("there is no role \"{text}\"{hint}"));
    }
}
