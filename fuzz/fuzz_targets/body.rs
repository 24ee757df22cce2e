//! A JSON body is judged by its top level: what another parser finds there is found here too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::access::body::{BodyFault, BodyRules, FieldRule, Roles};
use postern::access::credentials::CredentialNames;

/// The caller may give `user` and nothing else.
struct OnlyUser;

impl Roles for OnlyUser {
    fn exists(&self, role: &str) -> bool {
        role.eq_ignore_ascii_case("user")
    }
    fn is_within_callers(&self, role: &str) -> bool {
        role == "user"
    }
}

fuzz_target!(|data: &[u8]| {
    let rules = BodyRules {
        reject_credentials: true,
        fields: vec![("role".to_owned(), FieldRule::AtMostOwn), ("t".to_owned(), FieldRule::Absent)],
    };
    let judged = rules.judge(data, &CredentialNames::default(), &OnlyUser);
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(data) else { return };
    assert!(!matches!(judged, Err(BodyFault::NotJson | BodyFault::NotUtf8)));
    let Some(top) = value.as_object() else { return assert_eq!(judged, Ok(())) };
    // The library keeps the last of equal names; all of them are judged here.
    let bad = top.contains_key("access_token")
        || top.contains_key("x_key")
        || top.keys().any(|name| name == "t" || name.starts_with("t."))
        || top.get("role").is_some_and(|role| role != "user");
    assert!(!bad || judged.is_err());
});
