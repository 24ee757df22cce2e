//! The user file.

use std::collections::HashMap;
use std::sync::Arc;

use super::password::Stored;
use super::{Proof, Refusal, Verifier};
use crate::identity::{RoleName, UserName};
use crate::secret::{SecretSlice, SecretString};

/// One user of the file.
pub struct User {
    pub name: UserName,
    pub password: Stored,
    pub role: RoleName,
    /// The decoded TOTP secret, when a second factor is needed.
    pub totp: Option<SecretSlice<u8>>,
}

/// The users of `directory.file`.
#[derive(Default)]
pub struct FileDirectory {
    users: Vec<Arc<User>>,
    by_name: HashMap<String, usize>,
    /// Whose password takes longest to compare.
    slowest: Option<usize>,
}

impl FileDirectory {
    #[must_use]
    pub fn new(users: Vec<User>) -> Self {
        let slowest = (0..users.len()).max_by_key(|at| users.get(*at).map(|user| user.password.cost()));
        let by_name =
            users.iter().enumerate().map(|(at, user)| (user.name.as_str().to_owned(), at)).collect();
        Self { users: users.into_iter().map(Arc::new).collect(), by_name, slowest }
    }

    /// How many users there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.users.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Names are compared letter for letter.
    #[must_use]
    pub fn known(&self, name: &str) -> Option<&UserName> {
        self.user(name).map(|user| &user.name)
    }

    /// The role of a user as the file has it now; none for one who is not in it.
    #[must_use]
    pub fn role_of(&self, user: &UserName) -> Option<&RoleName> {
        self.user(user.as_str()).map(|user| &user.role)
    }

    pub(super) fn asks_for_code(&self, user: &UserName) -> bool {
        self.user(user.as_str()).is_some_and(|user| user.totp.is_some())
    }

    fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.by_name.get(name).and_then(|at| self.users.get(*at))
    }

    pub(super) async fn verify(
        &self,
        verifier: &Verifier,
        name: &str,
        proof: Proof,
    ) -> Result<(UserName, RoleName), Refusal> {
        let user = self.user(name);
        let missing = if user.is_some() { Refusal::InvalidCredentials } else { Refusal::UnknownUser };
        let password = proof.password.ok_or(missing)?;
        let Some(user) = user else {
            self.waste_time(verifier, None, password).await?;
            return Err(Refusal::UnknownUser);
        };
        if !compare(verifier, user, password.clone()).await? {
            self.waste_time(verifier, Some(user.password.cost()), password).await?;
            return Err(Refusal::InvalidCredentials);
        }
        // After the password, so that a second factor is told of to nobody else.
        if let Some(secret) = &user.totp {
            let code = proof.code.filter(|code| !code.is_empty()).ok_or(Refusal::CodeRequired)?;
            if !verifier.used_codes.take(&user.name, secret, &code, verifier.clock.now()) {
                return Err(Refusal::WrongCode);
            }
        }
        Ok((user.name.clone(), user.role.clone()))
    }

    /// A refused login takes as long as the slowest hash of the file, whoever it names and however his own password is
    /// stored: the time does not tell an unknown user from a wrong password.
    async fn waste_time(
        &self,
        verifier: &Verifier,
        spent: Option<u64>,
        password: SecretString,
    ) -> Result<(), Refusal> {
        match self.slowest.and_then(|at| self.users.get(at)) {
            Some(user) if spent.is_none_or(|spent| user.password.cost() > spent) => {
                compare(verifier, user, password).await.map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

async fn compare(verifier: &Verifier, user: &Arc<User>, password: SecretString) -> Result<bool, Refusal> {
    let user = Arc::clone(user);
    verifier.hashing.run(move || user.password.verify(&user.name, &password)).await
}

#[cfg(test)]
mod tests {
    use super::super::hashing::Hashing;
    use super::super::password;
    use super::super::totp::UsedCodes;
    use super::*;
    use crate::clock::{Clock, UnixMillis};

    fn verifier() -> Verifier {
        let clock = Clock::manual(UnixMillis(59_000));
        Verifier { hashing: Hashing::start().unwrap(), used_codes: UsedCodes::default(), clock }
    }

    fn directory() -> FileDirectory {
        let user = |name, totp: Option<&[u8]>| User {
            name: UserName::new(name),
            password: Stored::parse(&password::hash(&SecretString::from("right")).unwrap()).unwrap(),
            role: RoleName::new("user"),
            totp: totp.map(|secret| SecretSlice::from(secret.to_vec())),
        };
        FileDirectory::new(vec![user("a@d", None), user("two@d", Some(b"12345678901234567890"))])
    }

    async fn verify(
        directory: &FileDirectory,
        by: &Verifier,
        name: &str,
        password: Option<&str>,
        code: Option<&str>,
    ) -> Result<String, Refusal> {
        let (password, code) = (password.map(SecretString::from), code.map(str::to_owned));
        let proof = Proof { password, code, client: std::net::IpAddr::from([127, 0, 0, 1]) };
        directory.verify(by, name, proof).await.map(|(user, _)| user.to_string())
    }

    #[tokio::test]
    async fn only_the_right_password_of_the_very_name_is_good() {
        let (directory, by) = (directory(), verifier());
        assert_eq!(verify(&directory, &by, "a@d", Some("right"), None).await.as_deref(), Ok("a@d"));
        assert_eq!(
            verify(&directory, &by, "a@d", Some("wrong"), None).await,
            Err(Refusal::InvalidCredentials)
        );
        assert_eq!(verify(&directory, &by, "a@d", None, None).await, Err(Refusal::InvalidCredentials));
        for name in ["A@d", "a@d ", "a", ""] {
            assert_eq!(verify(&directory, &by, name, Some("right"), None).await, Err(Refusal::UnknownUser));
        }
        assert_eq!(
            verify(&FileDirectory::default(), &by, "a@d", Some("right"), None).await,
            Err(Refusal::UnknownUser)
        );
    }

    #[test]
    fn the_slowest_hash_of_the_file_is_known() {
        let user = |name, password| User {
            name: UserName::new(name),
            password: Stored::parse(password).or_else(|_| Stored::parse_a1(password)).unwrap(),
            role: RoleName::new("user"),
            totp: None,
        };
        let argon2id = password::hash(&SecretString::from("x")).unwrap();
        let bcrypt = bcrypt::hash("x", 4).unwrap();
        let a1 = "0".repeat(32);
        let users = vec![user("a", &a1), user("b", &argon2id), user("c", &bcrypt), user("d", &a1)];
        assert_eq!(FileDirectory::new(users).slowest, Some(1));
        assert_eq!(FileDirectory::default().slowest, None);
    }

    #[tokio::test]
    async fn a_second_factor_is_told_of_only_behind_the_right_password() {
        let (directory, by) = (directory(), verifier());
        for (password, code, expected) in [
            ("wrong", None, Err(Refusal::InvalidCredentials)),
            ("right", None, Err(Refusal::CodeRequired)),
            ("right", Some(""), Err(Refusal::CodeRequired)),
            ("right", Some("000000"), Err(Refusal::WrongCode)),
            ("wrong", Some("287082"), Err(Refusal::InvalidCredentials)),
            ("right", Some("287082"), Ok("two@d".to_owned())),
            ("right", Some("287082"), Err(Refusal::WrongCode)),
        ] {
            assert_eq!(
                verify(&directory, &by, "two@d", Some(password), code).await,
                expected,
                "{password} {code:?}"
            );
        }
    }
}
