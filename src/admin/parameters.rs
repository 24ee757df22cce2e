//! The query of a call, read strictly: what is misspelt or given twice must not widen what a call does.

use http::StatusCode;
use percent_encoding::percent_decode_str;

use super::frame::Refusal;

/// Names and values, decoded.
#[derive(Debug)]
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// # Errors
    /// 400 for a parameter that is not `known`, one given twice, and what is no UTF-8.
    pub(super) fn read(query: Option<&str>, known: &[&str]) -> Result<Self, Refusal> {
        let mut read = Vec::new();
        for piece in query.unwrap_or_default().split('&').filter(|piece| !piece.is_empty()) {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let (name, value) = (decoded(name)?, decoded(value)?);
            if !known.contains(&name.as_str()) {
                let info = format!("There is no such parameter; there are {}", known.join(", "));
                return Err(Refusal::new(StatusCode::BAD_REQUEST, info));
            }
            if read.iter().any(|(other, _)| *other == name) {
                return Err(Refusal::new(StatusCode::BAD_REQUEST, format!("{name} is given twice")));
            }
            read.push((name, value));
        }
        Ok(Self(read))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// # Errors
    /// 400 when it is missing or empty.
    pub(super) fn required(&self, name: &str) -> Result<&str, Refusal> {
        let missing = || Refusal::new(StatusCode::BAD_REQUEST, format!("{name} is missing"));
        self.get(name).filter(|value| !value.is_empty()).ok_or_else(missing)
    }
}

fn decoded(text: &str) -> Result<String, Refusal> {
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| Refusal::new(StatusCode::BAD_REQUEST, "The query is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_parameters_are_read_once() {
        let read = Parameters::read(Some("user=a%40b+c&&limit"), &["user", "limit"]).unwrap();
        assert_eq!((read.get("user"), read.get("limit"), read.get("x")), (Some("a@b c"), Some(""), None));
        assert!(read.required("limit").is_err());
        for bad in ["users=a", "user=a&user=b", "user=%ff", "us%65r=a&user=b"] {
            assert!(Parameters::read(Some(bad), &["user", "limit"]).is_err(), "{bad}");
        }
    }
}
