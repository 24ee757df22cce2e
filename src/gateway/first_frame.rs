//! The first message of a WebSocket on a route with `websocket = "first_frame"` (contract section 4): who it is from, and
//! whether he may open the socket. Judged by the configuration that its upgrade began with.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::Shared;
use super::live::ThreadLive;
use super::login::{LoggedIn, LoginContext, LoginError};
use crate::access::path::CanonicalPath;
use crate::access::{Principal, Reason};
use crate::directory::Proof;
use crate::engine::Engine;
use crate::object::Object;
use crate::secret::{ExposeSecret, SecretString};
use crate::session::ends::Cause;
use crate::session::engine_logout::Leaving;
use crate::telemetry::audit;
use crate::upstream::{Admitted, Judge, OnClose};

/// `{"exec-func": "auth", "exec-args": {...}}`; a field twice is none.
#[derive(serde::Deserialize)]
struct Message {
    #[serde(rename = "exec-func")]
    func: String,
    #[serde(rename = "exec-args")]
    args: Object<Arguments>,
}

#[derive(serde::Deserialize)]
struct Arguments {
    key: Option<String>,
    token: Option<SecretString>,
    account: Option<String>,
    secret: Option<SecretString>,
    code: Option<Code>,
}

/// Of the second factor: digits as a text or as a number.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Code {
    Text(String),
    Number(u64),
}

/// How someone introduces himself.
enum Introduction {
    Credentials { token: SecretString, key: Option<SecretString> },
    Account { account: String, proof: Proof },
}

/// Why nobody is let in.
enum Refused {
    NoIntroduction,
    Caller(Reason),
    Login(LoginError),
}

impl Refused {
    fn as_str(&self) -> &'static str {
        match self {
            Self::NoIntroduction => "no_auth",
            Self::Caller(reason) => reason.as_str(),
            Self::Login(error) => error.as_str(),
        }
    }
}

/// A socket that waits for its first message.
pub(super) struct Door {
    pub(super) shared: Arc<Shared>,
    pub(super) thread: Rc<ThreadLive>,
    pub(super) path: CanonicalPath,
    pub(super) query: Option<String>,
    pub(super) client: IpAddr,
}

impl Door {
    pub(super) fn judge(self) -> Judge {
        Box::new(move |text| {
            Box::pin(async move {
                let admitted = self.admitted(&text).await;
                let user = admitted.as_ref().ok().map(|admitted| admitted.principal.user().clone());
                let result = admitted.as_ref().map_or_else(Refused::as_str, |_| "ok");
                audit::websocket(user.as_ref(), self.client, result);
                admitted.ok()
            })
        })
    }

    async fn admitted(&self, text: &[u8]) -> Result<Admitted, Refused> {
        let access = &self.thread.access;
        let introduction = introduction(text, self.client).ok_or(Refused::NoIntroduction)?;
        let (principal, logged_in) = match introduction {
            Introduction::Credentials { token, key } => {
                let key = key.as_ref().map(|key| key.expose_secret());
                let now = self.shared.clock.now();
                let caller = access.introduced(token.expose_secret(), key, self.client, now).await;
                (caller.map_err(Refused::Caller)?, None)
            }
            Introduction::Account { account, proof } => {
                let logged_in = self.login(&account, proof).await.map_err(Refused::Login)?;
                (Principal::Session(Arc::clone(&logged_in.session)), Some(logged_in))
            }
        };
        let on_close = logged_in.map(|logged_in| self.farewell(logged_in));
        // Refused, the session ends with the dropping of what ends it.
        access.admits(&self.path, self.query.as_deref(), &principal).map_err(Refused::Caller)?;
        Ok(Admitted { principal, on_close })
    }

    /// As `/login` does, throttle included.
    async fn login(&self, account: &str, proof: Proof) -> Result<LoggedIn, LoginError> {
        let live = &*self.thread.live;
        let context = LoginContext {
            directory: &live.directory,
            settings: &live.login,
            access: &self.thread.access,
            tokens: &live.tokens,
            body_timeout: live.limits.body_timeout,
            is_stored: false,
        };
        let outcome = self.shared.login.judged(&context, account, proof).await;
        let result = outcome.as_ref().map_or_else(LoginError::as_str, |_| "ok");
        self.shared.metrics.login(result);
        let user = outcome.as_ref().ok().map(|logged_in| &logged_in.session.user);
        audit::login(user.or_else(|| live.directory.known(account)), self.client, result);
        outcome
    }

    /// The session of a login by first message ends with its socket, here and at the engine that made it.
    fn farewell(&self, logged_in: LoggedIn) -> OnClose {
        let (shared, engine) = (Arc::clone(&self.shared), self.thread.live.engine.clone());
        OnClose::new(move || {
            // None: the program has ended, and the session with it.
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { leave(&shared, engine, logged_in).await });
            }
        })
    }
}

async fn leave(shared: &Shared, engine: Option<Arc<Engine>>, logged_in: LoggedIn) {
    let LoggedIn { session, token, key, .. } = logged_in;
    let ended = match (engine, session.adopted()) {
        (Some(engine), Some(_)) => {
            let leaving = Leaving { engine, token, key, expires: session.expires };
            shared.engine_logouts.end(session.id, Cause::SocketClosed, leaving).await
        }
        _ => shared.login.sessions().end(&session.id, Cause::SocketClosed).await,
    };
    if let Err(error) = ended {
        tracing::warn!(%error, "the end of a socket's session is not stored yet");
    }
}

/// Whether a first message is an introduction, by form; for `fuzz/`.
#[must_use]
pub fn is_introduction(text: &[u8]) -> bool {
    introduction(text, IpAddr::from([0, 0, 0, 0])).is_some()
}

/// None for anything that is not an introduction in one way.
fn introduction(text: &[u8], client: IpAddr) -> Option<Introduction> {
    // A text message is UTF-8 (RFC 6455 section 5.6), also where the reader would skip a field unseen.
    let text = std::str::from_utf8(text).ok()?;
    let Object(Message { func, args: Object(args) }) = serde_json::from_str(text).ok()?;
    if func != "auth" {
        return None;
    }
    match args {
        Arguments { key, token: Some(token), account: None, secret: None, .. } => {
            Some(Introduction::Credentials { token, key: key.map(SecretString::from) })
        }
        Arguments { key: None, token: None, account: Some(account), secret, code } if !account.is_empty() => {
            let code = code.map(|code| match code {
                Code::Text(text) => text,
                Code::Number(number) => format!("{number:06}"),
            });
            let proof = Proof { password: secret, code, client };
            Some(Introduction::Account { account, proof })
        }
        Arguments { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> &'static str {
        match introduction(text.as_bytes(), IpAddr::from([127, 0, 0, 1])) {
            None => "none",
            Some(Introduction::Credentials { key: Some(_), .. }) => "session",
            Some(Introduction::Credentials { key: None, .. }) => "token",
            Some(Introduction::Account { .. }) => "account",
        }
    }

    #[test]
    fn a_list_is_no_introduction() {
        assert_eq!(kind(r#"["auth",{"key":"k","token":"t"}]"#), "none");
        assert_eq!(kind(r#"["auth",["k","t",null,null,null]]"#), "none");
    }

    #[test]
    fn an_introduction_is_of_one_kind() {
        for (args, expected) in [
            (r#"{"key":"k","token":"t"}"#, "session"),
            (r#"{"token":"t"}"#, "token"),
            (r#"{"token":"t","key":null,"other":[1]}"#, "token"),
            (r#"{"account":"100@d","secret":"s"}"#, "account"),
            (r#"{"account":"root","secret":"s","code":"012345"}"#, "account"),
            (r#"{"account":"root","secret":"s","code":12345}"#, "account"),
            (r#"{"account":"root"}"#, "account"),
            (r#"{"key":"k"}"#, "none"),
            (r#"{}"#, "none"),
            (r#"[]"#, "none"),
            (r#"["k","t",null,null,null]"#, "none"),
            (r#"[null,null,"root","s",null]"#, "none"),
            (r#"{"account":""}"#, "none"),
            (r#"{"account":["root"],"secret":"s"}"#, "none"),
            (r#"{"key":"k","token":"t","account":"a"}"#, "none"),
            (r#"{"token":"t","secret":"s"}"#, "none"),
            (r#"{"key":"k","account":"a","secret":"s"}"#, "none"),
            (r#"{"token":"t","token":"u"}"#, "none"),
            (r#"{"token":"t","\u0074oken":"u"}"#, "none"),
            (r#"{"token":{"$ne":1},"key":"k"}"#, "none"),
            (r#"{"account":"root","code":{"a":1}}"#, "none"),
        ] {
            assert_eq!(
                kind(&format!(r#"{{"exec-uuid":"1","exec-func":"auth","exec-args":{args}}}"#)),
                expected,
                "{args}"
            );
        }
    }

    #[test]
    fn any_other_message_is_none() {
        let args = r#""exec-args":{"key":"k","token":"t"}"#;
        for text in [
            "".to_owned(),
            "auth".to_owned(),
            format!(r#"{{"exec-func":"hangup",{args}}}"#),
            format!(r#"{{"exec-func":"Auth",{args}}}"#),
            format!(r#"{{"exec-func":["auth"],{args}}}"#),
            format!(r#"{{{args}}}"#),
            format!(r#"{{"exec-func":"auth","exec-func":"hangup",{args}}}"#),
            format!(r#"{{"exec-func":"auth",{args},{args}}}"#),
            format!(r#"{{"exec-func":"auth",{args}}}{{"exec-func":"hangup"}}"#),
            format!(r#"[{{"exec-func":"auth",{args}}}]"#),
            r#"{"exec-func":"auth"}"#.to_owned(),
        ] {
            assert_eq!(kind(&text), "none", "{text}");
        }
    }

    #[test]
    fn what_is_no_utf8_is_none_wherever_it_stands() {
        for bytes in [
            &b"{\"exec-func\":\"auth\",\"exec-args\":{\"token\":\"t\"},\"x\":\"\xff\"}"[..],
            b"{\"exec-func\":\"auth\",\"exec-args\":{\"token\":\"t\",\"x\":\"\xed\xa0\x80\"}}",
        ] {
            assert!(!is_introduction(bytes), "{bytes:?}");
        }
        assert!(is_introduction(
            b"{\"exec-func\":\"auth\",\"exec-args\":{\"token\":\"t\"},\"x\":\"\xc3\xbc\"}"
        ));
    }
}
