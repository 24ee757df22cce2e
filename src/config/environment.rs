//! Environment variables over the tree: `POSTERN_A__B_C` overrides `a.b_c`. No value of a variable is printed here.

use std::path::Path;
use std::sync::Arc;

use super::Source;
use super::findings::{Findings, hint};
use super::tree::{Entries, Node, Origin, Value, folder_of};

/// The variables that name keys, in the order of their names.
pub(super) struct Environment {
    variables: Vec<Variable>,
}

struct Variable {
    origin: Origin,
    /// The key's path, in lower case.
    steps: Vec<String>,
    value: String,
}

/// Which tree a variable belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Main,
    /// `[users]`, in a file of its own.
    Users,
}

impl Environment {
    /// A variable without `__` is none of ours (Kubernetes sets such); one with it names a key or is a fault.
    pub(super) fn of(source: &Source, f: &mut Findings) -> Self {
        let folder = folder_of(&source.file);
        let mut variables: Vec<_> =
            source.env.iter().filter_map(|(name, value)| variable(name, value, &folder, f)).collect();
        variables.sort_by(|a, b| a.steps.cmp(&b.steps));
        Self { variables }
    }

    /// Puts the variables of one part over its tree.
    pub(super) fn apply(&self, part: Part, tree: &mut Entries, f: &mut Findings) {
        for variable in self.of_part(part) {
            if let Err(what) = set(tree, "", &variable.steps, variable) {
                f.fault(&variable.origin, "", what);
            }
        }
    }

    /// Where there is no such part, its variables name no key.
    pub(super) fn refuse(&self, part: Part, f: &mut Findings) {
        for variable in self.of_part(part) {
            f.fault(&variable.origin, "", "names no key of the configuration: there is no user file");
        }
    }

    fn of_part(&self, part: Part) -> impl Iterator<Item = &Variable> {
        let users = |v: &&Variable| v.steps.first().is_some_and(|step| step == "users");
        self.variables.iter().filter(move |v| users(v) == (part == Part::Users))
    }
}

fn variable(name: &str, value: &str, folder: &Arc<Path>, f: &mut Findings) -> Option<Variable> {
    let path = name.strip_prefix("POSTERN_").filter(|_| name.contains("__"))?;
    let origin = Origin::Variable { name: name.into(), folder: Arc::clone(folder) };
    let steps: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
    let is_cut_off = steps.iter().any(|step| step.is_empty() || step.starts_with('_'));
    if is_cut_off || path.contains(|c: char| c.is_ascii_lowercase()) {
        let what =
            "names no key of the configuration; it is the key's path in upper case, with __ between levels";
        f.fault(&origin, "", what);
        return None;
    }
    if value.contains('\u{fffd}') {
        f.fault(&origin, "", "is no UTF-8 text");
        return None;
    }
    Some(Variable { origin, steps, value: value.to_owned() })
}

/// Whether the keys of the table at `path` are names that the user chose: those must be there already, while the
/// program's own are judged when they are read.
fn is_of_the_users_choice(path: &str) -> bool {
    matches!(path, "upstreams" | "roles" | "users" | "domain_tokens") || is_free(path)
}

/// Whether everything below `path` is the user's.
fn is_free(path: &str) -> bool {
    path == "login.cdr" || path.starts_with("login.cdr.")
}

fn set(tree: &mut Entries, path: &str, steps: &[String], variable: &Variable) -> Result<(), String> {
    let Some((step, rest)) = steps.split_first() else { return Ok(()) };
    let key = resolve(tree, path, step)?;
    let below = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
    if rest.is_empty() {
        let value = overriding(tree.get(&key).map(|node| &node.value), path, &variable.value)?;
        tree.insert(key, Node { origin: variable.origin.clone(), value });
        return Ok(());
    }
    let empty = || Node { origin: variable.origin.clone(), value: Value::Table(Entries::new()) };
    match &mut tree.entry(key).or_insert_with(empty).value {
        Value::Table(entries) => set(entries, &below, rest, variable),
        _ => Err(format!("names no key of the configuration: {below} is a single value")),
    }
}

/// The key as it is written in the files: names of the user's choice keep their letter case there.
fn resolve(tree: &Entries, path: &str, step: &str) -> Result<String, String> {
    let alike: Vec<&String> = tree.keys().filter(|key| key.eq_ignore_ascii_case(step)).collect();
    match alike.as_slice() {
        [key] => Ok((*key).clone()),
        [] if is_of_the_users_choice(path) => {
            let hint = hint(step, tree.keys().map(String::as_str));
            Err(format!("names no key of the configuration: {path} has no \"{step}\"{hint}"))
        }
        [] => Ok(step.to_owned()),
        _ => Err(format!("could mean several keys of {path}, which differ by letter case alone")),
    }
}

fn overriding(present: Option<&Value>, path: &str, text: &str) -> Result<Value, String> {
    match present {
        Some(value @ (Value::List(_) | Value::Table(_))) => {
            Err(format!("names {}; a variable overrides a single value", value.kind()))
        }
        // Nobody else knows of which type it must be.
        Some(Value::Bool(_)) if is_free(path) => {
            text.parse().map(Value::Bool).map_err(|_| "must be true or false".to_owned())
        }
        Some(Value::Integer(_)) if is_free(path) => {
            text.parse().map(Value::Integer).map_err(|_| "must be a whole number".to_owned())
        }
        _ => Ok(Value::Raw(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree;
    use super::*;

    fn over(text: &str, env: &[(&str, &str)]) -> (Entries, Vec<String>) {
        let mut f = Findings::default();
        let mut tree = tree::parse(text, Path::new("x.toml")).ok().unwrap();
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment::of(&Source { file: "x.toml".into(), env }, &mut f).apply(Part::Main, &mut tree, &mut f);
        (tree, f.faults.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn kubernetes_own_variables_are_ignored() {
        let (tree, faults) =
            over("", &[("POSTERN_PORT", "tcp://x"), ("POSTERN_LISTEN", "x"), ("POSTERN_", "y")]);
        assert!(tree.is_empty() && faults.is_empty());
    }

    #[test]
    fn a_key_is_found_whether_it_is_there_or_not_and_a_chosen_name_in_any_case() {
        let text = "[listen]\nhttp = \"a\"\n[upstreams.Up]\nretries = 1";
        let env = [
            ("POSTERN_LISTEN__HTTP", "b"),
            ("POSTERN_LOG__LEVEL", "warn"),
            ("POSTERN_UPSTREAMS__UP__RETRIES", "2"),
        ];
        let (tree, faults) = over(text, &env);
        assert!(faults.is_empty(), "{faults:?}");
        let Value::Table(upstreams) = &tree["upstreams"].value else { panic!() };
        let Value::Table(up) = &upstreams["Up"].value else { panic!() };
        assert!(matches!(&up["retries"].value, Value::Raw(text) if text == "2"));
    }

    #[test]
    fn what_names_no_key_is_told_by_its_name_and_never_by_its_value() {
        let text = "[listen]\nhttp = \"a\"\n[upstreams.up]\nservers = []\n[upstreams.UP]";
        for name in [
            "POSTERN__LISTEN__HTTP",
            "POSTERN_LISTEN__",
            "POSTERN_listen__http",
            "POSTERN_LISTEN__HTTP__PORT",
            "POSTERN_UPSTREAMS__NONE__RETRIES",
            "POSTERN_UPSTREAMS__UP__RETRIES",
            "POSTERN_LISTEN__TRUSTED__",
        ] {
            let (_, faults) = over(text, &[(name, "hidden-31")]);
            assert_eq!(faults.len(), 1, "{name}");
            assert!(faults[0].starts_with(name) && !faults[0].contains("hidden-31"), "{faults:?}");
        }
    }

    #[test]
    fn free_values_keep_their_type() {
        let text = "[login]\ncdr = { useProxy = true, host = \"a\" }";
        let (tree, faults) = over(text, &[("POSTERN_LOGIN__CDR__USEPROXY", "false")]);
        let Value::Table(login) = &tree["login"].value else { panic!() };
        let Value::Table(cdr) = &login["cdr"].value else { panic!() };
        assert!(faults.is_empty() && matches!(cdr["useProxy"].value, Value::Bool(false)));
        assert_eq!(over(text, &[("POSTERN_LOGIN__CDR__USEPROXY", "maybe")]).1.len(), 1);
        assert_eq!(over(text, &[("POSTERN_LOGIN__CDR__OTHER", "x")]).1.len(), 1);
    }
}
