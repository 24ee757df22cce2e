//! `[token]`, `[login]` and `[sessions]`.

use std::time::Duration;

use super::engine;
use super::files;
use super::findings::Findings;
use super::include;
use super::redis;
use super::table::Table;
use super::tree::{Node, Value};
use crate::gateway::login::{Answers, LoginSettings};
use crate::secret::{ExposeSecret, SecretSlice};
use crate::session::SessionSettings;
use crate::session::token::TokenSettings;

/// RFC 7518 section 3.2: an HS256 key has the size of the hash output or is larger.
const LEAST_KEY: usize = 32;

pub(super) fn token(mut table: Table, f: &mut Findings) -> Option<TokenSettings> {
    let secret = files::secret(&mut table, "secret_file", f);
    let secret = table.required("secret_file", secret, f);
    if secret.as_ref().is_some_and(|secret| secret.expose_secret().len() < LEAST_KEY) {
        let what =
            format!("names a key of less than {LEAST_KEY} bytes, which can be guessed; make a longer one");
        f.warn(&table.place_of("secret_file"), &table.key("secret_file"), what);
    }
    let previous = previous(&mut table, f);
    let ttl = table.duration("ttl", Duration::from_secs(100 * 86_400), f);
    let claims = table.parsed_list("claims", f, not_empty).unwrap_or_default();
    table.finish(f);
    Some(TokenSettings { secret: secret?, previous, ttl, claims })
}

fn previous(table: &mut Table, f: &mut Findings) -> Vec<SecretSlice<u8>> {
    let key = table.key("previous_secret_files");
    let named = table.texts("previous_secret_files", f).unwrap_or_default();
    named.iter().filter_map(|named| files::secret_at(named, &key, f)).collect()
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("holds an empty name".to_owned()) } else { Ok(text.to_owned()) }
}

/// With the prefixes of `below`. Without the section: what the contract gives as defaults.
pub(super) fn login(table: Option<Table>, f: &mut Findings) -> (LoginSettings, Vec<String>) {
    let mut settings = LoginSettings {
        cdr: None,
        hide_unknown_user: false,
        answers: Answers::Documented,
        max_failures: 10,
        window: Duration::from_secs(300),
        max_sessions_per_user: 0,
        rights_by_role: false,
    };
    let Some(mut table) = table else { return (settings, Vec::new()) };
    if let Some(cdr) = table.table("cdr", f) {
        settings.cdr = Some(object(cdr, f));
    }
    let hides = [("not_found", false), ("invalid_credentials", true)];
    settings.hide_unknown_user = table.word("unknown_user", &hides, f).unwrap_or(false);
    let answers = [("documented", Answers::Documented), ("engine", Answers::Engine)];
    settings.answers = table.word("answers", &answers, f).unwrap_or(settings.answers);
    settings.max_failures = table.number("max_failures", settings.max_failures, 1, f);
    settings.window = table.duration("window", settings.window, f);
    settings.max_sessions_per_user = table.number("max_sessions_per_user", 0, 0, f);
    let below = table.parsed_list("below", f, include::prefix).unwrap_or_default();
    table.finish(f);
    (settings, below)
}

fn object(mut table: Table, f: &mut Findings) -> serde_json::Value {
    let mut object = serde_json::Map::new();
    for name in table.names() {
        if let Some(node) = table.take(&name) {
            object.insert(name.clone(), json(&node, &table.key(&name), f));
        }
    }
    object.into()
}

/// A TOML value as JSON has it; a time is a string there.
fn json(node: &Node, key: &str, f: &mut Findings) -> serde_json::Value {
    match &node.value {
        Value::Text(text) | Value::Raw(text) | Value::Time(text) => text.clone().into(),
        Value::Integer(n) => (*n).into(),
        Value::Bool(b) => (*b).into(),
        Value::Float(n) if n.is_finite() => (*n).into(),
        Value::Float(_) | Value::HugeInteger => {
            f.fault(&node.origin, key, "is a number that JSON does not have");
            serde_json::Value::Null
        }
        Value::List(items) => items.iter().map(|item| json(item, key, f)).collect(),
        Value::Table(entries) => {
            let entry =
                |(name, node): (&String, &Node)| (name.clone(), json(node, &format!("{key}.{name}"), f));
            entries.iter().map(entry).collect::<serde_json::Map<_, _>>().into()
        }
    }
}

pub(super) fn sessions(table: Option<Table>, f: &mut Findings) -> SessionSettings {
    let Some(mut table) = table else { return SessionSettings::default() };
    if table.has("redis") && table.has("file") {
        let what = "is not used beside sessions.redis; take it out";
        f.warn(&table.place_of("file"), &table.key("file"), what);
    }
    let redis = table.table("redis", f).and_then(|redis| redis::redis(redis, f));
    let adopt = table.table("adopt", f).and_then(|adopt| engine::adopt(adopt, f));
    let origin = table.place_of("file");
    let file = table.parsed("file", f, |text| {
        if text.is_empty() {
            return Ok(None);
        }
        let path = origin.path(text);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        match folder {
            _ if path.is_dir() => Err(format!("{text} is a folder; name a file in it")),
            Some(folder) if !folder.exists() => {
                Err(format!("the folder of {text} is not there; make it first"))
            }
            Some(folder) if !folder.is_dir() => Err(format!("{text} is in no folder, but under a file")),
            Some(_) | None => Ok(Some(path)),
        }
    });
    table.finish(f);
    SessionSettings { file: file.flatten(), redis, adopt }
}
