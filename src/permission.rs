//! Permissions, and what is held of them: the words that roles, routes and an engine's answers share (contract section
//! 4, Permission). Knows neither roles nor routes.

use http::Method;

/// What may be done on a resource.
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
    const ALL: [Self; 9] = [
        Self::All,
        Self::Create,
        Self::Read,
        Self::Update,
        Self::Delete,
        Self::CreateOwn,
        Self::ReadOwn,
        Self::UpdateOwn,
        Self::DeleteOwn,
    ];

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

    /// The method's own letter; `*` for a method that has none. Method names are case-sensitive (RFC 9110 section 9.1).
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

    /// The own variant, for a permission that has one.
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

    /// Whether it is an own variant.
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(self, Self::CreateOwn | Self::ReadOwn | Self::UpdateOwn | Self::DeleteOwn)
    }
}

/// Permissions held on one resource: a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PermissionSet(u16);

impl PermissionSet {
    pub fn add(&mut self, permission: Permission) {
        self.0 |= 1 << permission as u8;
    }

    /// Whether exactly this one is held: `*` is one of its own.
    #[must_use]
    pub fn has(self, permission: Permission) -> bool {
        self.0 & (1 << permission as u8) != 0
    }

    /// Whether whoever holds this may do nothing that `other` does not let him: `*` covers all.
    #[must_use]
    pub fn is_within(self, other: Self) -> bool {
        other.has(Permission::All) || self.0 & !other.0 == 0
    }

    /// `*` first, then `c r u d`, then their own variants.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| self.has(*permission))
    }
}

impl FromIterator<Permission> for PermissionSet {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        let mut set = Self::default();
        permissions.into_iter().for_each(|permission| set.add(permission));
        set
    }
}

/// Resources and what is held on each: rights that were told whole, not looked up by a role's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Acl(Vec<(Box<str>, PermissionSet)>);

impl Acl {
    /// Whether exactly this permission is held on a resource.
    #[must_use]
    pub fn holds(&self, permission: Permission, resource: &str) -> bool {
        self.held(resource).has(permission)
    }

    /// All that is held on a resource.
    #[must_use]
    pub fn held(&self, resource: &str) -> PermissionSet {
        let found = self.0.binary_search_by(|(name, _)| (**name).cmp(resource));
        found.ok().and_then(|at| self.0.get(at)).map(|(_, held)| *held).unwrap_or_default()
    }

    /// In the order of the resources' names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, PermissionSet)> {
        self.0.iter().map(|(name, held)| (&**name, *held))
    }
}

impl<S: Into<Box<str>>> FromIterator<(S, PermissionSet)> for Acl {
    /// A resource that comes twice holds both.
    fn from_iter<I: IntoIterator<Item = (S, PermissionSet)>>(resources: I) -> Self {
        let mut held: Vec<(Box<str>, PermissionSet)> =
            resources.into_iter().map(|(name, held)| (name.into(), held)).collect();
        held.sort_by(|a, b| a.0.cmp(&b.0));
        held.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1.0 |= later.1.0;
            }
            same
        });
        Self(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Permission::{All, Create, Delete, Read, ReadOwn, Update};

    #[test]
    fn permissions_are_read_as_they_are_written() {
        for text in ["*", "c", "r", "u", "d", "co", "ro", "uo", "do"] {
            assert_eq!(Permission::parse(text).map(Permission::as_str), Some(text));
        }
        for text in ["", "R", "rw", "read", "or", "*o", " r"] {
            assert_eq!(Permission::parse(text), None);
        }
    }

    #[test]
    fn each_method_asks_its_letter_and_any_other_asks_all() {
        for (method, asked) in [
            ("GET", Read),
            ("HEAD", Read),
            ("POST", Create),
            ("PUT", Update),
            ("PATCH", Update),
            ("DELETE", Delete),
            ("OPTIONS", All),
            ("TRACE", All),
            ("get", All),
            ("GETX", All),
            ("QUERY", All),
        ] {
            assert_eq!(Permission::of_method(&method.parse().unwrap()), asked, "{method}");
        }
    }

    fn set(permissions: &[Permission]) -> PermissionSet {
        permissions.iter().copied().collect()
    }

    #[test]
    fn a_set_is_within_another_that_lets_no_less() {
        assert!(set(&[Read]).is_within(set(&[Read, Update])) && set(&[]).is_within(set(&[])));
        assert!(set(&[Read, All]).is_within(set(&[All])) && set(&[Delete]).is_within(set(&[All])));
        assert!(!set(&[All]).is_within(set(&[Create, Read, Update, Delete])));
        assert!(!set(&[ReadOwn]).is_within(set(&[Read])), "ro does not follow from r");
    }

    #[test]
    fn an_acl_holds_what_it_was_told_and_nothing_else() {
        let acl: Acl =
            [("b", set(&[Read])), ("a", set(&[All])), ("b", set(&[ReadOwn]))].into_iter().collect();
        assert!(acl.holds(All, "a") && acl.holds(Read, "b") && acl.holds(ReadOwn, "b"));
        assert!(
            !acl.holds(Read, "a")
                && !acl.holds(Read, "A")
                && !acl.holds(Read, "c")
                && !acl.holds(Update, "b")
        );
        assert_eq!(
            acl.iter().map(|(name, held)| (name, held.iter().count())).collect::<Vec<_>>(),
            [("a", 1), ("b", 2)]
        );
    }
}
