//! Taking typed values out of a table, gathering every fault on the way; what is left at the end is unknown.

use std::time::Duration;

use super::Fault;
use super::tree::{Entries, Node, Origin, Value};

/// One table of the configuration.
pub(super) struct Table {
    entries: Entries,
    pub(super) origin: Origin,
    path: String,
    known: Vec<String>,
    present: Vec<String>,
}

pub(super) type Faults = Vec<Fault>;

impl Table {
    pub(super) fn new(entries: Entries, origin: Origin, path: &str) -> Self {
        let present = entries.keys().cloned().collect();
        Self { entries, origin, path: path.to_owned(), known: Vec::new(), present }
    }

    pub(super) fn key(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        self.known.push(name.to_owned());
        self.entries.remove(name)
    }

    /// The keys that are left.
    pub(super) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Whether a value was there, good or not.
    pub(super) fn asked(&self, name: &str) -> bool {
        self.present.iter().any(|known| known == name)
    }

    pub(super) fn peek(&self, name: &str) -> Option<&Node> {
        self.entries.get(name)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// A value that `read` makes of a text; a fault when it is none.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        faults: &mut Faults,
        read: impl FnOnce(&str, &Origin) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.take(name)?;
        let key = self.key(name);
        let what = match &node.value {
            Value::Text(text) => match read(text, &node.origin) {
                Ok(value) => return Some(value),
                Err(what) => what,
            },
            other => format!("must be a string, not {}", other.kind()),
        };
        faults.push(node.origin.fault(&key, what));
        None
    }

    pub(super) fn text(&mut self, name: &str, faults: &mut Faults) -> Option<String> {
        self.parsed(name, faults, |text, _| Ok(text.to_owned()))
    }

    pub(super) fn required<T>(
        &self,
        value: Option<T>,
        had: bool,
        name: &str,
        faults: &mut Faults,
    ) -> Option<T> {
        if value.is_none() && !had {
            faults.push(self.origin.fault(&self.key(name), "is missing"));
        }
        value
    }

    pub(super) fn bool(&mut self, name: &str, default: bool, faults: &mut Faults) -> bool {
        let Some(node) = self.take(name) else { return default };
        match (&node.value, &node.origin) {
            (Value::Bool(b), _) => return *b,
            (Value::Text(text), Origin::Variable { .. }) if text == "true" || text == "false" => {
                return text == "true";
            }
            _ => faults.push(
                node.origin
                    .fault(&self.key(name), format!("must be true or false, not {}", node.value.kind())),
            ),
        }
        default
    }

    pub(super) fn number<T: TryFrom<i64>>(&mut self, name: &str, default: T, faults: &mut Faults) -> T {
        let Some(node) = self.take(name) else { return default };
        let n = match (&node.value, &node.origin) {
            (Value::Integer(n), _) => Some(*n),
            (Value::Text(text), Origin::Variable { .. }) => text.parse().ok(),
            _ => None,
        };
        n.and_then(|n| T::try_from(n).ok()).unwrap_or_else(|| {
            faults
                .push(node.origin.fault(&self.key(name), "must be a whole number from 0 up, without quotes"));
            default
        })
    }

    pub(super) fn duration(&mut self, name: &str, default: Duration, faults: &mut Faults) -> Duration {
        let read = |text: &str, _: &Origin| {
            let plain = !text.contains(char::is_whitespace);
            let parsed = humantime::parse_duration(text).ok().filter(|_| plain);
            parsed
                .ok_or_else(|| format!("\"{text}\" is no duration; write it as \"10s\", \"5m\" or \"100d\""))
        };
        self.parsed(name, faults, read).unwrap_or(default)
    }

    pub(super) fn size(&mut self, name: &str, default: usize, faults: &mut Faults) -> usize {
        let read = |text: &str, _: &Origin| {
            let size =
                text.parse::<bytesize::ByteSize>().ok().and_then(|size| usize::try_from(size.as_u64()).ok());
            size.ok_or_else(|| format!("\"{text}\" is no size; write it as \"32KiB\""))
        };
        self.parsed(name, faults, read).unwrap_or(default)
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(
        &mut self,
        name: &str,
        words: &[(&str, T)],
        default: T,
        faults: &mut Faults,
    ) -> T {
        let read = |text: &str, _: &Origin| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            found.ok_or_else(|| format!("\"{text}\" is unknown; it must be one of {}", all.join(", ")))
        };
        self.parsed(name, faults, read).unwrap_or(default)
    }

    /// A list of texts, each with where it stands.
    pub(super) fn texts(&mut self, name: &str, faults: &mut Faults) -> Option<Vec<(String, Origin)>> {
        let node = self.take(name)?;
        let key = self.key(name);
        let Value::List(items) = node.value else {
            faults.push(
                node.origin.fault(&key, format!("must be a list of strings, not {}", node.value.kind())),
            );
            return None;
        };
        let mut texts = Vec::new();
        for item in items {
            match item.value {
                Value::Text(text) => texts.push((text, item.origin)),
                other => {
                    faults.push(item.origin.fault(&key, format!("must hold strings, not {}", other.kind())))
                }
            }
        }
        Some(texts)
    }

    pub(super) fn table(&mut self, name: &str, faults: &mut Faults) -> Option<Table> {
        let node = self.take(name)?;
        let key = self.key(name);
        match node.value {
            Value::Table(entries) => Some(Table::new(entries, node.origin, &key)),
            other => {
                faults.push(node.origin.fault(&key, format!("must be a table, not {}", other.kind())));
                None
            }
        }
    }

    /// The tables of a table whose keys are names of the user's choice.
    pub(super) fn named(mut self, faults: &mut Faults) -> Vec<(String, Table)> {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        names.into_iter().filter_map(|name| self.table(&name, faults).map(|table| (name, table))).collect()
    }

    /// What nobody took is unknown. Its value is not shown: it may be a secret.
    pub(super) fn finish(self, faults: &mut Faults) {
        for (name, node) in &self.entries {
            let near = self.known.iter().min_by_key(|known| strsim::damerau_levenshtein(known, name));
            let near = near.filter(|known| strsim::damerau_levenshtein(known, name) <= 3);
            let hint = match near {
                Some(known) => format!("; did you mean {known}?"),
                None => format!("; known here are {}", self.known.join(", ")),
            };
            faults.push(node.origin.fault(&self.key(name), format!("is an unknown key{hint}")));
        }
    }
}
