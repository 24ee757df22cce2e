//! An answer as the client saw it, and what is asserted of answers again and again.

use serde_json::Value;

use super::wire::{Body, Head};

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Statuses of the informational answers before it.
    pub interim: Vec<u16>,
    /// Whether the body came whole, as its framing says.
    pub complete: bool,
}

impl Answer {
    pub fn new(head: Head, body: Body, interim: Vec<u16>, complete: bool) -> Self {
        let status = status_of(&head);
        Self { status, head, body: body.bytes, trailers: body.trailers, interim, complete }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.brief()))
    }

    /// `info` of an error, empty when there is none.
    pub fn info(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["info"].as_str().unwrap_or_default().to_owned()
    }

    pub fn brief(&self) -> String {
        let body: String = self.text().chars().take(300).collect();
        format!("{} {body}", self.head.start)
    }

    /// 200, whole.
    #[track_caller]
    pub fn assert_ok(&self) -> &Self {
        assert_eq!(self.status, 200, "{}", self.brief());
        assert!(self.complete, "the answer broke off: {}", self.brief());
        self
    }

    /// An error of the gateway's own (contract section 4), whatever its text.
    #[track_caller]
    pub fn assert_error(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.brief());
        assert!(self.complete, "the answer broke off: {}", self.brief());
        let media_type = self.header("content-type").unwrap_or_default();
        assert!(media_type.starts_with("application/json"), "Content-Type of an error: {media_type:?}");
        let body = self.json();
        let fields: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        assert_eq!(fields, ["info", "status"], "{body}");
        assert_eq!(body["status"], "error");
        assert!(body["info"].as_str().is_some_and(|info| !info.is_empty()), "{body}");
        assert!(
            self.header("x-request-id").is_some_and(|id| !id.is_empty()),
            "no X-Request-Id: {}",
            self.head.text()
        );
        self
    }

    /// An error of the gateway's own with this text.
    #[track_caller]
    pub fn assert_refusal(&self, status: u16, info: &str) -> &Self {
        self.assert_error(status);
        assert_eq!(self.info(), info);
        self
    }
}

/// The status code of a status line.
pub fn status_of(head: &Head) -> u16 {
    let mut words = head.start.split(' ');
    let version = words.next().unwrap_or_default();
    assert!(version == "HTTP/1.1" || version == "HTTP/1.0", "a status line: {:?}", head.start);
    words.next().and_then(|w| w.parse().ok()).unwrap_or_else(|| panic!("a status line: {:?}", head.start))
}
