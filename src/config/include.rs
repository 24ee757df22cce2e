//! The main file and what it includes become one tree.

use std::path::Path;

use super::Source;
use super::findings::Findings;
use super::tree::{self, Entries, Node, Origin, Value};

/// Reads the main file and its `include`s, in order; none when one of them cannot be read or is no TOML, since
/// everything said about the rest would be guesses.
pub(super) fn read_all(source: &Source, f: &mut Findings) -> Option<Entries> {
    let mut root = read_main(&source.file, f)?;
    let (mut whole, mut seen) = (true, vec![source.file.clone()]);
    for (text, origin) in includes(&mut root, f) {
        let path = origin.path(&text);
        if seen.contains(&path) {
            f.fault(&origin, "include", format!("{text} is included twice"));
            continue;
        }
        match read(&path, &text, (&origin, "include"), f) {
            Some(mut more) => {
                refuse_nested(&mut more, f);
                merge(&mut root, more, "", f);
            }
            None => whole = false,
        }
        seen.push(path);
    }
    whole.then_some(root)
}

fn read_main(path: &Path, f: &mut Findings) -> Option<Entries> {
    match std::fs::read_to_string(path) {
        Ok(text) => parsed(&text, path, f),
        Err(error) => {
            f.file(path, None);
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
    match std::fs::read_to_string(path) {
        Ok(content) => parsed(&content, path, f),
        Err(error) => {
            f.file(path, None);
            f.fault(origin, key, format!("{text} cannot be read: {error}"));
            None
        }
    }
}

fn parsed(text: &str, path: &Path, f: &mut Findings) -> Option<Entries> {
    f.file(path, Some(text.as_bytes()));
    tree::parse(text, path).map_err(|faults| f.faults.extend(faults)).ok()
}

fn includes(root: &mut Entries, f: &mut Findings) -> Vec<(String, Origin)> {
    let Some(Node { origin, value }) = root.remove("include") else { return Vec::new() };
    let Value::List(items) = value else {
        f.fault(&origin, "include", format!("must be a list of files, not {}", value.kind()));
        return Vec::new();
    };
    let mut found = Vec::new();
    for Node { origin, value } in items {
        match value {
            Value::Text(text) => found.push((text, origin)),
            other => f.fault(&origin, "include", format!("must hold file names, not {}", other.kind())),
        }
    }
    found
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
