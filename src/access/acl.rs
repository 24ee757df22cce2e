//! Roles, the permissions they grant, and the question asked of them (contract section 4, Permission).

use http::Method;
use std::collections::{BTreeMap, HashMap, HashSet};

use super::permit::Scope;
use crate::identity::RoleName;

/// What a role may do on a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Permission {
    /// `*`
    All,
    Create,
    Read,
    Update,
    Delete,
    CreateOwn,
    ReadOwn,
    UpdateOwn,
    DeleteOwn,
}

impl Permission {
    /// `*`, `c r u d`, `co ro uo do`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "*" => Self::All,
            "c" => Self::Create,
            "r" => Self::Read,
            "u" => Self::Update,
            "d" => Self::Delete,
            "co" => Self::CreateOwn,
            "ro" => Self::ReadOwn,
            "uo" => Self::UpdateOwn,
            "do" => Self::DeleteOwn,
            _ => return None,
        })
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Create => "c",
            Self::Read => "r",
            Self::Update => "u",
            Self::Delete => "d",
            Self::CreateOwn => "co",
            Self::ReadOwn => "ro",
            Self::UpdateOwn => "uo",
            Self::DeleteOwn => "do",
        }
    }

    /// The method's own letter; any method beside those needs `*`.
    #[must_use]
    pub fn of_method(method: &Method) -> Self {
        match *method {
            Method::GET | Method::HEAD => Self::Read,
            Method::POST => Self::Create,
            Method::PUT | Method::PATCH => Self::Update,
            Method::DELETE => Self::Delete,
            _ => Self::All,
        }
    }

    /// The own variant of a plain permission. `*` has none: who is asked for it must hold it.
    #[must_use]
    pub fn own(self) -> Option<Self> {
        match self {
            Self::Create => Some(Self::CreateOwn),
            Self::Read => Some(Self::ReadOwn),
            Self::Update => Some(Self::UpdateOwn),
            Self::Delete => Some(Self::DeleteOwn),
            Self::All | Self::CreateOwn | Self::ReadOwn | Self::UpdateOwn | Self::DeleteOwn => None,
        }
    }

    fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

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

/// Index of a resource among all that routes and roles name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceId(usize);

/// All roles of a configuration, compiled.
#[derive(Debug, Default)]
pub struct Roles {
    by_name: HashMap<RoleName, Role>,
    resources: HashMap<String, ResourceId>,
}

/// A role with everything it inherits.
#[derive(Clone, Debug)]
pub struct Role {
    number: i64,
    /// By resource: a bit for each permission.
    held: Vec<u16>,
    /// As the login answer shows it: the role's own permissions first, then inherited ones.
    shown: BTreeMap<String, Vec<&'static str>>,
}

impl Roles {
    /// Compiles roles; `resources` are those that routes ask for.
    #[must_use]
    pub fn new<'a>(settings: &'a [RoleSettings], resources: impl Iterator<Item = &'a str>) -> Self {
        let mut roles = Self::default();
        let granted = settings.iter().flat_map(|role| role.allow.iter().map(|(name, _)| name.as_str()));
        for name in resources.chain(granted) {
            let next = ResourceId(roles.resources.len());
            roles.resources.entry(name.to_owned()).or_insert(next);
        }
        for role in settings {
            roles.by_name.insert(role.name.clone(), roles.compile(role, settings));
        }
        roles
    }

    #[must_use]
    pub fn get(&self, name: &RoleName) -> Option<&Role> {
        self.by_name.get(name)
    }

    /// None: neither a route nor a role names it.
    #[must_use]
    pub fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resources.get(name).copied()
    }

    fn compile(&self, role: &RoleSettings, all: &[RoleSettings]) -> Role {
        let mut compiled = Role {
            number: role.number.unwrap_or(-1),
            held: vec![0; self.resources.len()],
            shown: BTreeMap::new(),
        };
        for ancestor in lineage(role, all) {
            for (resource, permissions) in &ancestor.allow {
                let shown = compiled.shown.entry(resource.clone()).or_default();
                for permission in permissions {
                    if !shown.contains(&permission.as_str()) {
                        shown.push(permission.as_str());
                    }
                }
                if let Some(held) = self.resource(resource).and_then(|id| compiled.held.get_mut(id.0)) {
                    permissions.iter().for_each(|permission| *held |= permission.bit());
                }
            }
        }
        compiled
    }
}

/// The role, then those it inherits from, each once: a cycle ends where it closes.
fn lineage<'a>(role: &'a RoleSettings, all: &'a [RoleSettings]) -> Vec<&'a RoleSettings> {
    let mut line = vec![role];
    let mut seen = HashSet::from([&role.name]);
    let mut at = 0;
    while let Some(role) = line.get(at) {
        let parents = role.inherits.iter().filter_map(|name| all.iter().find(|r| r.name == *name));
        let new: Vec<_> = parents.filter(|parent| seen.insert(&parent.name)).collect();
        line.extend(new);
        at += 1;
    }
    line
}

/// The roles that inherit from themselves, over however many steps.
#[must_use]
pub fn cycles(roles: &[RoleSettings]) -> Vec<RoleName> {
    let reaches_itself = |role: &&RoleSettings| {
        lineage(role, roles).iter().any(|ancestor| ancestor.inherits.contains(&role.name))
    };
    roles.iter().filter(reaches_itself).map(|role| role.name.clone()).collect()
}

impl Role {
    /// `role` in the login answer, -1 for none.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Every resource with its permissions, none twice, in the order of the resources' names.
    pub fn resources(&self) -> impl Iterator<Item = (&str, &[&'static str])> {
        self.shown.iter().map(|(name, permissions)| (name.as_str(), permissions.as_slice()))
    }

    /// Whether `*` or exactly this permission is held, and by which of them.
    fn grants(&self, resource: ResourceId, asked: Permission) -> Option<Permission> {
        let held = self.held.get(resource.0).copied().unwrap_or(0);
        if held & Permission::All.bit() != 0 {
            return Some(Permission::All);
        }
        (held & asked.bit() != 0).then_some(asked)
    }
}

/// What is asked of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// The plain permission.
    Plain(Permission),
    /// The own variant, instead of the plain one.
    OwnInstead(Permission),
    /// The plain one, then the own variant.
    OwnAfter(Permission),
}

/// What was asked, last, and the scope in which it was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub asked: Permission,
    /// None: not granted.
    pub scope: Option<Scope>,
}

/// The permission decision. A role that does not exist grants nothing, as does a resource that nobody names.
#[must_use]
pub fn ask(role: Option<&Role>, resource: Option<ResourceId>, question: Question) -> Verdict {
    let one = |asked: Permission, exactly: Scope| {
        let by = role.zip(resource).and_then(|(role, resource)| role.grants(resource, asked));
        let scope = by.map(|by| if by == Permission::All { Scope::All } else { exactly });
        Verdict { asked, scope }
    };
    let plain = |permission: Permission| one(permission, Scope::All);
    // Who is asked for the own variant of `*` is asked for `*` itself.
    let own = |permission: Permission| {
        permission.own().map_or_else(|| plain(permission), |own| one(own, Scope::Own))
    };
    match question {
        Question::Plain(permission) => plain(permission),
        Question::OwnInstead(permission) => own(permission),
        Question::OwnAfter(permission) => {
            let first = plain(permission);
            if first.scope.is_some() { first } else { own(permission) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{All, Create, Delete, DeleteOwn, Read, ReadOwn, Update, UpdateOwn};

    fn role(name: &str, inherits: &[&str], allow: &[(&str, &[Permission])]) -> RoleSettings {
        RoleSettings {
            name: RoleName::new(name),
            number: None,
            inherits: inherits.iter().map(|n| RoleName::new(n)).collect(),
            allow: allow.iter().map(|(r, p)| ((*r).to_owned(), p.to_vec())).collect(),
        }
    }

    fn scope(settings: &[RoleSettings], name: &str, resource: &str, question: Question) -> Option<Scope> {
        let roles = Roles::new(settings, std::iter::once("routed"));
        ask(roles.get(&RoleName::new(name)), roles.resource(resource), question).scope
    }

    #[test]
    fn every_permission_reads_back() {
        for text in ["*", "c", "r", "u", "d", "co", "ro", "uo", "do"] {
            assert_eq!(Permission::parse(text).map(Permission::as_str), Some(text));
        }
        assert!(["", "x", "*o", "R", "rr"].iter().all(|text| Permission::parse(text).is_none()));
    }

    #[test]
    fn only_star_or_exactly_the_permission_grants() {
        let roles = [role("a", &[], &[("x", &[Update]), ("y", &[All])])];
        for (resource, permission, granted) in [
            ("x", Update, true),
            ("x", UpdateOwn, false),
            ("x", Read, false),
            ("x", All, false),
            ("y", All, true),
            ("y", DeleteOwn, true),
        ] {
            let scope = scope(&roles, "a", resource, Question::Plain(permission));
            assert_eq!(scope.is_some(), granted, "{resource} {permission:?}");
        }
    }

    #[test]
    fn nobody_unknown_is_granted_anything() {
        let roles = [role("a", &[], &[("x", &[All])])];
        assert_eq!(scope(&roles, "ghost", "x", Question::Plain(Read)), None);
        assert_eq!(scope(&roles, "a", "nowhere", Question::Plain(Read)), None);
        assert_eq!(scope(&roles, "a", "routed", Question::Plain(Read)), None);
    }

    #[test]
    fn the_own_variant_is_asked_instead_or_after() {
        let roles = [
            role("own", &[], &[("x", &[ReadOwn])]),
            role("plain", &[], &[("x", &[Read])]),
            role("star", &[], &[("x", &[All])]),
        ];
        let ask = |name, question| scope(&roles, name, "x", question);
        assert_eq!(ask("own", Question::OwnInstead(Read)), Some(Scope::Own));
        assert_eq!(ask("plain", Question::OwnInstead(Read)), None);
        assert_eq!(ask("star", Question::OwnInstead(Read)), Some(Scope::All));
        assert_eq!(ask("own", Question::OwnAfter(Read)), Some(Scope::Own));
        assert_eq!(ask("plain", Question::OwnAfter(Read)), Some(Scope::All));
        assert_eq!(ask("own", Question::OwnAfter(Delete)), None);
        assert_eq!(ask("own", Question::OwnInstead(All)), None);
        assert_eq!(ask("star", Question::OwnInstead(All)), Some(Scope::All));
    }

    #[test]
    fn inherited_permissions_are_merged_behind_the_roles_own() {
        let settings = [
            role("base", &[], &[("x", &[Read]), ("z", &[Read])]),
            role("child", &["base"], &[("x", &[Create, Read])]),
            role("grand", &["child"], &[("y", &[Update])]),
        ];
        let roles = Roles::new(&settings, std::iter::empty());
        let shown: Vec<_> = roles.get(&RoleName::new("grand")).unwrap().resources().collect();
        assert_eq!(shown, [("x", &["c", "r"][..]), ("y", &["u"][..]), ("z", &["r"][..])]);
        assert_eq!(scope(&settings, "grand", "z", Question::Plain(Read)), Some(Scope::All));
        assert_eq!(scope(&settings, "base", "x", Question::Plain(Create)), None);
    }

    #[test]
    fn cycles_are_named_and_end() {
        let settings = [
            role("a", &["b"], &[]),
            role("b", &["c"], &[("x", &[Read])]),
            role("c", &["a"], &[]),
            role("d", &["a"], &[]),
            role("e", &["e"], &[]),
        ];
        let named: Vec<_> = cycles(&settings).iter().map(|n| n.as_str().to_owned()).collect();
        assert_eq!(named, ["a", "b", "c", "e"]);
        assert_eq!(scope(&settings, "a", "x", Question::Plain(Read)), Some(Scope::All));
    }
}
