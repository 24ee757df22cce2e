//! The body of a login is read as any other parser reads it, or refused: two strings under their names, each once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::gateway::login_body::LoginBody;
use postern::secret::ExposeSecret;
use serde_json::{Value, from_slice};

fuzz_target!(|data: &[u8]| {
    let read = LoginBody::read(data);
    // What is no JSON to the other parser may be a number too large in a field that nobody asks for.
    let Ok(value) = from_slice::<Value>(data) else { return };
    let text = |name: &str| match value.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => Err(()),
    };
    let (username, password) = (text("username"), text("password"));
    match read {
        Ok(body) => {
            assert!(value.is_object());
            assert_eq!(username, Ok(body.username.as_deref()));
            assert_eq!(password, Ok(body.password.as_ref().map(|password| password.expose_secret())));
        }
        // Written again no field is there twice, and nothing else can be wrong.
        Err(what) => {
            assert!(what.starts_with("The body is no login: "));
            let is_login = value.is_object() && username.is_ok() && password.is_ok();
            assert_eq!(LoginBody::read(value.to_string().as_bytes()).is_ok(), is_login);
        }
    }
});
