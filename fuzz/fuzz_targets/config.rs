//! A configuration (the main file, a line of `#---`, the user file, another such line, variables) is read without panic,
//! and what is wrong with it has a place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::config::{Fault, Source, load};
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

/// In memory, where there is such a place.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
    let folder = base.join(format!("postern-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("token.key"), b"0123456789abcdef0123456789abcdef").expect("a file");
    folder
});

fuzz_target!(|data: &str| {
    // A device or a pipe would be read for ever.
    if data.contains("/dev") || data.contains("/proc") {
        return;
    }
    let mut parts = data.split("\n#---\n");
    let (main, users) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let env = parts.next().unwrap_or_default().lines().filter_map(|line| line.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let file = FOLDER.join("postern.toml");
    fs::write(&file, main).expect("a file");
    fs::write(FOLDER.join("users.toml"), users).expect("a file");

    match load(&Source { file, env }) {
        Ok(loaded) => {
            loaded.warnings.iter().for_each(has_a_place);
            assert!(loaded.shown.is_object());
        }
        Err(refused) => {
            assert!(!refused.faults.is_empty());
            refused.faults.iter().for_each(has_a_place);
        }
    }
});

fn has_a_place(fault: &Fault) {
    assert!(!fault.what.is_empty());
    match &fault.place {
        Some(place) => {
            let text = fs::read_to_string(&*place.file).unwrap_or_default();
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&place.line), "{fault} of {lines} lines");
        }
        None => assert!(!fault.key.is_empty(), "{fault}"),
    }
}
