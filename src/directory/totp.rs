//! The second factor: time-based codes (RFC 6238), SHA-1, six digits, steps of 30 s, of which one off is good.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use totp_rs::{Algorithm, Builder, Secret, Totp};

use crate::clock::UnixMillis;
use crate::identity::UserName;
use crate::secret::{ExposeSecret, SecretSlice};

/// Decodes a TOTP secret file's text (base32, blanks and a final newline ignored).
pub fn secret(text: &str) -> Result<SecretSlice<u8>, String> {
    let plain: String = text.chars().filter(|c| !c.is_whitespace() && *c != '=').collect();
    let wrong = || "must hold a base32 secret (A-Z, 2-7)".to_owned();
    let secret = Secret::try_from_base32(plain.to_ascii_uppercase()).map_err(|_| wrong())?;
    if secret.as_bytes().is_empty() {
        return Err(wrong());
    }
    Ok(SecretSlice::from(secret.as_bytes().to_vec()))
}

/// The last step at which each user's code was taken: a code works once (RFC 6238 section 5.2), and none older than it.
#[derive(Default)]
pub struct UsedCodes(Mutex<HashMap<UserName, u64>>);

impl UsedCodes {
    /// Whether the code is good at `now` and was not used. Marks it as used in the same step, so that of several
    /// requests at once one has it.
    #[must_use]
    pub fn take(&self, user: &UserName, secret: &SecretSlice<u8>, code: &str, now: UnixMillis) -> bool {
        let Some(step) = generator(secret).check(code, now.0 / 1000) else { return false };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.get(user).is_some_and(|used| *used >= step) {
            return false;
        }
        last.insert(user.clone(), step);
        true
    }
}

/// Applications issue secrets shorter than the RFC's 128 bits, so those are taken too.
fn generator(secret: &SecretSlice<u8>) -> Totp {
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_skew(1)
        .with_step_duration(30)
        .with_secret(secret.expose_secret().to_vec())
        .build_noncompliant()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretSlice<u8> {
        // RFC 6238 appendix B.
        SecretSlice::from(b"12345678901234567890".to_vec())
    }

    fn at(seconds: u64) -> UnixMillis {
        UnixMillis(seconds * 1000)
    }

    #[test]
    fn the_rfcs_vectors_are_good_one_step_off_and_not_two() {
        for (seconds, good) in [(59, true), (89, true), (29, true), (119, false)] {
            let used = UsedCodes::default();
            assert_eq!(used.take(&UserName::new("a"), &key(), "287082", at(seconds)), good, "{seconds}");
        }
    }

    #[test]
    fn a_code_works_once_for_each_user() {
        let used = UsedCodes::default();
        let take = |name: &str, seconds| used.take(&UserName::new(name), &key(), "287082", at(seconds));
        assert_eq!([take("a", 59), take("a", 59), take("a", 80), take("b", 59)], [true, false, false, true]);
    }

    #[test]
    fn an_older_code_is_not_good_when_the_clock_is_set_back() {
        let (used, user) = (UsedCodes::default(), UserName::new("a"));
        assert!(used.take(&user, &key(), "081804", at(1_111_111_109)));
        assert!(!used.take(&user, &key(), "287082", at(59)));
    }

    #[test]
    fn odd_codes_are_wrong_and_no_more() {
        let used = UsedCodes::default();
        for code in [
            "",
            "0",
            "abc",
            "28708",
            "2870820",
            " 287082",
            "\u{661}\u{661}\u{661}\u{661}\u{661}\u{661}",
            "-87082",
        ] {
            assert!(!used.take(&UserName::new("a"), &key(), code, at(59)), "{code}");
        }
    }

    #[test]
    fn secrets_are_base32() {
        assert_eq!(
            secret("gezd gnbv gy3t qojq GEZDGNBVGY3TQOJQ\n").unwrap().expose_secret(),
            key().expose_secret()
        );
        for text in ["", "not base32 1890!", "\n"] {
            assert!(secret(text).is_err(), "{text}");
        }
    }
}
