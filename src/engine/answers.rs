//! What the engine answers, read strictly where a session is made of it and passed on as it is where it refuses.

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use serde::Deserialize;
use std::collections::BTreeMap;

use super::Reply;
use crate::clock::UnixMillis;
use crate::permission::{Acl, Permission};
use crate::secret::SecretString;

/// The largest refusal that is passed on.
const MAX_REFUSAL: usize = 16 * 1024;

/// A good login: what a session is made of, and the answer as it came.
pub struct LoginAnswer {
    pub key: SecretString,
    pub token: SecretString,
    /// As the engine has it; the name that was sent where it does not say.
    pub username: Option<String>,
    pub role_name: String,
    pub expires: UnixMillis,
    pub acl: Acl,
    /// The whole object, JSON.
    pub body: Bytes,
}

/// A refusal, to be passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    pub status: StatusCode,
    pub content_type: Option<HeaderValue>,
    pub body: Bytes,
}

/// How the engine answered a login.
pub enum LoginReply {
    Good(Box<LoginAnswer>),
    Refused(Passed),
}

/// Who holds the credentials that were asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whoami {
    /// `100@mydomain.com`; a domain token's is `uuid@domain`.
    pub id: String,
    pub role_name: String,
    /// None for a domain token.
    pub expires: Option<UnixMillis>,
    /// Inherited resources merged in.
    pub acl: Acl,
}

#[derive(Deserialize)]
struct LoginFields {
    key: String,
    token: String,
    username: Option<String>,
    #[serde(rename = "roleName")]
    role_name: Option<String>,
    expires: u64,
    acl: Option<Resources>,
}

#[derive(Deserialize)]
struct WhoamiFields {
    id: String,
    #[serde(rename = "roleName")]
    role_name: Option<String>,
    expires: Option<u64>,
    acl: Option<Resources>,
}

/// Words that are no permissions grant nothing.
type Resources = BTreeMap<String, Vec<String>>;

impl LoginReply {
    pub(super) fn read(reply: Reply) -> Result<Self, String> {
        let Reply { status, content_type, body } = reply;
        match status.as_u16() {
            200 => good(body).map(|answer| Self::Good(Box::new(answer))),
            300..500 if body.len() <= MAX_REFUSAL => Ok(Self::Refused(Passed { status, content_type, body })),
            300..500 => Err(format!("its refusal is larger than {MAX_REFUSAL} bytes")),
            status => Err(format!("it answered {status}")),
        }
    }
}

fn good(body: Bytes) -> Result<LoginAnswer, String> {
    // A message of the library would name a value.
    let fields: LoginFields = serde_json::from_slice(&body).map_err(|_| "its 200 is no login".to_owned())?;
    if !is_credential(&fields.key) || !is_credential(&fields.token) {
        return Err("its 200 holds a key or token that no header could carry".to_owned());
    }
    Ok(LoginAnswer {
        key: fields.key.into(),
        token: fields.token.into(),
        username: fields.username.filter(|name| !name.is_empty()),
        role_name: fields.role_name.unwrap_or_default(),
        expires: UnixMillis(fields.expires),
        acl: acl(fields.acl),
        body,
    })
}

impl Whoami {
    /// None: the credentials are not good there.
    pub(super) fn read(reply: &Reply) -> Result<Option<Self>, String> {
        match reply.status.as_u16() {
            200 => {}
            401 | 403 => return Ok(None),
            status => return Err(format!("it answered {status}")),
        }
        let fields: WhoamiFields =
            serde_json::from_slice(&reply.body).map_err(|_| "its 200 tells no caller".to_owned())?;
        if fields.id.is_empty() {
            return Err("its 200 names no caller".to_owned());
        }
        Ok(Some(Self {
            id: fields.id,
            role_name: fields.role_name.unwrap_or_default(),
            expires: fields.expires.map(UnixMillis),
            acl: acl(fields.acl),
        }))
    }
}

fn is_credential(text: &str) -> bool {
    !text.is_empty() && text.len() <= 8192 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn acl(resources: Option<Resources>) -> Acl {
    let held = |words: Vec<String>| words.iter().filter_map(|word| Permission::parse(word)).collect();
    resources.unwrap_or_default().into_iter().map(|(name, words)| (name, held(words))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        let status = StatusCode::from_u16(status).unwrap();
        Reply { status, content_type: None, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn a_caller_is_read_with_his_rights() {
        let body = r#"{"acl":{"cdr":["r","ro","xx"],"hook":["*"]},"id":"100@d","domain":"d","roleName":"user","expires":5,"cdr":{},"verto":"x"}"#;
        let caller = Whoami::read(&reply(200, body)).unwrap().unwrap();
        assert_eq!((caller.id.as_str(), caller.role_name.as_str()), ("100@d", "user"));
        assert_eq!(caller.expires, Some(UnixMillis(5)));
        assert!(caller.acl.holds(Permission::ReadOwn, "cdr") && caller.acl.holds(Permission::All, "hook"));
        assert!(!caller.acl.holds(Permission::Update, "cdr"));
    }

    #[test]
    fn what_is_no_answer_is_a_failure_and_only_a_refusal_is_a_no() {
        for status in [401, 403] {
            assert_eq!(Whoami::read(&reply(status, "{}")), Ok(None));
        }
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, r#"{"id":""}"#),
            (200, r#"{"id":["a"]}"#),
            (404, ""),
            (500, ""),
            (302, ""),
        ] {
            assert!(Whoami::read(&reply(status, body)).is_err(), "{status} {body}");
        }
    }

    #[test]
    fn a_login_is_made_of_a_whole_answer_alone() {
        let read = |status, body: &str| LoginReply::read(reply(status, body));
        let good =
            r#"{"key":"k","token":"t","expires":7,"username":"100@d","roleName":"user","acl":{"cdr":["r"]}}"#;
        let Ok(LoginReply::Good(answer)) = read(200, good) else { panic!() };
        assert_eq!((answer.expires, answer.username.as_deref()), (UnixMillis(7), Some("100@d")));
        for body in [
            "",
            "{}",
            r#"{"key":"k","token":"t"}"#,
            r#"{"key":"a b","token":"t","expires":7}"#,
            r#"{"key":"k","token":"","expires":7}"#,
            r#"{"key":"k","token":"t","expires":-1}"#,
        ] {
            assert!(read(200, body).is_err(), "{body}");
        }
        for status in [301, 400, 401, 404] {
            assert!(
                matches!(read(status, "no"), Ok(LoginReply::Refused(p)) if p.status == status && p.body == "no")
            );
        }
        assert!(read(500, "").is_err() && read(401, &"x".repeat(MAX_REFUSAL + 1)).is_err());
    }
}
