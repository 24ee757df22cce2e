//! A token from anywhere is read without panic, and nothing but a good signature makes it ours. The input is read as it
//! is, and as a claim of a token that we sign.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::clock::UnixMillis;
use postern::secret::SecretSlice;
use postern::session::token::{Reading, TokenSettings, Tokens};
use std::time::Duration;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

fuzz_target!(|text: &str| {
    let tokens = |secret: &[u8]| {
        Tokens::new(&TokenSettings {
            secret: SecretSlice::from(secret.to_vec()),
            previous: Vec::new(),
            ttl: Duration::from_secs(60),
            claims: Vec::new(),
        })
    };
    let (ours, theirs) = (tokens(b"ours"), tokens(b"theirs"));
    assert!(matches!(ours.read(text, NOW), Reading::Other | Reading::BadDomain), "no signature of ours");

    let later = NOW.plus(Duration::from_secs(60));
    let Ok(domain) = ours.sign_domain(text, later, "d.test") else { return };
    let read = ours.read(&domain, NOW);
    // A token may be too long to be read at all.
    assert!(domain.len() > 8192 || matches!(&read, Reading::Domain(claims) if claims.id == text), "{read:?}");
    assert!(matches!(theirs.read(&domain, NOW), Reading::BadDomain | Reading::Other));
});
