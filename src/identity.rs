//! Who a caller is: the names of users, domains and roles.

use std::fmt;
use std::sync::Arc;

/// A user's full name, `100@mydomain.com`, or `root` for one without a domain. Letter case matters; it is
/// never folded or normalised.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(Arc<str>);

impl UserName {
    #[must_use]
    pub fn new(full: &str) -> Self {
        Self(full.into())
    }

    /// The full name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands before the first `@`: the backends split there (`webitel.md`, a1).
    #[must_use]
    pub fn local(&self) -> &str {
        self.0.split_once('@').map_or(&*self.0, |(local, _)| local)
    }

    /// What stands behind the first `@`; none for a user without a domain.
    #[must_use]
    pub fn domain(&self) -> Option<&str> {
        self.0.split_once('@').map(|(_, domain)| domain)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// A role's name. That it exists is not certain: roles are looked up at each request (contract section 2). One pointer
/// wide: each of a million sessions has one, and few are different.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoleName(Arc<Box<str>>);

impl RoleName {
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(Arc::new(name.into()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for RoleName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_its_first_at() {
        let name = UserName::new("100@a@b");
        assert_eq!((name.local(), name.domain()), ("100", Some("a@b")));
        assert_eq!((UserName::new("root").local(), UserName::new("root").domain()), ("root", None));
    }
}
