//! Taking typed values out of a table; every fault on the way is gathered, and what nobody took is unknown.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::findings::{Findings, hint};
use super::tree::{Entries, Node, Origin, Value};
use super::values;
use crate::clock::UnixMillis;

/// One table of the configuration.
pub(super) struct Table {
    entries: Entries,
    origin: Origin,
    path: String,
    /// The keys that were asked for.
    known: Vec<String>,
    /// Where each key of the table stands, also once it was taken.
    places: BTreeMap<String, Origin>,
}

/// A text and where it stands.
pub(super) struct Text {
    pub(super) text: String,
    pub(super) origin: Origin,
}

impl Table {
    pub(super) fn new(entries: Entries, origin: Origin, path: &str) -> Self {
        let places = entries.iter().map(|(name, node)| (name.clone(), node.origin.clone())).collect();
        Self { entries, origin, path: path.to_owned(), known: Vec::new(), places }
    }

    /// A key's whole path; the table's own for no name.
    pub(super) fn key(&self, name: &str) -> String {
        match (self.path.as_str(), name) {
            (path, "") => path.to_owned(),
            ("", name) => name.to_owned(),
            (path, name) => format!("{path}.{name}"),
        }
    }

    /// Whether the table has the key, with a good value or not, taken or not.
    pub(super) fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Where a key stands; where the table does when it is missing.
    pub(super) fn place_of(&self, name: &str) -> Origin {
        self.places.get(name).unwrap_or(&self.origin).clone()
    }

    /// Whether both keys are there, the one on an earlier line than the other.
    pub(super) fn comes_before(&self, one: &str, other: &str) -> bool {
        let line = |name| self.places.get(name).map(|origin| origin.place().line);
        line(one).zip(line(other)).is_some_and(|(one, other)| one < other)
    }

    /// The keys that are left.
    pub(super) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    pub(super) fn fault(&self, name: &str, what: impl Into<String>, f: &mut Findings) {
        f.fault(&self.place_of(name), &self.key(name), what);
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Node> {
        self.known.push(name.to_owned());
        self.entries.remove(name)
    }

    /// Passes a value on; a fault when its key is missing.
    pub(super) fn required<T>(&self, name: &str, value: Option<T>, f: &mut Findings) -> Option<T> {
        if value.is_none() && !self.has(name) {
            self.fault(name, "is missing", f);
        }
        value
    }

    /// What `read` makes of a text.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        f: &mut Findings,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Text { text, origin } = self.text_at(name, f)?;
        read(&text).map_err(|what| f.fault(&origin, &self.key(name), what)).ok()
    }

    pub(super) fn text_at(&mut self, name: &str, f: &mut Findings) -> Option<Text> {
        let Node { origin, value } = self.take(name)?;
        match value {
            Value::Text(text) | Value::Raw(text) => Some(Text { text, origin }),
            other => {
                f.fault(&origin, &self.key(name), format!("must be a string, not {}", other.kind()));
                None
            }
        }
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &str, f: &mut Findings) -> Option<String> {
        self.parsed(
            name,
            f,
            |text| if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) },
        )
    }

    pub(super) fn bool(&mut self, name: &str, default: bool, f: &mut Findings) -> bool {
        let Some(Node { origin, value }) = self.take(name) else { return default };
        let read = match &value {
            Value::Bool(b) => Some(*b),
            Value::Raw(text) => text.parse().ok(),
            _ => None,
        };
        read.unwrap_or_else(|| {
            f.fault(&origin, &self.key(name), format!("must be true or false, not {}", value.kind()));
            default
        })
    }

    /// A whole number.
    pub(super) fn integer(&mut self, name: &str, f: &mut Findings) -> Option<i64> {
        let Node { origin, value } = self.take(name)?;
        let read = match &value {
            Value::Integer(n) => Some(*n),
            Value::Raw(text) => text.parse().ok(),
            _ => None,
        };
        if read.is_none() {
            f.fault(&origin, &self.key(name), format!("must be a whole number, not {}", value.kind()));
        }
        read
    }

    /// A whole number that is `least` or more.
    pub(super) fn number<T>(&mut self, name: &str, default: T, least: u32, f: &mut Findings) -> T
    where
        T: TryFrom<i64>,
    {
        let Some(n) = self.integer(name, f) else { return default };
        let good = (n >= i64::from(least)).then(|| T::try_from(n).ok()).flatten();
        good.unwrap_or_else(|| {
            self.fault(name, format!("must be a whole number from {least} up, and not too large"), f);
            default
        })
    }

    /// A duration that is not zero.
    pub(super) fn duration(&mut self, name: &str, default: Duration, f: &mut Findings) -> Duration {
        let read = |text: &str| match values::duration(text)? {
            Duration::ZERO => Err("must be longer than nothing".to_owned()),
            duration => Ok(duration),
        };
        self.parsed(name, f, read).unwrap_or(default)
    }

    pub(super) fn duration_or_zero(&mut self, name: &str, default: Duration, f: &mut Findings) -> Duration {
        self.parsed(name, f, values::duration).unwrap_or(default)
    }

    /// A size: a text with its unit, or a number of bytes.
    pub(super) fn size(
        &mut self,
        name: &str,
        default: usize,
        range: RangeInclusive<u64>,
        f: &mut Findings,
    ) -> usize {
        let Some(Node { origin, value }) = self.take(name) else { return default };
        let read = match &value {
            Value::Text(text) | Value::Raw(text) => values::size(text),
            Value::Integer(n) => u64::try_from(*n).map_err(|_| "must not be negative".to_owned()),
            other => Err(format!("must be a size as \"32KiB\", not {}", other.kind())),
        };
        let size = read.and_then(|size| {
            let fits = range.contains(&size).then(|| usize::try_from(size).ok()).flatten();
            fits.ok_or_else(|| format!("must be from {} to {} bytes", range.start(), range.end()))
        });
        size.unwrap_or_else(|what| {
            f.fault(&origin, &self.key(name), what);
            default
        })
    }

    /// RFC 3339 with its offset, without quotes.
    pub(super) fn time(&mut self, name: &str, f: &mut Findings) -> Option<UnixMillis> {
        let Node { origin, value } = self.take(name)?;
        let read = match &value {
            Value::Time(text) | Value::Raw(text) => values::moment(text),
            _ => None,
        };
        if read.is_none() {
            let what = "must be a time with its offset and without quotes, as 2027-01-01T00:00:00Z";
            f.fault(&origin, &self.key(name), what);
        }
        read
    }

    /// One of some words.
    pub(super) fn word<T: Clone>(&mut self, name: &str, words: &[(&str, T)], f: &mut Findings) -> Option<T> {
        self.parsed(name, f, |text| {
            let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| value.clone());
            let all: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            found.ok_or_else(|| format!("\"{text}\" is unknown; it must be {}", all.join(" or ")))
        })
    }

    /// A list of texts; none when the key is missing or holds something else.
    pub(super) fn texts(&mut self, name: &str, f: &mut Findings) -> Option<Vec<Text>> {
        let mut texts = Vec::new();
        for Node { origin, value } in self.list(name, "strings", f)? {
            match value {
                Value::Text(text) => texts.push(Text { text, origin }),
                other => {
                    f.fault(&origin, &self.key(name), format!("must hold strings, not {}", other.kind()))
                }
            }
        }
        Some(texts)
    }

    /// A fault when the key holds an empty list; asked before the key is taken.
    pub(super) fn refuse_empty(&self, name: &str, instead: &str, f: &mut Findings) {
        if matches!(self.entries.get(name).map(|node| &node.value), Some(Value::List(items)) if items.is_empty())
        {
            self.fault(name, format!("is empty; {instead}"), f);
        }
    }

    /// What `read` makes of each text of a list.
    pub(super) fn parsed_list<T>(
        &mut self,
        name: &str,
        f: &mut Findings,
        mut read: impl FnMut(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let mut values = Vec::new();
        for Text { text, origin } in self.texts(name, f)? {
            match read(&text) {
                Ok(value) => values.push(value),
                Err(what) => f.fault(&origin, &self.key(name), what),
            }
        }
        Some(values)
    }

    fn list(&mut self, name: &str, of: &str, f: &mut Findings) -> Option<Vec<Node>> {
        let Node { origin, value } = self.take(name)?;
        match value {
            Value::List(items) => Some(items),
            other => {
                f.fault(&origin, &self.key(name), format!("must be a list of {of}, not {}", other.kind()));
                None
            }
        }
    }

    pub(super) fn table(&mut self, name: &str, f: &mut Findings) -> Option<Table> {
        let Node { origin, value } = self.take(name)?;
        self.as_table(name, origin, value, f)
    }

    /// A list of tables.
    pub(super) fn tables(&mut self, name: &str, f: &mut Findings) -> Vec<Table> {
        let items = self.list(name, "tables", f).unwrap_or_default();
        items.into_iter().filter_map(|item| self.as_table(name, item.origin, item.value, f)).collect()
    }

    fn as_table(&self, name: &str, origin: Origin, value: Value, f: &mut Findings) -> Option<Table> {
        match value {
            Value::Table(entries) => Some(Table::new(entries, origin, &self.key(name))),
            other => {
                f.fault(&origin, &self.key(name), format!("must be a table, not {}", other.kind()));
                None
            }
        }
    }

    /// The tables of a table whose keys are names of the user's choice, by name.
    pub(super) fn named(mut self, f: &mut Findings) -> Vec<(String, Table)> {
        let names = self.names();
        let named: Vec<_> =
            names.into_iter().filter_map(|name| self.table(&name, f).map(|table| (name, table))).collect();
        for (_, table) in named.iter().filter(|(name, _)| name.is_empty()) {
            f.fault(&table.origin, &self.path, "has an entry without a name");
        }
        named
    }

    /// What nobody took is unknown. Its value is not shown: it may be a secret.
    pub(super) fn finish(self, f: &mut Findings) {
        for (name, node) in &self.entries {
            let hint = hint(name, self.known.iter().map(String::as_str));
            self.unknown(&self.key(name), node, &hint, f);
        }
    }

    /// Of tables that the environment made, each variable is told.
    fn unknown(&self, key: &str, node: &Node, hint: &str, f: &mut Findings) {
        match (&node.origin, &node.value) {
            (Origin::Variable { .. }, Value::Table(entries)) => {
                entries.values().for_each(|inner| self.unknown(key, inner, hint, f));
            }
            (Origin::Variable { .. }, _) => {
                f.fault(
                    &node.origin,
                    key,
                    format!("names no key of the configuration: {key} is unknown{hint}"),
                );
            }
            (Origin::File { .. }, _) => f.fault(&node.origin, key, format!("is an unknown key{hint}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;
    use std::path::Path;

    fn table(text: &str) -> Table {
        Table::new(tree::parse(text, Path::new("x")).ok().unwrap(), Origin::start_of(Path::new("x")), "t")
    }

    fn told(f: &Findings) -> Vec<String> {
        f.faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_left_is_unknown_and_its_value_not_shown() {
        let (mut table, mut f) = (table("secret_file = \"a\"\nsecret = \"hidden\""), Findings::default());
        table.text("secret_file", &mut f);
        table.finish(&mut f);
        assert_eq!(told(&f), ["x:2: t.secret: is an unknown key; there are secret_file"]);
    }

    #[test]
    fn values_of_the_wrong_type_are_told_and_the_default_goes_on() {
        let text = "a = \"yes\"\nb = -1\nc = 1.5\nd = [1]\ne = 5\ng = \"2027-01-01T00:00:00Z\"\nh = \"0s\"";
        let (mut t, mut f) = (table(text), Findings::default());
        assert!(t.bool("a", true, &mut f));
        assert_eq!(t.number("b", 7u32, 0, &mut f), 7);
        assert_eq!(t.number("c", 7u32, 0, &mut f), 7);
        assert!(t.texts("d", &mut f).unwrap().is_empty());
        assert!(t.text("e", &mut f).is_none() && t.time("g", &mut f).is_none());
        t.duration("h", Duration::ZERO, &mut f);
        assert_eq!(f.faults.len(), 7, "{:?}", told(&f));
    }

    #[test]
    fn numbers_and_sizes_keep_to_their_bounds() {
        let (mut t, mut f) =
            (table("a = 0\nb = \"1KiB\"\nc = 4096\nd = \"99999999999999EiB\""), Findings::default());
        t.number("a", 1usize, 1, &mut f);
        t.size("b", 0, 2048..=8192, &mut f);
        assert_eq!(t.size("c", 0, 2048..=8192, &mut f), 4096);
        t.size("d", 0, 2048..=8192, &mut f);
        assert_eq!(f.faults.len(), 3, "{:?}", told(&f));
    }
}
