//! The main file and what it includes become one tree.

use std::path::Path;

use super::Source;
use super::findings::Findings;
use super::table::Table;
use super::tree::{self, Entries, Node, Origin, Value};
use crate::access::routes;

/// Reads the main file and its `include`s, in order; none when one of them cannot be read or is no TOML, since
/// everything said about the rest would be guesses.
pub(super) fn read_all(source: &Source, f: &mut Findings) -> Option<Entries> {
    let mut root = read_main(&source.file, f)?;
    let (mut whole, mut seen) = (true, vec![source.file.clone()]);
    for Include { text, origin, below } in includes(&mut root, f) {
        let path = origin.path(&text);
        if seen.contains(&path) {
            f.fault(&origin, "include", format!("{text} is included twice"));
            continue;
        }
        match read(&path, &text, (&origin, "include"), f) {
            Some(mut more) => {
                refuse_nested(&mut more, f);
                if let Some(below) = below {
                    mount(&mut more, &below);
                }
                merge(&mut root, more, "", f);
            }
            None => whole = false,
        }
        seen.push(path);
    }
    whole.then_some(root)
}

fn read_main(path: &Path, f: &mut Findings) -> Option<Entries> {
    match text_of(path, f) {
        Ok(text) => parsed(&text, path, f),
        Err(error) => {
            let what =
                format!("cannot be read: {error}; name the configuration by --config or $POSTERN_CONFIG");
            f.faults.push(super::Fault { place: None, key: path.display().to_string(), what });
            None
        }
    }
}

/// A TOML file that a key names.
pub(super) fn read(
    path: &Path,
    text: &str,
    (origin, key): (&Origin, &str),
    f: &mut Findings,
) -> Option<Entries> {
    match text_of(path, f) {
        Ok(content) => parsed(&content, path, f),
        Err(error) => {
            f.fault(origin, key, format!("{text} cannot be read: {error}"));
            None
        }
    }
}

fn text_of(path: &Path, f: &mut Findings) -> std::io::Result<String> {
    let bytes = std::fs::read(path).inspect_err(|_| f.file(path, None))?;
    f.file(path, Some(&bytes));
    String::from_utf8(bytes)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is no UTF-8"))
}

fn parsed(text: &str, path: &Path, f: &mut Findings) -> Option<Entries> {
    tree::parse(text, path).map_err(|faults| f.faults.extend(faults)).ok()
}

/// One item of `include`: `"FILE"`, or `{ file = "FILE", below = ["", "/prefix"] }`.
struct Include {
    text: String,
    origin: Origin,
    /// Its routes are there once below each of these, which is not forwarded. None: as they are written.
    below: Option<Vec<String>>,
}

/// A path that others are put below: empty, or whole segments without a slash at the end.
pub(super) fn prefix(text: &str) -> Result<String, String> {
    let good = text.is_empty() || (routes::check_path(text).is_ok() && !text.ends_with('/'));
    if good && !text.contains(['{', '*']) {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is no prefix; write it as \"/engine\", or \"\" for none"))
    }
}

/// Puts every route of a file below each prefix.
fn mount(entries: &mut Entries, below: &[String]) {
    let Some(Node { value: Value::List(routes), .. }) = entries.get_mut("routes") else { return };
    let written = std::mem::take(routes);
    for prefix in below {
        let mounted = written.iter().cloned().map(|mut route| {
            if let Value::Table(keys) = &mut route.value
                && !prefix.is_empty()
            {
                put_below(keys, prefix);
            }
            route
        });
        routes.extend(mounted);
    }
}

fn put_below(keys: &mut Entries, prefix: &str) {
    let Some(Node { origin, value: Value::Text(path) }) = keys.get_mut("path") else { return };
    let origin = origin.clone();
    path.insert_str(0, prefix);
    match keys.get_mut("strip_prefix").map(|node| &mut node.value) {
        Some(Value::Text(stripped)) => stripped.insert_str(0, prefix),
        Some(_) => {}
        None => {
            let value = Value::Text(prefix.to_owned());
            keys.insert("strip_prefix".to_owned(), Node { origin, value });
        }
    }
}

fn includes(root: &mut Entries, f: &mut Findings) -> Vec<Include> {
    let Some(Node { origin, value }) = root.remove("include") else { return Vec::new() };
    let Value::List(items) = value else {
        f.fault(&origin, "include", format!("must be a list of files, not {}", value.kind()));
        return Vec::new();
    };
    let mut found = Vec::new();
    for Node { origin, value } in items {
        match value {
            Value::Text(text) => found.push(Include { text, origin, below: None }),
            Value::Table(keys) => found.extend(mounted(keys, origin, f)),
            other => f.fault(&origin, "include", format!("must hold file names, not {}", other.kind())),
        }
    }
    found
}

fn mounted(keys: Entries, origin: Origin, f: &mut Findings) -> Option<Include> {
    let mut table = Table::new(keys, origin.clone(), "include");
    let text = table.text("file", f);
    let text = table.required("file", text, f);
    table.refuse_empty("below", "name a prefix, or leave it out", f);
    let below = table.parsed_list("below", f, prefix);
    table.finish(f);
    Some(Include { text: text?, origin, below })
}

fn refuse_nested(included: &mut Entries, f: &mut Findings) {
    if let Some(Node { origin, .. }) = included.remove("include") {
        f.fault(&origin, "include", "stands in an included file; name every file in the main one");
    }
}

/// Adds `more` to `into`: tables grow together, `[[routes]]` are appended, anything else twice is a fault.
fn merge(into: &mut Entries, more: Entries, path: &str, f: &mut Findings) {
    for (name, node) in more {
        let key = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let Some(known) = into.get_mut(&name) else {
            into.insert(name, node);
            continue;
        };
        match (&mut known.value, node.value) {
            (Value::Table(known), Value::Table(more)) => merge(known, more, &key, f),
            (Value::List(known), Value::List(more)) if key == "routes" => known.extend(more),
            _ => {
                let first = known.origin.place();
                let what = format!("is set twice, first at {}:{}; set it once", first.file, first.line);
                f.fault(&node.origin, &key, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(files: &[&str]) -> (Entries, Vec<String>) {
        let (mut root, mut f) = (Entries::new(), Findings::default());
        for (n, text) in files.iter().enumerate() {
            let more = tree::parse(text, Path::new(&format!("{n}.toml"))).ok().unwrap();
            merge(&mut root, more, "", &mut f);
        }
        (root, f.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn tables_grow_together_and_routes_are_appended() {
        let (root, faults) = merged(&["[a]\nx = 1\n[[routes]]\np = 1", "[a]\ny = 2\n[[routes]]\np = 2"]);
        assert!(faults.is_empty());
        let Value::Table(a) = &root["a"].value else { panic!() };
        let Value::List(routes) = &root["routes"].value else { panic!() };
        assert_eq!((a.len(), routes.len()), (2, 2));
    }

    #[test]
    fn a_repeated_key_is_told_with_both_places() {
        let (_, faults) = merged(&["[a.b]\nx = 1\nl = []", "\n[a.b]\nx = 2\nl = []"]);
        assert_eq!(
            faults,
            [
                "1.toml:4: a.b.l: is set twice, first at 0.toml:3; set it once",
                "1.toml:3: a.b.x: is set twice, first at 0.toml:2; set it once",
            ]
        );
    }
}
