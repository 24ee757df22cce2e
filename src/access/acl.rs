//! Roles, the permissions they grant, and the question asked of them (contract section 4, Permission). Knows neither
//! routes nor callers.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::identity::RoleName;
use crate::permission::{Permission, PermissionSet};

/// One `[roles.NAME]`.
#[derive(Clone, Debug)]
pub struct RoleSettings {
    pub name: RoleName,
    /// `role` in the login answer; none answers -1.
    pub number: Option<i64>,
    pub inherits: Vec<RoleName>,
    /// Resource and its permissions, in the order written.
    pub allow: Vec<(String, Vec<Permission>)>,
}

/// The roles of one configuration, inheritance resolved.
pub struct Roles {
    by_name: HashMap<RoleName, Role>,
    resources: HashMap<String, ResourceId>,
}

/// A resource that some role is allowed something on: an index into what each role holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResourceId(usize);

/// A role with everything it inherits.
#[derive(Clone, Debug)]
pub struct Role {
    number: Option<i64>,
    /// As they are shown.
    resources: BTreeMap<String, Vec<&'static str>>,
    /// By [`ResourceId`].
    held: Vec<PermissionSet>,
}

impl Roles {
    #[must_use]
    pub fn new(settings: &[RoleSettings]) -> Self {
        let by_name: HashMap<_, _> = settings.iter().map(|r| (&r.name, r)).collect();
        let mut resources = HashMap::new();
        for (name, _) in settings.iter().flat_map(|r| &r.allow) {
            let next = ResourceId(resources.len());
            resources.entry(name.clone()).or_insert(next);
        }
        let roles = settings.iter().map(|r| (r.name.clone(), Role::new(r, &by_name, &resources))).collect();
        Self { by_name: roles, resources }
    }

    /// None: no such role, which grants nothing.
    #[must_use]
    pub fn get(&self, name: &RoleName) -> Option<&Role> {
        self.by_name.get(name)
    }

    /// In no order.
    pub fn names(&self) -> impl Iterator<Item = &RoleName> {
        self.by_name.keys()
    }

    /// None: no role is allowed anything on it.
    pub(super) fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resources.get(name).copied()
    }
}

impl Role {
    fn new(
        settings: &RoleSettings,
        by_name: &HashMap<&RoleName, &RoleSettings>,
        ids: &HashMap<String, ResourceId>,
    ) -> Self {
        let mut resources: BTreeMap<String, Vec<&'static str>> = BTreeMap::new();
        let mut held = vec![PermissionSet::default(); ids.len()];
        for role in lineage(settings, by_name) {
            for (resource, permissions) in &role.allow {
                let merged = resources.entry(resource.clone()).or_default();
                for shown in permissions.iter().map(|p| p.as_str()) {
                    if !merged.contains(&shown) {
                        merged.push(shown);
                    }
                }
                if let Some(held) = ids.get(resource).and_then(|id| held.get_mut(id.0)) {
                    permissions.iter().for_each(|p| held.add(*p));
                }
            }
        }
        Self { number: settings.number, resources, held }
    }

    /// `role` in the login answer, -1 for none.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number.unwrap_or(-1)
    }

    /// Every resource with its permissions, own ones first, none twice, in the order of their names.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &[&'static str])> {
        self.resources.iter().map(|(name, permissions)| (name.as_str(), permissions.as_slice()))
    }

    /// All that it holds on a resource.
    pub(super) fn held(&self, resource: &str) -> PermissionSet {
        let words = self.resources.get(resource).into_iter().flatten();
        words.filter_map(|word| Permission::parse(word)).collect()
    }

    /// Whether it holds exactly this permission on a resource.
    pub(super) fn holds(&self, permission: Permission, on: ResourceId) -> bool {
        self.held.get(on.0).is_some_and(|held| held.has(permission))
    }
}

/// A role, then what it inherits, depth first in the order written, each once. What is unknown is left out, and a
/// cycle ends where it closes: `config` refuses both.
fn lineage<'r>(
    role: &'r RoleSettings,
    by_name: &HashMap<&'r RoleName, &'r RoleSettings>,
) -> Vec<&'r RoleSettings> {
    let mut seen = HashSet::from([&role.name]);
    let (mut line, mut open) = (Vec::new(), vec![role]);
    while let Some(role) = open.pop() {
        line.push(role);
        let parents = role.inherits.iter().rev().filter_map(|name| by_name.get(name).copied());
        open.extend(parents.filter(|parent| seen.insert(&parent.name)));
    }
    line
}

/// The roles that inherit from themselves, directly or by others, in the order given.
#[must_use]
pub fn cycles(roles: &[RoleSettings]) -> Vec<RoleName> {
    let by_name: HashMap<_, _> = roles.iter().map(|r| (&r.name, r)).collect();
    let inherits_itself = |role: &&RoleSettings| {
        lineage(role, &by_name).iter().any(|ancestor| ancestor.inherits.contains(&role.name))
    };
    roles.iter().filter(inherits_itself).map(|r| r.name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{All, Delete, Read, ReadOwn, Update, UpdateOwn};

    fn role(name: &str, inherits: &[&str], allow: &[(&str, &[Permission])]) -> RoleSettings {
        RoleSettings {
            name: RoleName::new(name),
            number: None,
            inherits: inherits.iter().map(|n| RoleName::new(n)).collect(),
            allow: allow.iter().map(|(r, p)| ((*r).to_owned(), p.to_vec())).collect(),
        }
    }

    fn holds(roles: &[RoleSettings], name: &str, permission: Permission, on: &str) -> bool {
        let roles = Roles::new(roles);
        let role = roles.get(&RoleName::new(name));
        roles.resource(on).is_some_and(|on| role.is_some_and(|r| r.holds(permission, on)))
    }

    #[test]
    fn a_role_holds_what_it_says_and_what_it_inherits_and_nothing_else() {
        let roles = [
            role("user", &[], &[("cdr", &[ReadOwn]), ("account", &[Read])]),
            role("clerk", &["user"], &[("cdr", &[Update])]),
            role("admin", &["clerk"], &[("account", &[All])]),
        ];
        assert!(holds(&roles, "admin", ReadOwn, "cdr"));
        assert!(holds(&roles, "admin", Update, "cdr"));
        assert!(holds(&roles, "admin", All, "account"));
        assert!(!holds(&roles, "admin", Read, "cdr"), "r does not follow from ro");
        assert!(!holds(&roles, "admin", UpdateOwn, "cdr"), "uo does not follow from u");
        assert!(!holds(&roles, "user", Update, "cdr"), "nothing goes to the parent");
        assert!(!holds(&roles, "ghost", Read, "cdr"));
        assert!(!holds(&roles, "admin", Read, "CDR"));
    }

    #[test]
    fn resources_are_merged_the_childs_permissions_first() {
        let roles = Roles::new(&[
            role("base", &[], &[("cdr", &[Read, ReadOwn]), ("book", &[Read])]),
            role("other", &[], &[("cdr", &[Delete, Read])]),
            role("child", &["base", "other"], &[("cdr", &[Update, Read, Update])]),
        ]);
        let child = roles.get(&RoleName::new("child")).unwrap();
        let resources: Vec<_> = child.resources().collect();
        assert_eq!(resources, [("book", &["r"][..]), ("cdr", &["u", "r", "ro", "d"])]);
        assert_eq!(child.number(), -1);
    }

    #[test]
    fn cycles_are_found_and_do_no_harm() {
        let roles = [
            role("a", &["b"], &[("x", &[Read])]),
            role("b", &["c"], &[("y", &[Read])]),
            role("c", &["a", "ghost"], &[]),
            role("self", &["self"], &[]),
            role("beside", &["a"], &[]),
            role("plain", &[], &[]),
        ];
        let names = |found: Vec<RoleName>| found.iter().map(|n| n.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(cycles(&roles)), ["a", "b", "c", "self"]);
        assert!(holds(&roles, "beside", Read, "y") && holds(&roles, "c", Read, "x"));
    }
}
