//! What a route asks of a request's JSON body (contract section 2, `body_credentials` and `body`): the top level alone is
//! looked at, read as a backend's parser would read it. Reads bytes; who sends them and how is not known here.

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use std::fmt;

use super::credentials::CredentialNames;

/// What is asked; nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyRules {
    /// `body_credentials = "reject"`: no credential may stand at the top level.
    pub reject_credentials: bool,
    /// `body`: a rule for each of these names.
    pub fields: Vec<(String, FieldRule)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldRule {
    /// Neither the name nor one that reaches into it (`name.0.x`) may be there.
    Absent,
    /// Names no role of the configuration, whatever its letter case.
    NewRole,
    /// Names a role of the configuration that may do nothing that the caller may not.
    AtMostOwn,
}

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body does not parse as JSON")]
    NotJson,
    #[error("a credential stands in the body")]
    Credential,
    #[error("a field of the body asks for more than the caller may give")]
    Field,
}

/// What the rules ask of roles.
pub trait Roles {
    /// Whether the configuration has it, whatever its letter case.
    fn exists(&self, role: &str) -> bool;
    /// Whether it exists and may do nothing that the caller may not.
    fn is_within_callers(&self, role: &str) -> bool;
}

impl BodyRules {
    /// Whether nothing is asked, so that bodies need not be read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.reject_credentials && self.fields.is_empty()
    }

    /// Judges a whole JSON body. An empty one is none.
    pub fn judge(&self, body: &[u8], names: &CredentialNames, roles: &impl Roles) -> Result<(), BodyFault> {
        let text = std::str::from_utf8(body).map_err(|_| BodyFault::NotUtf8)?;
        if body.is_empty() {
            return Ok(());
        }
        let mut found = None;
        let top = Top { rules: self, names, roles, found: &mut found };
        let mut json = serde_json::Deserializer::from_str(text);
        let is_object = text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{');
        let read = if is_object { json.deserialize_map(top) } else { ignored(&mut json) };
        read.and_then(|()| json.end()).map_err(|_| BodyFault::NotJson)?;
        found.map_or(Ok(()), Err)
    }
}

fn ignored<'de, D: Deserializer<'de>>(json: D) -> Result<(), D::Error> {
    // Skips without recursion, however deep it is.
    json.deserialize_ignored_any(IgnoredAny).map(|_| ())
}

/// Goes through the names of the top level.
struct Top<'r, R> {
    rules: &'r BodyRules,
    names: &'r CredentialNames,
    roles: &'r R,
    found: &'r mut Option<BodyFault>,
}

impl<'de, R: Roles> Visitor<'de> for Top<'_, R> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            let name = name.as_slice();
            if self.rules.reject_credentials && is_credential(name, self.names) {
                self.found.get_or_insert(BodyFault::Credential);
            }
            let rule = self.rules.fields.iter().find(|(field, rule)| concerns(*rule, field, name));
            let holds = match rule.map(|(_, rule)| *rule) {
                None => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
                Some(FieldRule::Absent) => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
                Some(FieldRule::NewRole) => {
                    text(map.next_value()?).is_some_and(|role| !self.roles.exists(&role))
                }
                Some(FieldRule::AtMostOwn) => {
                    text(map.next_value()?).is_some_and(|role| self.roles.is_within_callers(&role))
                }
            };
            if !holds {
                self.found.get_or_insert(BodyFault::Field);
            }
        }
        Ok(())
    }
}

/// What is no text is no role either.
fn text(value: serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    }
}

fn concerns(rule: FieldRule, field: &str, name: &[u8]) -> bool {
    let rest = name.strip_prefix(field.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || (rule == FieldRule::Absent && rest.starts_with(b".")))
}

/// The documented names and those that the configuration reads from a query.
fn is_credential(name: &[u8], names: &CredentialNames) -> bool {
    names.in_query().any(|known| known.as_bytes() == name)
}

/// A name, its escapes read. Bytes: half of a surrogate pair is good JSON and no UTF-8.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Vec<u8>, D::Error> {
        name.deserialize_bytes(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_bytes<E: Error>(self, name: &[u8]) -> Result<Vec<u8>, E> {
        Ok(name.to_vec())
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Vec<u8>, E> {
        Ok(name.as_bytes().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The caller may give `user`; `admin` exists too.
    struct Some2;

    impl Roles for Some2 {
        fn exists(&self, role: &str) -> bool {
            ["user", "admin"].iter().any(|known| known.eq_ignore_ascii_case(role))
        }
        fn is_within_callers(&self, role: &str) -> bool {
            role == "user"
        }
    }

    fn rules(reject_credentials: bool, fields: &[(&str, FieldRule)]) -> BodyRules {
        let fields = fields.iter().map(|(name, rule)| ((*name).to_owned(), *rule)).collect();
        BodyRules { reject_credentials, fields }
    }

    fn judge(rules: &BodyRules, body: &str) -> Result<(), BodyFault> {
        rules.judge(body.as_bytes(), &CredentialNames::default(), &Some2)
    }

    #[test]
    fn credentials_at_the_top_level_are_found_however_they_are_written() {
        let reject = rules(true, &[]);
        for body in [
            r#"{"access_token":"x"}"#,
            r#"{"x_key":{"$in":["a"]}}"#,
            r#" {"a":1,"x_\u006bey":null}"#,
            r#"{"\u0061ccess_token":1}"#,
            "\n\t{\"x_key\":1,\"x_key\":2}",
        ] {
            assert_eq!(judge(&reject, body), Err(BodyFault::Credential), "{body}");
        }
        for body in [
            "",
            "{}",
            "[]",
            r#"[{"x_key":1}]"#,
            r#"{"a":{"x_key":1}}"#,
            r#"{"X_KEY":1,"x_key ":1,"xkey":1,"x_key[]":1}"#,
            r#""x_key""#,
            "null",
            r#"{"\ud800":1}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1e999}"#,
        ] {
            assert_eq!(judge(&reject, body), Ok(()), "{body}");
        }
    }

    #[test]
    fn what_does_not_parse_is_refused_whatever_stands_in_it() {
        for body in [
            " ",
            "{",
            "{\"a\":}",
            "{\"a\":1}x",
            "{'a':1}",
            "{\"a\":1,}",
            "{a:1}",
            "\u{feff}{}",
            "{\"a\":01}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\u{1}\"}",
            "{\"x_key\":1",
            "{\"a\":1}{\"x_key\":1}",
            "nul",
        ] {
            assert_eq!(judge(&rules(true, &[]), body), Err(BodyFault::NotJson), "{body}");
        }
        let broken = rules(true, &[]).judge(b"{\"a\":\"\xff\"}", &CredentialNames::default(), &Some2);
        assert_eq!(broken, Err(BodyFault::NotUtf8));
    }

    #[test]
    fn depth_is_no_matter() {
        let deep = format!("{{\"a\":{}1{},\"x_key\":1}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(judge(&rules(true, &[]), &deep), Err(BodyFault::Credential));
        let open = format!("{{\"a\":{}", "[".repeat(200_000));
        assert_eq!(judge(&rules(true, &[]), &open), Err(BodyFault::NotJson));
    }

    #[test]
    fn a_field_keeps_its_rule_each_time_it_is_there() {
        let own = rules(false, &[("role", FieldRule::AtMostOwn)]);
        for body in ["{}", r#"{"role":"user"}"#, r#"{"x":{"role":"admin"},"ROLE":1}"#] {
            assert_eq!(judge(&own, body), Ok(()), "{body}");
        }
        for body in [
            r#"{"role":"admin"}"#,
            r#"{"role":"ghost"}"#,
            r#"{"role":"user","role":"admin"}"#,
            r#"{"role":"admin","role":"user"}"#,
            r#"{"role":["user"]}"#,
            r#"{"role":null}"#,
            r#"{"r\u006fle":"admin"}"#,
        ] {
            assert_eq!(judge(&own, body), Err(BodyFault::Field), "{body}");
        }
        let new = rules(false, &[("roles", FieldRule::NewRole)]);
        assert_eq!(judge(&new, r#"{"roles":"other","parents":"user"}"#), Ok(()));
        for body in [r#"{"roles":"Admin"}"#, r#"{"roles":"user"}"#, r#"{"roles":["x"]}"#] {
            assert_eq!(judge(&new, body), Err(BodyFault::Field), "{body}");
        }
        let absent = rules(false, &[("tokens", FieldRule::Absent)]);
        assert_eq!(judge(&absent, r#"{"tokens_":1,"token":2,"a":{"tokens":1}}"#), Ok(()));
        for body in [r#"{"tokens":[]}"#, r#"{"tokens.0.roleName":"root"}"#, r#"{"t\u006fkens":null}"#] {
            assert_eq!(judge(&absent, body), Err(BodyFault::Field), "{body}");
        }
    }

    proptest! {
        /// What this reader takes, the library's own does, and the other way round.
        #[test]
        fn it_reads_what_a_json_parser_reads(body in r#"[\{\}\[\]",:a0-9\\ue. -]{0,24}"#) {
            let value = serde_json::from_str::<serde_json::Value>(&body);
            let judged = judge(&rules(true, &[]), &body);
            if !body.is_empty() && value.is_ok() {
                prop_assert_ne!(judged, Err(BodyFault::NotJson));
            }
        }

        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = rules(true, &[("a", FieldRule::AtMostOwn)]).judge(&body, &CredentialNames::default(), &Some2);
        }
    }
}
