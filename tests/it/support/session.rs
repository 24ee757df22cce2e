//! What a good login gave.

use serde_json::Value;

/// A session's credentials, and the whole answer they came in.
#[derive(Clone, Debug)]
pub struct Session {
    pub key: String,
    pub token: String,
    pub answer: Value,
}

impl Session {
    pub fn of(answer: Value) -> Self {
        let text =
            |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}")).to_owned();
        Self { key: text("key"), token: text("token"), answer }
    }

    /// The credentials as a query string.
    pub fn query(&self) -> String {
        format!("access_token={}&x_key={}", self.token, self.key)
    }
}
