//! A TOML file as a tree in which every value knows where it stands. Knows no key.

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
        name: Arc<str>,
        folder: Arc<Path>,
    },
}

impl Origin {
    /// The first line of a file.
    pub(super) fn start_of(path: &Path) -> Self {
        Self::in_file(&path.display().to_string().into(), &folder_of(path), 1)
    }

    fn in_file(file: &Arc<str>, folder: &Arc<Path>, line: usize) -> Self {
        Self::File { place: Place { file: Arc::clone(file), line }, folder: Arc::clone(folder) }
    }

    /// A fault of the environment names the variable instead of the key.
    pub(super) fn fault(&self, key: &str, what: impl Into<String>) -> Fault {
        let (place, key) = match self {
            Self::File { place, .. } => (Some(place.clone()), key),
            Self::Variable { name, .. } => (None, &**name),
        };
        Fault { place, key: key.to_owned(), what: what.into() }
    }

    /// Relative paths are relative to the file that holds them.
    pub(super) fn path(&self, text: &str) -> PathBuf {
        let (Self::File { folder, .. } | Self::Variable { folder, .. }) = self;
        folder.join(text)
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::File { place, .. } => place.clone(),
            Self::Variable { name, .. } => Place { file: Arc::clone(name), line: 0 },
        }
    }
}

pub(super) fn folder_of(path: &Path) -> Arc<Path> {
    path.parent().unwrap_or(Path::new("")).into()
}

/// No `Debug`: the value may be a secret that stands where it should not.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

#[derive(Clone)]
pub(super) enum Value {
    Text(String),
    /// What a variable holds: whoever reads it knows of which type it must be.
    Raw(String),
    Integer(i64),
    /// Too large for an `i64`.
    HugeInteger,
    Float(f64),
    Bool(bool),
    /// As RFC 3339 has it, perhaps without its offset.
    Time(String),
    List(Vec<Node>),
    Table(Entries),
}

pub(super) type Entries = BTreeMap<String, Node>;

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Raw(_) => "a single value",
            Self::Integer(_) | Self::HugeInteger => "an integer",
            Self::Float(_) => "a fraction",
            Self::Bool(_) => "a boolean",
            Self::Time(_) => "a time",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A file's text as a tree. Its syntax faults are all there is to say about it: what follows the first would be
/// guesses.
pub(super) fn parse(text: &str, path: &Path) -> Result<Entries, Vec<Fault>> {
    let (file, folder) = (path.display().to_string().into(), folder_of(path));
    let ends = line_ends(text);
    let at = |offset| Origin::in_file(&file, &folder, ends.partition_point(|end| *end < offset) + 1);
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(entries(table.get_ref(), &at));
    }
    let fault = |error: &toml::de::Error| {
        let at = at(error.span().map_or(0, |span| span.start));
        at.fault("", format!("is no TOML: {}", error.message().replace('\n', ", ")))
    };
    Err(errors.iter().map(fault).collect())
}

/// Where lines end: counted once, not for each key, for there are files of many thousand users.
fn line_ends(text: &str) -> Vec<usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect()
}

fn entries(table: &DeTable<'_>, at: &impl Fn(usize) -> Origin) -> Entries {
    // A value stands where its key does.
    let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
        let key: &Spanned<std::borrow::Cow<'_, str>> = key;
        (key.get_ref().to_string(), node(at(key.span().start), value, at))
    };
    table.iter().map(entry).collect()
}

fn node(origin: Origin, value: &Spanned<DeValue<'_>>, at: &impl Fn(usize) -> Origin) -> Node {
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(time) => Value::Time(time.to_string()),
        DeValue::Integer(n) => {
            i64::from_str_radix(n.as_str(), n.radix()).map_or(Value::HugeInteger, Value::Integer)
        }
        DeValue::Float(f) => Value::Float(f.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Array(list) => {
            Value::List(list.iter().map(|item| node(at(item.span().start), item, at)).collect())
        }
        DeValue::Table(table) => Value::Table(entries(table, at)),
    };
    Node { origin, value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(entries: &Entries, path: &[&str]) -> usize {
        let (first, rest) = path.split_first().unwrap();
        match (&entries[*first].value, rest) {
            (Value::Table(inner), [_, ..]) => line(inner, rest),
            _ => entries[*first].origin.place().line,
        }
    }

    #[test]
    fn values_stand_where_their_keys_do() {
        let text = "a = 1\n\n[b]\nc.d = \"x\"\n[b.e]\nf = [\n 1,\n {g = 2},\n]\n";
        let tree = parse(text, Path::new("dir/x.toml")).ok().unwrap();
        for (path, expected) in [(&["a"][..], 1), (&["b"], 3), (&["b", "c", "d"], 4), (&["b", "e", "f"], 6)] {
            assert_eq!(line(&tree, path), expected, "{path:?}");
        }
        let Value::Table(b) = &tree["b"].value else { panic!() };
        let Value::Table(e) = &b["e"].value else { panic!() };
        let Value::List(f) = &e["f"].value else { panic!() };
        assert_eq!(f.iter().map(|n| n.origin.place().line).collect::<Vec<_>>(), [7, 8]);
        assert_eq!(f[0].origin.path("k"), Path::new("dir/k"));
    }

    #[test]
    fn integers_of_all_writings_are_read() {
        let tree =
            parse("a = 1_000\nb = 0xff\nc = -3\nd = 99999999999999999999", Path::new("x")).ok().unwrap();
        let integer = |key: &str| match tree[key].value {
            Value::Integer(n) => Some(n),
            _ => None,
        };
        assert_eq!(
            [integer("a"), integer("b"), integer("c"), integer("d")],
            [Some(1000), Some(255), Some(-3), None]
        );
    }

    #[test]
    fn every_syntax_fault_of_a_file_is_told_with_its_line() {
        let faults = parse("a = 1\n[b\n[c]\nd = \n", Path::new("x.toml")).err().unwrap();
        let lines: Vec<_> = faults.iter().map(|fault| fault.place.as_ref().unwrap().line).collect();
        assert!(lines.contains(&2) && lines.contains(&4), "{lines:?}");
        assert!(faults.iter().all(|fault| fault.to_string().starts_with("x.toml:")));
    }
}
