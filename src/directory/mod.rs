//! Who may log in. A directory answers one question: is this user's proof good, and what role has he?
//!
//! It belongs to the configuration and is replaced with it; what must outlive it (the hashing threads, the codes that
//! were used) is the [`Verifier`].

pub mod file;
pub mod hashing;
mod pace;
pub mod password;
pub mod totp;

use std::net::IpAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::engine::{Engine, LoginAnswer, LoginReply, Passed};
use crate::identity::{RoleName, UserName};
use crate::secret::SecretString;

use file::FileDirectory;
use hashing::Hashing;
use totp::UsedCodes;

/// A good login.
pub enum Verified {
    /// By the user file: a session is to be made.
    Here { user: UserName, role: RoleName },
    /// By the engine, which has made the session.
    Engine(Box<LoginAnswer>),
}

/// A login that is not good (contract section 3).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such user")]
    UnknownUser,
    #[error("wrong password")]
    InvalidCredentials,
    #[error("wrong code of the second factor")]
    WrongCode,
    #[error("a second factor is needed and no code was sent")]
    CodeRequired,
    /// Passed on as it is.
    #[error("the engine refused: {}", .0.status)]
    Engine(Passed),
    /// Too many passwords are being hashed: 503 with `Retry-After`.
    #[error("too many logins at once")]
    Overloaded,
    /// The directory cannot be asked: 503.
    #[error("the directory is not reachable")]
    Unavailable,
}

impl Refusal {
    /// Whether it counts as a guess that was wrong.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::UnknownUser | Self::InvalidCredentials | Self::WrongCode => true,
            Self::Engine(passed) => matches!(passed.status.as_u16(), 401 | 403 | 404),
            Self::CodeRequired | Self::Overloaded | Self::Unavailable => false,
        }
    }
}

/// What a client sends to prove who he is. Prints nothing.
pub struct Proof {
    /// None: missing or empty, which proves nothing.
    pub password: Option<SecretString>,
    /// Of the second factor; an empty one counts as none.
    pub code: Option<String>,
    /// Where it came from.
    pub client: IpAddr,
}

/// What outlives a directory.
pub struct Verifier {
    pub hashing: Hashing,
    pub used_codes: UsedCodes,
    pub clock: Clock,
}

/// `[directory]`: the users of one configuration.
pub struct Directory {
    file: FileDirectory,
    engine: Option<Arc<Engine>>,
    /// The user file is asked before the engine.
    file_first: bool,
}

impl Directory {
    #[must_use]
    pub fn new(file: FileDirectory) -> Self {
        Self { file, engine: None, file_first: true }
    }

    /// `directory.webitel`, asked behind the user file or before it.
    #[must_use]
    pub fn with_engine(self, engine: Option<Arc<Engine>>, file_first: bool) -> Self {
        Self { engine, file_first, ..self }
    }

    /// How many users of its own there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.file.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the user proves who he is. In the order written, the first that knows him decides: the user file by his
    /// name, the engine by letting him in; whom it refuses the file may still know.
    pub async fn verify(
        &self,
        verifier: &Verifier,
        username: &str,
        proof: Proof,
    ) -> Result<Verified, Refusal> {
        let is_known = self.known(username).is_some();
        match &self.engine {
            Some(engine) if !(self.file_first && is_known) => {
                let asked = ask(engine, username, &proof).await;
                match asked {
                    Err(Refusal::Engine(_)) if is_known => self.by_file(verifier, username, proof).await,
                    asked => asked,
                }
            }
            Some(_) | None => self.by_file(verifier, username, proof).await,
        }
    }

    async fn by_file(&self, verifier: &Verifier, username: &str, proof: Proof) -> Result<Verified, Refusal> {
        let (user, role) = self.file.verify(verifier, username, proof).await?;
        Ok(Verified::Here { user, role })
    }

    /// The user's name as the directory has it: what may be written to a log. An unknown name may be a password that
    /// was typed into the wrong field.
    #[must_use]
    pub fn known(&self, username: &str) -> Option<&UserName> {
        self.file.known(username)
    }

    /// Whether this user has a second factor here.
    #[must_use]
    pub fn asks_for_code(&self, user: &UserName) -> bool {
        self.file.asks_for_code(user)
    }

    /// The user's role now: sessions follow it (contract section 2). None for one who may no longer log in.
    #[must_use]
    pub fn role_of(&self, user: &UserName) -> Option<RoleName> {
        self.file.role_of(user).cloned()
    }
}

async fn ask(engine: &Engine, username: &str, proof: &Proof) -> Result<Verified, Refusal> {
    let Proof { password, code, client } = proof;
    match engine.login(username, password.as_ref(), code.as_deref(), *client).await {
        Ok(LoginReply::Good(answer)) => Ok(Verified::Engine(answer)),
        Ok(LoginReply::Refused(passed)) => Err(Refusal::Engine(passed)),
        Err(error) => {
            tracing::warn!(%error, "a login was not judged");
            Err(Refusal::Unavailable)
        }
    }
}
