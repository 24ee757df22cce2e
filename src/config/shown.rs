//! The configuration as an operator may see it: what the files and the environment say, as JSON. Secrets stand in
//! files of their own, of which only the paths are here; whatever else looks like one is left out.

use serde_json::{Map, Value as Json};

use super::tree::{Entries, Node, Value};

/// In place of a value that may be a secret.
const HIDDEN: &str = "(hidden)";

/// The whole tree.
pub(super) fn of(entries: &Entries) -> Json {
    let shown = |(key, node): (&String, &Node)| {
        let hidden = is_secret(key) && !matches!(node.value, Value::Table(_) | Value::Bool(_));
        (key.clone(), if hidden { Json::from(HIDDEN) } else { value(&node.value) })
    };
    Json::Object(entries.iter().map(shown).collect::<Map<_, _>>())
}

fn value(value: &Value) -> Json {
    match value {
        Value::Text(text) | Value::Raw(text) | Value::Time(text) => Json::from(without_userinfo(text)),
        Value::Integer(number) => Json::from(*number),
        Value::HugeInteger => Json::Null,
        Value::Float(number) => Json::from(*number),
        Value::Bool(yes) => Json::from(*yes),
        Value::List(items) => items.iter().map(|item| self::value(&item.value)).collect(),
        Value::Table(entries) => of(entries),
    }
}

/// Whether a key's name says that its value is a secret, unless it names where one is or how it is sent.
fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    let speaks_of_one = ["password", "passwd", "secret", "token", "apikey", "api_key", "credential", "a1"];
    let names_no_value = ["_file", "_files", "_headers", "_query", "_credentials"];
    speaks_of_one.iter().any(|word| key.contains(word))
        && !names_no_value.iter().any(|end| key.ends_with(end))
}

/// A URL less `user:password@`.
fn without_userinfo(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.get(..end).and_then(|authority| authority.rfind('@')) {
        Some(at) => format!("{scheme}://{HIDDEN}@{}", rest.get(at + 1..).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;
    use std::path::Path;

    fn shown(text: &str) -> String {
        of(&tree::parse(text, Path::new("x.toml")).ok().unwrap()).to_string()
    }

    #[test]
    fn values_are_shown_as_they_are() {
        let text = "a = [1, 'x']\n[t]\nyes = true\nwhen = 2027-01-01T00:00:00Z\n[[routes]]\npath = '/a'";
        assert_eq!(
            shown(text),
            r#"{"a":[1,"x"],"routes":[{"path":"/a"}],"t":{"when":"2027-01-01T00:00:00Z","yes":true}}"#
        );
    }

    #[test]
    fn what_may_be_a_secret_is_hidden_and_where_it_stands_is_not() {
        let text = "[token]\nsecret_file = 'k'\nprevious_secret_files = ['o']\n[login.cdr]\npassword = 'canary'\n\
            apiToken = 'canary'\nhost = 'http://u:canary@h/x'\n[credentials]\ntoken_headers = ['X']\n\
            [upstreams.e]\nforward_credentials = true";
        let shown = shown(text);
        assert!(!shown.contains("canary"), "{shown}");
        for there in ["\"k\"", "[\"o\"]", "[\"X\"]", "http://(hidden)@h/x", "\"forward_credentials\":true"] {
            assert!(shown.contains(there), "{there} in {shown}");
        }
    }
}
