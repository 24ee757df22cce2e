//! `[cors]` (contract sections 2 and 3): an `OPTIONS` is answered before anything is checked, and every answer
//! carries the same headers; an upstream's own are replaced.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, InvalidHeaderValue, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::Arc;
use std::time::Duration;

/// `[cors]`; absent: no CORS headers at all.
#[derive(Clone, Debug)]
pub struct CorsSettings {
    /// `*` or a list.
    pub allow_origins: Vec<String>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub max_age: Duration,
}

/// The headers, ready to be put on.
pub struct Cors {
    /// None: every origin.
    origins: Option<Vec<HeaderValue>>,
    methods: HeaderValue,
    headers: HeaderValue,
    max_age: HeaderValue,
    text: Arc<str>,
}

const ORIGIN: HeaderValue = HeaderValue::from_static("Origin");
const EVERY: HeaderValue = HeaderValue::from_static("*");

impl Cors {
    /// # Errors
    /// A method, header or origin that cannot stand in a header.
    pub fn new(settings: &CorsSettings) -> Result<Self, InvalidHeaderValue> {
        let every = settings.allow_origins.iter().any(|o| o == "*");
        let listed =
            || settings.allow_origins.iter().map(|o| HeaderValue::from_str(o)).collect::<Result<_, _>>();
        let mut cors = Self {
            origins: if every { None } else { Some(listed()?) },
            methods: HeaderValue::from_str(&settings.allow_methods.join(", "))?,
            headers: HeaderValue::from_str(&settings.allow_headers.join(", "))?,
            max_age: HeaderValue::from(settings.max_age.as_secs()),
            text: Arc::from(""),
        };
        cors.text = cors.written();
        Ok(cors)
    }

    /// What an answer to nobody in particular carries, as lines of a head, each with its end: for a request that could not
    /// be read, and whose origin is not known.
    #[must_use]
    pub fn as_text(&self) -> &Arc<str> {
        &self.text
    }

    fn written(&self) -> Arc<str> {
        let mut fields = HeaderMap::new();
        self.apply(None, &mut fields);
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()))
        };
        fields.iter().map(line).collect::<String>().into()
    }

    /// Puts the headers on an answer to a request with this `Origin`. An origin that is not allowed gets none that
    /// allows it.
    pub fn apply(&self, origin: Option<&HeaderValue>, answer: &mut HeaderMap) {
        remove_foreign(answer);
        let allowed = match (&self.origins, origin) {
            (None, None) => Some(EVERY),
            (None, Some(origin)) => Some(origin.clone()),
            (Some(list), Some(origin)) => list.contains(origin).then(|| origin.clone()),
            (Some(_), None) => None,
        };
        if let Some(allowed) = allowed {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone());
            answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        answer.append(VARY, ORIGIN);
    }
}

/// Every `Access-Control-*` that the upstream set, also those this gateway does not set itself.
fn remove_foreign(answer: &mut HeaderMap) {
    let foreign: Vec<HeaderName> =
        answer.keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
    for name in foreign {
        answer.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(origins: &[&str]) -> Cors {
        Cors::new(&CorsSettings {
            allow_origins: origins.iter().map(ToString::to_string).collect(),
            allow_methods: vec!["GET".into(), "PUT".into()],
            allow_headers: vec!["X-Key".into()],
            max_age: Duration::from_secs(86400),
        })
        .unwrap()
    }

    fn applied(cors: &Cors, origin: Option<&'static str>) -> HeaderMap {
        let mut answer = HeaderMap::new();
        answer.insert("access-control-allow-credentials", HeaderValue::from_static("true"));
        answer.insert("access-control-allow-origin", HeaderValue::from_static("https://upstream.example"));
        cors.apply(origin.map(HeaderValue::from_static).as_ref(), &mut answer);
        answer
    }

    #[test]
    fn every_origin_is_echoed_and_the_upstreams_headers_are_replaced() {
        let answer = applied(&cors(&["*"]), Some("https://a.example"));
        assert_eq!(answer["access-control-allow-origin"], "https://a.example");
        assert_eq!(answer["access-control-allow-methods"], "GET, PUT");
        assert_eq!(answer["access-control-max-age"], "86400");
        assert_eq!(answer["vary"], "Origin");
        assert!(!answer.contains_key("access-control-allow-credentials"));
        assert_eq!(applied(&cors(&["*"]), None)["access-control-allow-origin"], "*");
    }

    #[test]
    fn an_origin_that_is_not_listed_is_allowed_nothing() {
        let cors = cors(&["https://a.example"]);
        assert_eq!(
            applied(&cors, Some("https://a.example"))["access-control-allow-origin"],
            "https://a.example"
        );
        for origin in [Some("https://b.example"), None] {
            let answer = applied(&cors, origin);
            assert!(!answer.contains_key("access-control-allow-origin"));
            assert_eq!(answer["vary"], "Origin");
        }
    }
}
