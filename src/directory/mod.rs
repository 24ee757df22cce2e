//! Who may log in. A directory answers one question: is this user's proof good, and what role has he?
//!
//! It belongs to the configuration and is replaced with it; what must outlive it (the hashing threads, the codes that
//! were used) is the [`Verifier`].

pub mod file;
pub mod hashing;
pub mod password;
pub mod totp;

use crate::clock::Clock;
use crate::identity::{RoleName, UserName};
use crate::secret::SecretString;

use file::FileDirectory;
use hashing::Hashing;
use totp::UsedCodes;

/// A good login.
#[derive(Clone, Debug)]
pub struct Verified {
    pub user: UserName,
    pub role: RoleName,
}

/// A login that is not good (contract section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such user")]
    UnknownUser,
    #[error("wrong password or code")]
    InvalidCredentials,
    #[error("a second factor is needed and no code was sent")]
    CodeRequired,
    /// Too many passwords are being hashed: 503 with `Retry-After`.
    #[error("too many logins at once")]
    Overloaded,
    /// The directory cannot be asked: 503.
    #[error("the directory is not reachable")]
    Unavailable,
}

/// What a client sends to prove who he is. Prints nothing.
pub struct Proof {
    /// None: missing or empty, which proves nothing.
    pub password: Option<SecretString>,
    /// Of the second factor; an empty one counts as none.
    pub code: Option<String>,
}

/// What outlives a directory.
pub struct Verifier {
    pub hashing: Hashing,
    pub used_codes: UsedCodes,
    pub clock: Clock,
}

/// The users of one configuration.
pub struct Directory {
    file: FileDirectory,
}

impl Directory {
    #[must_use]
    pub fn new(file: FileDirectory) -> Self {
        Self { file }
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.file.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the user proves who he is.
    pub async fn verify(
        &self,
        verifier: &Verifier,
        username: &str,
        proof: Proof,
    ) -> Result<Verified, Refusal> {
        self.file.verify(verifier, username, proof).await
    }

    /// The user's name as the directory has it: what may be written to a log. An unknown name may be a password that
    /// was typed into the wrong field.
    #[must_use]
    pub fn known(&self, username: &str) -> Option<&UserName> {
        self.file.known(username)
    }

    /// The user's role now: sessions follow it (contract section 2). None for one who may no longer log in.
    #[must_use]
    pub fn role_of(&self, user: &UserName) -> Option<RoleName> {
        self.file.role_of(user).cloned()
    }
}
