//! What a session or a domain token has of the engine that made it: the rights that it told, and when it was asked last.

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::UnixMillis;
use crate::permission::{Acl, Permission, PermissionSet};

/// Where the rights of a caller come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// `[roles]`, by his role's name.
    OfRole,
    /// As the engine told them.
    Listed(Arc<Acl>),
}

/// How rights are kept that are the role's.
const OF_ROLE: &str = "roles";

impl Rights {
    /// JSON: `"roles"`, or an object of resources and their permissions.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::OfRole => OF_ROLE.into(),
            Self::Listed(acl) => acl
                .iter()
                .map(|(name, held)| (name.to_owned(), held.iter().map(Permission::as_str).collect()))
                .collect::<serde_json::Map<_, Value>>()
                .into(),
        }
    }

    /// What [`Rights::to_json`] wrote; none for anything else.
    #[must_use]
    pub fn from_json(json: &Value) -> Option<Self> {
        let held = |words: &Value| -> Option<PermissionSet> {
            words.as_array()?.iter().map(|word| Permission::parse(word.as_str()?)).collect()
        };
        match json {
            Value::String(word) => (word == OF_ROLE).then_some(Self::OfRole),
            Value::Object(resources) => {
                let acl: Option<Acl> =
                    resources.iter().map(|(name, words)| Some((name.as_str(), held(words)?))).collect();
                acl.map(|acl| Self::Listed(Arc::new(acl)))
            }
            _ => None,
        }
    }

    /// As a store keeps it.
    pub(super) fn to_text(&self) -> String {
        self.to_json().to_string()
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        Self::from_json(&serde_json::from_str(text).ok()?)
    }
}

/// The engine's side of a session or a domain token.
#[derive(Debug)]
pub struct Adopted {
    pub rights: Rights,
    /// When the engine is to be asked no sooner than `revalidate` after, in ms.
    asked: AtomicU64,
}

impl Adopted {
    #[must_use]
    pub fn new(rights: Rights, asked: UnixMillis) -> Self {
        Self { rights, asked: AtomicU64::new(asked.0) }
    }

    /// When the engine answered for it last; 0: not since the program started.
    #[must_use]
    pub fn asked(&self) -> UnixMillis {
        UnixMillis(self.asked.load(Ordering::Relaxed))
    }

    pub fn set_asked(&self, at: UnixMillis) {
        self.asked.store(at.0, Ordering::Relaxed);
    }

    /// The rights that the engine told; none where the role's are asked.
    #[must_use]
    pub fn listed(&self) -> Option<&Acl> {
        match &self.rights {
            Rights::OfRole => None,
            Rights::Listed(acl) => Some(acl),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_as_they_were_written() {
        let set: PermissionSet = [Permission::All, Permission::ReadOwn].into_iter().collect();
        for rights in [
            Rights::OfRole,
            Rights::Listed(Arc::default()),
            Rights::Listed(Arc::new([("cdr", set)].into_iter().collect())),
        ] {
            assert_eq!(Rights::from_text(&rights.to_text()), Some(rights));
        }
        for other in ["", "1", "[]", "\"other\"", "{\"cdr\":\"r\"}", "{\"cdr\":[\"x\"]}", "{\"cdr\":[1]}"] {
            assert_eq!(Rights::from_text(other), None, "{other}");
        }
    }
}
