//! A request, written out byte by byte.

use super::session::Session;

/// A request to be sent. Nothing is added that the test did not ask for, but `Host` and the length of a body.
#[derive(Clone, Debug)]
pub struct Ask {
    pub method: String,
    pub target: Vec<u8>,
    host: Option<String>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Option<Vec<u8>>,
    framed: bool,
}

impl Ask {
    pub fn new(method: &str, target: impl AsRef<[u8]>) -> Self {
        Self {
            method: method.to_owned(),
            target: target.as_ref().to_vec(),
            host: Some("localhost".to_owned()),
            fields: Vec::new(),
            body: None,
            framed: false,
        }
    }

    pub fn get(target: impl AsRef<[u8]>) -> Self {
        Self::new("GET", target)
    }

    pub fn post(target: impl AsRef<[u8]>) -> Self {
        Self::new("POST", target)
    }

    /// `POST /login` with a user and a password.
    pub fn login(user: &str, password: &str) -> Self {
        Self::post("/login").json(&serde_json::json!({"username": user, "password": password}))
    }

    /// The session's credentials, as headers.
    pub fn with(self, session: &Session) -> Self {
        self.header("X-Access-Token", &session.token).header("X-Key", &session.key)
    }

    pub fn header(mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.fields.push((name.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn without_host(mut self) -> Self {
        self.host = None;
        self
    }

    /// A body with its `Content-Length`.
    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = Some(body.as_ref().to_vec());
        self
    }

    /// A JSON body with its `Content-Type`.
    pub fn json(self, value: &serde_json::Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string())
    }

    /// A body that frames itself: the test says how long it is, or lies about it.
    pub fn raw_body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.framed = true;
        self.body(body)
    }

    /// A chunked body of one chunk.
    pub fn chunked(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let mut framed = format!("{:x}\r\n", body.len()).into_bytes();
        framed.extend_from_slice(body);
        framed.extend_from_slice(b"\r\n0\r\n\r\n");
        self.header("Transfer-Encoding", "chunked").raw_body(framed)
    }

    /// The bytes on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(self.method.as_bytes());
        out.push(b' ');
        out.extend_from_slice(&self.target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        if let Some(host) = &self.host {
            push_field(&mut out, b"Host", host.as_bytes());
        }
        for (name, value) in &self.fields {
            push_field(&mut out, name, value);
        }
        if let Some(body) = self.body.as_ref().filter(|_| !self.framed) {
            push_field(&mut out, b"Content-Length", body.len().to_string().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(self.body.as_deref().unwrap_or_default());
        out
    }
}

fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
