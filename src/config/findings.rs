//! What reading a configuration brings to light: all of it is gathered, so that one run of `check` tells everything.

use std::path::Path;

use super::tree::Origin;
use super::{Fault, NamedFile};
use crate::secret::sha256;

/// Handed through all readers.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    /// Every file that is named, whether or not it could be read.
    pub(super) files: Vec<NamedFile>,
}

impl Findings {
    /// Notes a file and what it held when it was read.
    pub(super) fn file(&mut self, path: &Path, content: Option<&[u8]>) {
        self.files.push(NamedFile { path: path.to_owned(), hash: content.map(sha256) });
    }

    /// Notes a file that was not read to its end: as long as it stays so, nothing has changed.
    pub(super) fn unread(&mut self, path: &Path) {
        self.files.push(NamedFile { path: path.to_owned(), hash: super::hash_of(path) });
    }

    pub(super) fn fault(&mut self, origin: &Origin, key: &str, what: impl Into<String>) {
        self.faults.push(origin.fault(key, what));
    }

    pub(super) fn warn(&mut self, origin: &Origin, key: &str, what: impl Into<String>) {
        self.warnings.push(origin.fault(key, what));
    }

    /// By file and line; what the environment says comes first.
    pub(super) fn sort(&mut self) {
        for list in [&mut self.faults, &mut self.warnings] {
            list.sort_by(|a, b| order(a).cmp(&order(b)));
            list.dedup();
        }
    }
}

fn order(fault: &Fault) -> (Option<(&str, usize)>, &str) {
    (fault.place.as_ref().map(|place| (&*place.file, place.line)), &fault.key)
}

/// `; did you mean "x"?`, or what there is instead, or nothing when there is nothing.
pub(super) fn hint<'k>(name: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    let mut known: Vec<&str> = known.into_iter().collect();
    known.sort_unstable();
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(candidate, name);
    let near = known.iter().min_by_key(distance).filter(|near| distance(near) <= 1 + name.len() / 4);
    match near {
        Some(near) => format!("; did you mean \"{near}\"?"),
        None if known.is_empty() => String::new(),
        None => format!("; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_offered_else_all() {
        assert_eq!(hint("max_conections", ["max_connections", "x"]), "; did you mean \"max_connections\"?");
        assert_eq!(hint("ghost", ["b", "admin"]), "; there are admin, b");
        assert_eq!(hint("ghost", []), "");
    }
}
