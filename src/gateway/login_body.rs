//! The body of `POST /login`: read strictly, so that no two readers see two logins in it. What is said about a fault
//! names a field and a place, never a value.

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;

use crate::secret::SecretString;

/// What a client sent. A field that is missing, null or empty is none.
#[derive(Default)]
pub struct LoginBody {
    pub username: Option<String>,
    pub password: Option<SecretString>,
}

impl LoginBody {
    /// # Errors
    /// What is wrong, for the client.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        // All of it: of a field that is ignored the reader would skip the bytes unseen.
        let text = std::str::from_utf8(bytes).map_err(|_| "The body is no UTF-8".to_owned())?;
        serde_json::from_str(text).map_err(|error| format!("The body is no login: {error}"))
    }
}

impl<'de> Deserialize<'de> for LoginBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = LoginBody;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with username and password")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<LoginBody, A::Error> {
        let mut body = LoginBody::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            match name.as_str() {
                "username" => body.username = map.next_value::<Text>()?.named("username")?,
                "password" => {
                    body.password = map.next_value::<Text>()?.named("password")?.map(SecretString::from)
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            if !seen.insert(name) {
                return Err(A::Error::custom("a field is given twice"));
            }
        }
        Ok(body)
    }

    // Without these the library's own message would repeat the value.
    fn visit_str<E: Error>(self, _: &str) -> Result<LoginBody, E> {
        Err(no_object())
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<LoginBody, E> {
        Err(no_object())
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<LoginBody, E> {
        Err(no_object())
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<LoginBody, E> {
        Err(no_object())
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<LoginBody, E> {
        Err(no_object())
    }
}

fn no_object<E: Error>() -> E {
    E::custom("it must be an object with username and password")
}

/// A string, null, or something else of which nothing is kept.
enum Text {
    String(String),
    Null,
    Other,
}

impl Text {
    fn named<E: Error>(self, field: &str) -> Result<Option<String>, E> {
        match self {
            Self::String(text) if text.is_empty() => Ok(None),
            Self::String(text) => Ok(Some(text)),
            Self::Null => Ok(None),
            Self::Other => Err(E::custom(format_args!("{field} must be a string"))),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyText)
    }
}

struct AnyText;

impl<'de> Visitor<'de> for AnyText {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
        Ok(Text::String(text.to_owned()))
    }
    fn visit_unit<E: Error>(self) -> Result<Text, E> {
        Ok(Text::Null)
    }
    fn visit_bool<E: Error>(self, _: bool) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_u64<E: Error>(self, _: u64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_i64<E: Error>(self, _: i64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_f64<E: Error>(self, _: f64) -> Result<Text, E> {
        Ok(Text::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Text, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Text::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::ExposeSecret;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<(Option<String>, Option<String>), String> {
        let body = LoginBody::read(text.as_bytes())?;
        Ok((body.username, body.password.map(|p| p.expose_secret().to_owned())))
    }

    #[test]
    fn a_login_is_two_strings_and_whatever_else_there_is() {
        let both = Ok((Some("a".to_owned()), Some("b".to_owned())));
        assert_eq!(read(r#"{"username":"a","password":"b"}"#), both);
        assert_eq!(read(r#" {"x":{"y":[1,{}]},"pass\u0077ord":"b","username":"a","z":null} "#), both);
        assert_eq!(read(r#"{"username":null,"password":""}"#), Ok((None, None)));
        assert_eq!(read("{}"), Ok((None, None)));
    }

    #[test]
    fn what_is_no_login_is_told_without_a_value() {
        for text in [
            "",
            "null",
            "17",
            "1.5",
            "-2",
            "true",
            "\"s3cret\"",
            "[]",
            "{",
            r#"{"username":"a",}"#,
            r#"{"username":s3cret}"#,
            r#"{"username":["s3cret"]}"#,
            r#"{"password":{"$ne":"s3cret"}}"#,
            r#"{"password":12345}"#,
            r#"{"password":true}"#,
            r#"{"username":"a","username":"s3cret"}"#,
            r#"{"username":"a","\u0075sername":"s3cret"}"#,
            r#"{"x":1,"x":2}"#,
            r#"{"username":"a"}{"x":1}"#,
            r#"{"username":"\ud800"}"#,
            "{\"username\":\"a\u{1}\"}",
            "\u{feff}{}",
            r#"{"password":"s3cret" "x"}"#,
        ] {
            let fault = read(text).unwrap_err();
            assert!(!fault.contains("s3cret") && !fault.contains("12345"), "{text}: {fault}");
        }
        assert!(read("{\"username\":\"a\",\n \"password\":}").unwrap_err().contains("line 2"));
        assert!(read(r#"{"password":5}"#).unwrap_err().contains("password must be a string"));
    }

    #[test]
    fn what_is_no_utf8_is_no_json_wherever_it_stands() {
        for bytes in
            [&b"{\"x\":\"\xff\"}"[..], b"{\"\xc3\":1}", b"{\"username\":\"\xed\xa0\x80\"}", b"{}\xff"]
        {
            assert!(LoginBody::read(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused_or_ignored_but_harmless() {
        let _ = LoginBody::read("[".repeat(16_000).as_bytes());
        let _ = LoginBody::read(format!("{{\"a\":{}{}}}", "[".repeat(8000), "]".repeat(8000)).as_bytes());
        let _ =
            LoginBody::read(format!("{{\"username\":{}{}}}", "[".repeat(8000), "]".repeat(8000)).as_bytes());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = LoginBody::read(&bytes);
        }
    }
}
