//! The module ranks of `src/lib.rs` hold: a module uses modules of a lower rank, or its own, and nothing else.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where the table of ranks stands.
const TABLE: &str = "src/lib.rs";

#[test]
fn a_module_uses_modules_of_a_lower_rank_only() {
    let ranks = ranks();
    let mut faults = Vec::new();
    for file in sources() {
        let own = module_of(&file);
        let Some(&rank) = ranks.get(&own) else {
            continue; // lib.rs and main.rs stand above all
        };
        let text = if is_test_code(&file) { String::new() } else { read(&file) };
        for used in modules_used(&without_tests(&text)) {
            match ranks.get(&used) {
                None => faults.push(format!("{}: uses crate::{used}, which has no rank", file.display())),
                // The small types at the bottom and the two modules at the top may use each other.
                Some(&other) if other == rank && matches!(rank, 0 | 8) => {}
                Some(&other) if other >= rank && used != own => {
                    faults
                        .push(format!("{}: {own} (rank {rank}) uses {used} (rank {other})", file.display()));
                }
                Some(_) => {}
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn every_module_of_the_crate_has_a_rank() {
    let ranks = ranks();
    for line in read(Path::new(TABLE)).lines() {
        if let Some(module) = line.trim().strip_prefix("pub mod ").and_then(|rest| rest.strip_suffix(';')) {
            assert!(ranks.contains_key(module), "{module} is not in the table of {TABLE}");
        }
    }
    assert!(ranks.len() > 10, "the table was not read: {ranks:?}");
}

#[test]
fn no_module_imports_by_glob() {
    for file in sources().iter().filter(|file| !is_test_code(file)) {
        for line in without_tests(&read(file)).lines() {
            let import = line.trim().trim_start_matches("pub ");
            assert!(!(import.starts_with("use ") && import.contains('*')), "{}: {line}", file.display());
        }
    }
}

#[test]
fn no_module_is_named_after_nothing() {
    for file in sources() {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(!["util", "utils", "common", "helpers", "manager"].contains(&name), "{}", file.display());
    }
}

/// Every module's file says what it is for.
#[test]
fn every_file_opens_with_its_purpose() {
    for file in sources() {
        let text = read(&file);
        let first = text.lines().next().unwrap_or_default();
        assert!(first.starts_with("//!"), "{} opens with {first:?}", file.display());
    }
}

#[test]
fn the_reader_of_this_test_sees_uses_in_all_their_forms() {
    let text = "use crate::access::path;\nuse crate::{\n    clock::Clock,\n    session::{map, store},\n};\nfn f() { crate::upstream::g() }\n#[cfg(test)]\nmod tests {\n    use crate::app;\n    fn h() {}\n}\nuse crate::peer;\n";
    let used = modules_used(&without_tests(text));
    assert_eq!(used, ["access", "clock", "peer", "session", "upstream"]);
}

/// Module to rank, from the table in `src/lib.rs`: rows of `| rank | modules | purpose |`.
fn ranks() -> BTreeMap<String, u32> {
    let mut ranks = BTreeMap::new();
    for line in read(Path::new(TABLE)).lines() {
        let cells: Vec<&str> = line.trim_start_matches("//!").split('|').map(str::trim).collect();
        let Some(rank) = cells.get(1).and_then(|cell| cell.parse::<u32>().ok()) else {
            continue;
        };
        for module in
            cells[2].split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
        {
            ranks.insert(module.to_owned(), rank);
        }
    }
    ranks
}

/// A file of tests alone: `tests.rs`, or anything in a folder `tests`.
fn is_test_code(file: &Path) -> bool {
    file.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "tests.rs")))
}

/// The top-level module of a source file.
fn module_of(file: &Path) -> String {
    let below = file.strip_prefix("src").unwrap();
    let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The top-level modules that `crate::` paths name, sorted, each once.
fn modules_used(text: &str) -> Vec<String> {
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used: Vec<String> = Vec::new();
    for rest in code.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => used.push(identifier(rest)),
            Some(list) => used.extend(first_level(list).iter().map(|item| identifier(item))),
        }
    }
    used.sort();
    used.dedup();
    used
}

/// The items of a `{a, b::{c, d}}` list whose opening brace is taken off.
fn first_level(list: &str) -> Vec<String> {
    let (mut depth, mut items, mut item) = (0, Vec::new(), String::new());
    for letter in list.chars() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(std::mem::take(&mut item)),
            _ => {}
        }
        if letter != ',' || depth > 0 {
            item.push(letter);
        }
    }
    items.push(item);
    items.into_iter().filter(|item| !item.trim().is_empty()).collect()
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The text without the items behind `#[cfg(test)]`: tests may look up.
fn without_tests(text: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            kept.push(line);
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        for skipped in lines.by_ref() {
            let closes = skipped.trim() == "}" && skipped.len() - skipped.trim_start().len() == indent;
            if closes || (skipped.trim_end().ends_with(';') && !skipped.starts_with(' ')) {
                break;
            }
        }
    }
    kept.join("\n")
}

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    collect(Path::new("src"), &mut files);
    files.sort();
    assert!(files.len() > 20, "the sources were not found");
    files
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap()
}
