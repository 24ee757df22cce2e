//! Stored passwords: argon2id (PHC strings), bcrypt, and Webitel's a1.

use argon2::password_hash::PasswordHasher;
use argon2::password_hash::phc::PasswordHash;
use argon2::{Algorithm, Argon2, Params, PasswordVerifier, Version};
use aws_lc_rs::constant_time;
use md5::{Digest, Md5};
use std::hint::black_box;

use crate::identity::UserName;
use crate::secret::{ExposeSecret, SecretString};

/// A stored password as the user file has it. Prints nothing.
pub enum Stored {
    Argon2id(Box<PasswordHash>),
    Bcrypt(Box<str>),
    /// `md5(user:domain:password)`
    A1([u8; 16]),
}

/// The largest costs that are taken from a file: above them one login would stall the others for seconds.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 64;
/// Memory times passes: about ten seconds of one core.
const MAX_FILLED_KIB: u64 = 4 * 1024 * 1024;
const MAX_LANES: u32 = 16;
const MAX_BCRYPT_COST: u32 = 16;
/// bcrypt reads no further.
const BCRYPT_BYTES: usize = 72;

/// What is made for new passwords: OWASP's least cost for argon2id.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

impl Stored {
    /// From `password = "$argon2id$..."` or `"$2y$..."`. The message says what would be right and holds nothing
    /// of the text. A cost out of reason is refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("$argon2id$") {
            return argon2id(text);
        }
        if ["$2y$", "$2a$", "$2b$"].iter().any(|prefix| text.starts_with(prefix)) {
            return bcrypt(text);
        }
        Err("is no password hash; make one with `postern hash-password` ($argon2id$...), or use a bcrypt hash ($2y$...)".into())
    }

    /// From `a1 = "<md5 of user:domain:password>"`, 32 hexadecimal digits.
    pub fn parse_a1(text: &str) -> Result<Self, String> {
        let wrong = || "must be 32 hexadecimal digits, the md5 of user:domain:password".to_owned();
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self::A1(bytes))
    }

    /// How long a comparison takes, roughly, in units of a kibibyte filled once.
    #[must_use]
    pub fn cost(&self) -> u64 {
        match self {
            Self::Argon2id(hash) => Params::try_from(hash.as_ref())
                .map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost())),
            // A step of cost 10 takes about as long as 64 MiB filled once, and each step doubles it.
            Self::Bcrypt(hash) => hash
                .parse::<bcrypt::HashParts>()
                .map_or(0, |parts| 64u64 << parts.get_cost().min(MAX_BCRYPT_COST)),
            Self::A1(_) => 0,
        }
    }

    /// Whether this is the user's password. Slow on purpose for argon2id and bcrypt.
    #[must_use]
    pub fn verify(&self, user: &UserName, password: &SecretString) -> bool {
        let is_theirs = self.compare(user, password.expose_secret());
        wipe_stack();
        is_theirs
    }

    #[inline(never)]
    fn compare(&self, user: &UserName, password: &str) -> bool {
        match self {
            Self::Argon2id(hash) => {
                Argon2::default().verify_password(password.as_bytes(), hash.as_ref()).is_ok()
            }
            Self::Bcrypt(hash) => verify_bcrypt(password, hash),
            Self::A1(a1) => constant_time::verify_slices_are_equal(a1, &digest_a1(user, password)).is_ok(),
        }
    }
}

/// Hash functions copy what they read into blocks on the stack, and leave it there: this writes over it. More than they
/// use, and less than a hashing thread's stack has.
#[inline(never)]
fn wipe_stack() {
    black_box(&mut [0u8; 32 * 1024]);
}

/// An argon2id PHC string of a new password, for `postern hash-password`.
pub fn hash(password: &SecretString) -> Result<String, String> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).map_err(|error| error.to_string())?;
    let argon2id = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash =
        argon2id.hash_password(password.expose_secret().as_bytes()).map_err(|error| error.to_string())?;
    Ok(hash.to_string())
}

fn argon2id(text: &str) -> Result<Stored, String> {
    let hash = PasswordHash::new(text).map_err(|error| format!("is no argon2id PHC string: {error}"))?;
    let params =
        Params::try_from(&hash).map_err(|error| format!("has unusable argon2id parameters: {error}"))?;
    if hash.hash.is_none() || hash.salt.is_none() {
        return Err("is an argon2id PHC string without salt or hash".into());
    }
    let filled = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MAX_MEMORY_KIB
        || params.t_cost() > MAX_PASSES
        || params.p_cost() > MAX_LANES
        || filled > MAX_FILLED_KIB
    {
        return Err(format!(
            "costs too much for a login; at most m={MAX_MEMORY_KIB} (KiB), t={MAX_PASSES}, p={MAX_LANES} are taken"
        ));
    }
    Ok(Stored::Argon2id(Box::new(hash)))
}

fn bcrypt(text: &str) -> Result<Stored, String> {
    let parts = text.parse::<bcrypt::HashParts>().map_err(|error| format!("is no bcrypt hash: {error}"))?;
    if parts.get_cost() > MAX_BCRYPT_COST {
        return Err(format!(
            "costs too much for a login; a bcrypt cost of at most {MAX_BCRYPT_COST} is taken"
        ));
    }
    Ok(Stored::Bcrypt(text.into()))
}

/// bcrypt ends at a NUL and at 72 bytes: what differs behind must not pass as the same password.
fn verify_bcrypt(password: &str, hash: &str) -> bool {
    if password.len() > BCRYPT_BYTES || password.contains('\0') {
        return false;
    }
    bcrypt::verify(password, hash).unwrap_or(false)
}

/// `md5(user:domain:password)` (contract section 2); a user without a domain has an empty one.
fn digest_a1(user: &UserName, password: &str) -> [u8; 16] {
    let mut digest = Md5::new();
    for part in [user.local(), ":", user.domain().unwrap_or_default(), ":", password] {
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verify(stored: &Stored, password: &str) -> bool {
        stored.verify(&UserName::new("100@d"), &SecretString::from(password))
    }

    #[test]
    fn a_new_hash_is_argon2id_and_verifies() {
        let hash = hash(&SecretString::from("s3cret")).unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let stored = Stored::parse(&hash).unwrap();
        assert!(verify(&stored, "s3cret") && !verify(&stored, "s3cret ") && !verify(&stored, ""));
    }

    #[test]
    fn bcrypt_does_not_pass_what_it_would_cut_off() {
        let stored = Stored::parse(&bcrypt::hash("p".repeat(72), 4).unwrap()).unwrap();
        assert!(verify(&stored, &"p".repeat(72)));
        assert!(!verify(&stored, &"p".repeat(73)));
        let stored = Stored::parse(&bcrypt::hash("abc", 4).unwrap().replace("$2b$", "$2y$")).unwrap();
        assert!(verify(&stored, "abc") && !verify(&stored, "abc\0x"));
    }

    #[test]
    fn a1_is_the_md5_of_user_domain_and_password() {
        // md5("100:d:secret")
        let stored = Stored::parse_a1("b9d58cf1a0f1c3b5d4a5c5d7a0c4be1f").unwrap();
        assert!(!verify(&stored, "secret"));
        let digest = digest_a1(&UserName::new("100@d"), "secret");
        let hex: String = digest.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(Md5::digest("100:d:secret")[..], digest);
        assert!(verify(&Stored::parse_a1(&hex).unwrap(), "secret"));
        assert_eq!(Md5::digest("root::x")[..], digest_a1(&UserName::new("root"), "x"));
    }

    #[test]
    fn what_is_no_hash_or_costs_too_much_is_refused_without_repeating_it() {
        for text in [
            "plain-text",
            "",
            "$argon2id$",
            "$argon2i$v=19$m=16,t=2,p=1$c29tZXNhbHQ$aGFzaGhhc2hoYXNo",
            "$2y$10$tooshort",
            "$1$abc",
            "$argon2id$v=19$m=4194304,t=2,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng",
            "$argon2id$v=19$m=16,t=9999,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng",
            "$argon2id$v=19$m=1048576,t=5,p=1$c29tZXNhbHQ$MTIzNDU2Nzg5MDEyMzQ1Ng",
            "$2y$31$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234",
        ] {
            let fault = Stored::parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(text.is_empty() || !fault.contains(text), "{fault}");
        }
        for text in ["zz", "", "b9d58cf1a0f1c3b5d4a5c5d7a0c4be1", "+9d58cf1a0f1c3b5d4a5c5d7a0c4be1f\u{e9}"] {
            assert!(Stored::parse_a1(text).is_err(), "{text}");
        }
    }
}
