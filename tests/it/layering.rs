//! A module uses modules of a lower rank only: the table of `src/lib.rs`.

use std::path::{Path, PathBuf};

fn rank(module: &str) -> Option<u8> {
    Some(match module {
        "body" | "clock" | "deadline" | "drain" | "identity" | "peer" | "secret" => 0,
        "telemetry" => 1,
        "server" | "session" | "directory" => 2,
        "access" => 3,
        "upstream" => 4,
        "gateway" | "admin" => 5,
        "config" => 6,
        "app" | "cli" => 7,
        _ => return None,
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a file's code names as `crate::module`, tests left out.
fn used(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code.flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default())
        .collect()
}

#[test]
fn modules_use_lower_ranks_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut checked = 0;
    for file in files {
        let relative = file.strip_prefix(&root).unwrap();
        let module = relative
            .components()
            .next()
            .unwrap()
            .as_os_str()
            .to_str()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let Some(own) = rank(&module) else {
            assert!(matches!(module.as_str(), "lib" | "main"), "{module} has no rank");
            continue;
        };
        for name in used(&std::fs::read_to_string(&file).unwrap()) {
            let other =
                rank(name).unwrap_or_else(|| panic!("{} uses {name}, which has no rank", relative.display()));
            // The small types at the bottom and the two at the top may use each other.
            let together = own == other && matches!(own, 0 | 7);
            assert!(
                name == module || other < own || together,
                "{} uses {name} of rank {other}",
                relative.display()
            );
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} uses were found");
}
