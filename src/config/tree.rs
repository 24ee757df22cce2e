//! TOML files and the environment as one tree in which every value knows where it stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Fault;
use crate::access::routes::Place;

/// Where a value stands.
#[derive(Clone, Debug)]
pub(super) enum Origin {
    File {
        place: Place,
        folder: Arc<Path>,
    },
    /// An environment variable, and the folder of the main file.
    Variable {
        name: String,
        folder: Arc<Path>,
    },
}

impl Origin {
    pub(super) fn fault(&self, key: &str, what: impl Into<String>) -> Fault {
        match self {
            Self::File { place, .. } => {
                Fault { place: Some(place.clone()), key: key.to_owned(), what: what.into() }
            }
            Self::Variable { name, .. } => Fault { place: None, key: name.clone(), what: what.into() },
        }
    }

    /// Relative paths are relative to the file that holds them.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        let (Self::File { folder, .. } | Self::Variable { folder, .. }) = self;
        folder.join(text)
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::File { place, .. } => place.clone(),
            Self::Variable { name, .. } => Place { file: name.as_str().into(), line: 0 },
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    Time(String),
    List(Vec<Node>),
    Table(Entries),
    Other(&'static str),
}

pub(super) type Entries = BTreeMap<String, Node>;

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "an integer",
            Self::Bool(_) => "a boolean",
            Self::Time(_) => "a time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

/// Reads one file. Its syntax faults are all there is to say about it.
pub(super) fn read(path: &Path, shown: &str) -> Result<Node, Vec<Fault>> {
    let folder: Arc<Path> = path.parent().unwrap_or(Path::new("")).into();
    let file: Arc<str> = shown.into();
    let at =
        |line| Origin::File { place: Place { file: Arc::clone(&file), line }, folder: Arc::clone(&folder) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![at(1).fault("", format!("cannot be read: {error}"))])?;
    let (table, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        let line = |error: &toml::de::Error| error.span().map_or(1, |span| line_of(&text, span.start));
        return Err(errors
            .iter()
            .map(|error| at(line(error)).fault("", first_line(error.message())))
            .collect());
    }
    let reader = Reader { text: &text, at: &at };
    Ok(Node { origin: at(1), value: Value::Table(reader.table(table.get_ref())) })
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|b| **b == b'\n').count() + 1
}

struct Reader<'t, F> {
    text: &'t str,
    at: &'t F,
}

impl<F: Fn(usize) -> Origin> Reader<'_, F> {
    fn table(&self, table: &DeTable<'_>) -> Entries {
        table
            .iter()
            .map(|(key, value)| (key.get_ref().to_string(), self.node(key.span().start, value)))
            .collect()
    }

    /// A value stands where its key does.
    fn node(&self, start: usize, value: &Spanned<DeValue<'_>>) -> Node {
        let origin = (self.at)(line_of(self.text, start));
        let value = match value.get_ref() {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Boolean(b) => Value::Bool(*b),
            DeValue::Datetime(time) => Value::Time(time.to_string()),
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
                .map_or(Value::Other("a huge integer"), Value::Integer),
            DeValue::Array(list) => {
                Value::List(list.iter().map(|item| self.node(item.span().start, item)).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table)),
            DeValue::Float(_) => Value::Other("a float"),
        };
        Node { origin, value }
    }
}

/// Adds `more` to `into`: tables grow together, lists of tables are appended, anything else twice is a fault.
pub(super) fn merge(into: &mut Entries, more: Entries, faults: &mut Vec<Fault>) {
    for (key, node) in more {
        let Some(known) = into.get_mut(&key) else {
            into.insert(key, node);
            continue;
        };
        match (&mut known.value, node.value) {
            (Value::Table(known), Value::Table(more)) => merge(known, more, faults),
            (Value::List(known), Value::List(more))
                if more.iter().chain(known.iter()).all(|n| matches!(n.value, Value::Table(_))) =>
            {
                known.extend(more);
            }
            _ => {
                let first = known.origin.place();
                faults.push(node.origin.fault(
                    &key,
                    format!("is set twice, first at {}:{}; set it once", first.file, first.line),
                ));
            }
        }
    }
}

/// `POSTERN_A__B_C` overrides `a.b_c`. `listed` are the tables whose keys are names of the user's choice.
pub(super) fn override_by(
    tree: &mut Entries,
    env: &[(String, String)],
    folder: &Arc<Path>,
    faults: &mut Vec<Fault>,
) {
    for (name, value) in env {
        let Some(path) = name.strip_prefix("POSTERN_").filter(|path| path.contains("__")) else { continue };
        let origin = Origin::Variable { name: name.clone(), folder: Arc::clone(folder) };
        let steps: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        if steps.iter().any(String::is_empty) || !set(tree, &steps, value, &origin) {
            faults.push(origin.fault(
                name,
                "names no key of the configuration; a key is its path in upper case with __ between levels",
            ));
        }
    }
}

/// Names that a user chose must be there already; keys of the program's own are judged when they are read.
fn set(tree: &mut Entries, steps: &[String], value: &str, origin: &Origin) -> bool {
    let Some((step, rest)) = steps.split_first() else { return false };
    let known = tree.keys().find(|key| key.eq_ignore_ascii_case(step)).cloned();
    let chosen = matches!(step.as_str(), "upstreams" | "roles" | "users" | "domain_tokens" | "routes");
    if known.is_none() && chosen {
        return false;
    }
    let key = known.unwrap_or_else(|| step.clone());
    if rest.is_empty() {
        if tree.get(&key).is_some_and(|node| matches!(node.value, Value::List(_) | Value::Table(_))) {
            return false;
        }
        tree.insert(key, Node { origin: origin.clone(), value: Value::Text(value.to_owned()) });
        return true;
    }
    let table = Node { origin: origin.clone(), value: Value::Table(Entries::new()) };
    match &mut tree.entry(key).or_insert(table).value {
        Value::Table(entries) if chosen => {
            let Some((name, rest)) = rest.split_first() else { return false };
            let name = entries.keys().find(|key| key.eq_ignore_ascii_case(name)).cloned();
            match name.and_then(|name| entries.get_mut(&name)).map(|node| &mut node.value) {
                Some(Value::Table(entries)) => set(entries, rest, value, origin),
                _ => false,
            }
        }
        Value::Table(entries) => set(entries, rest, value, origin),
        _ => false,
    }
}
