//! The only place that reads files: TOML files and the environment become [`Settings`]. Every fault is gathered, not the
//! first alone.

mod build;
mod files;
mod policy;
mod table;
mod tree;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::AccessSettings;
use crate::access::routes::Place;
use crate::admin::AdminSettings;
use crate::directory::file::User;
use crate::gateway::cors::CorsSettings;
use crate::gateway::login::LoginSettings;
use crate::server::tls::{self, TlsFault, TlsSettings};
use crate::server::{Limits, ListenSettings};
use crate::session::SessionSettings;
use crate::session::token::TokenSettings;
use crate::telemetry::LogSettings;
use crate::upstream::UpstreamSettings;

use files::Files;
use table::{Faults, Table};
use tree::{Entries, Node, Origin, Value};

/// The whole configuration, read and checked, secrets and certificates included.
pub struct Settings {
    pub listen: ListenSettings,
    pub tls: Option<TlsSettings>,
    pub token: TokenSettings,
    pub login: LoginSettings,
    /// Of `directory.file`.
    pub users: Vec<User>,
    pub sessions: SessionSettings,
    pub upstreams: Vec<UpstreamSettings>,
    pub access: AccessSettings,
    pub cors: Option<CorsSettings>,
    pub admin: Option<AdminSettings>,
    pub limits: Limits,
    pub log: LogSettings,
}

/// One thing that is wrong: `file:line: key: what is wrong, what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// None: from the environment, `key` is the variable then.
    pub place: Option<Place>,
    pub key: String,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{}:{}: ", place.file, place.line)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)
    }
}

/// A configuration that can be run, with what should be said about it.
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<Fault>,
    /// Keys that this version accepts but does not carry out yet: `run` refuses them.
    pub unsupported: Vec<Fault>,
    /// Every file that was read, for the start-up message and for watching.
    pub files: Vec<PathBuf>,
}

/// Where a configuration comes from.
pub struct Source {
    pub file: PathBuf,
    pub env: Vec<(String, String)>,
}

impl Source {
    /// `--config`, else `$POSTERN_CONFIG`, else `/etc/postern/postern.toml`; with the process's environment.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        let named = || std::env::var_os("POSTERN_CONFIG").map(PathBuf::from);
        let file = file.or_else(named).unwrap_or_else(|| PathBuf::from("/etc/postern/postern.toml"));
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let mut env: Vec<_> =
            env.filter(|(name, _)| name.starts_with("POSTERN_") && name != "POSTERN_CONFIG").collect();
        env.sort();
        Self { file, env }
    }
}

/// Keys whose behaviour comes later.
#[derive(Default)]
pub(crate) struct Unsupported(Vec<Fault>);

impl Unsupported {
    fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    fn note(&mut self, table: &Table, key: &str) {
        self.add(table.origin.fault(&table.key(key), "not supported yet"));
    }

    fn note_key(&mut self, table: &Table, key: &str) {
        if let Some(node) = table.peek(key) {
            self.add(node.origin.fault(&table.key(key), "not supported yet"));
        }
    }

    fn note_word(&mut self, table: &Table, key: &str, word: &str) {
        if let Some(node) =
            table.peek(key).filter(|node| matches!(&node.value, Value::Text(text) if text == word))
        {
            self.add(node.origin.fault(&table.key(key), format!("\"{word}\" is not supported yet")));
        }
    }
}

/// Loads and checks everything that `run` would.
///
/// # Errors
/// Every fault, in the order of files and lines.
pub fn load(source: &Source) -> Result<Loaded, Vec<Fault>> {
    let mut faults = Faults::new();
    let loaded = Loading { source, files: Files::default(), later: Unsupported::default() }.load(&mut faults);
    let at = |fault: &Fault| fault.place.as_ref().map(|place| (place.file.to_string(), place.line));
    faults.sort_by_key(at);
    faults.dedup();
    match loaded {
        Some(loaded) if faults.is_empty() => Ok(loaded),
        _ => Err(faults),
    }
}

struct Loading<'s> {
    source: &'s Source,
    files: Files,
    later: Unsupported,
}

impl Loading<'_> {
    fn load(mut self, faults: &mut Faults) -> Option<Loaded> {
        let mut root = Table::new(self.tree(faults)?, self.start(), "");
        root.take("include");
        let (listen, admin_addr) = build::listen(root.table("listen", faults), faults, &mut self.later);
        if !root.asked("listen") {
            faults.push(self.start().fault("listen", "is missing; name https or http"));
        }
        let tls = self.tls(&mut root, &listen, faults);
        let token = build::token(root.table("token", faults), &mut self.files, faults);
        let token = root.required(token, root.asked("token"), "token", faults);
        let login = build::login(root.table("login", faults), faults, &mut self.later);
        let sessions = build::sessions(root.table("sessions", faults), faults, &mut self.later);
        let upstreams = build::upstreams(root.table("upstreams", faults), &mut self.files, faults);
        let (roles, role_names) = policy::roles(root.table("roles", faults), faults);
        let users = self.users(&mut root, &role_names, faults);
        let case_sensitive = self.paths(&mut root, faults);
        let names: Vec<String> = upstreams.iter().map(|upstream| upstream.name.to_string()).collect();
        let routes = policy::routes(root.take("routes"), &names, case_sensitive, faults, &mut self.later);
        let domain_tokens = policy::domain_tokens(root.table("domain_tokens", faults), &role_names, faults);
        let credential_names = policy::names(root.table("credentials", faults), faults);
        let cors = build::cors(root.table("cors", faults), faults);
        let admin = build::admin(root.table("admin", faults), admin_addr, &mut self.files, faults);
        let limits = build::limits(root.table("limits", faults), faults);
        let log = build::log(root.table("log", faults), faults);
        self.rest(&mut root, faults);
        root.finish(faults);
        let access = AccessSettings { routes, roles, names: credential_names, case_sensitive, domain_tokens };
        let settings = Settings {
            listen,
            tls,
            token: token?,
            login,
            users,
            sessions,
            upstreams,
            access,
            cors,
            admin,
            limits,
            log,
        };
        Some(Loaded {
            settings,
            warnings: self.files.warnings,
            unsupported: self.later.0,
            files: self.files.read,
        })
    }

    fn shown(path: &Path) -> String {
        path.display().to_string()
    }

    fn start(&self) -> Origin {
        let folder: Arc<Path> = self.source.file.parent().unwrap_or(Path::new("")).into();
        Origin::File { place: Place { file: Self::shown(&self.source.file).into(), line: 1 }, folder }
    }

    /// The main file, what it includes, and the environment over both.
    fn tree(&mut self, faults: &mut Faults) -> Option<Entries> {
        let mut entries = self.file(&self.source.file.clone(), faults)?;
        let includes = match entries.get("include").map(|node| (node.origin.clone(), node.value.clone())) {
            None => Vec::new(),
            Some((_, Value::List(items))) => items,
            Some((origin, _)) => {
                faults.push(origin.fault("include", "must be a list of files"));
                Vec::new()
            }
        };
        let mut whole = true;
        for Node { origin, value } in includes {
            let Value::Text(text) = value else {
                faults.push(origin.fault("include", "must be a list of files"));
                continue;
            };
            let path = origin.path(&text);
            if !path.is_file() {
                faults.push(origin.fault("include", format!("{text} is not there or is no file")));
                continue;
            }
            match self.file(&path, faults) {
                Some(more) => tree::merge(&mut entries, more, faults),
                None => whole = false,
            }
        }
        let Origin::File { folder, .. } = self.start() else { return None };
        tree::override_by(&mut entries, &self.source.env, &folder, faults);
        whole.then_some(entries)
    }

    fn file(&mut self, path: &Path, faults: &mut Faults) -> Option<Entries> {
        self.files.read.push(path.to_owned());
        match tree::read(path, &Self::shown(path)) {
            Ok(Node { value: Value::Table(entries), .. }) => Some(entries),
            Ok(_) => None,
            Err(found) => {
                faults.extend(found);
                None
            }
        }
    }

    fn tls(&mut self, root: &mut Table, listen: &ListenSettings, faults: &mut Faults) -> Option<TlsSettings> {
        let table = root.table("tls", faults);
        let place = table.as_ref().and_then(|table| table.peek("key_file")).map(|node| node.origin.clone());
        let settings = build::tls(table, &mut self.files, faults);
        if listen.https.is_some() && !root.asked("tls") {
            faults.push(
                self.start().fault("tls", "is missing, and listen.https needs its cert_file and key_file"),
            );
        }
        // Built once for its faults; certificates are small.
        let copy = settings.as_ref().map(clone_tls)?;
        if let (Err(fault), Some(place)) = (tls::server_config(copy), place) {
            let key = match fault {
                TlsFault::KeyMismatch { identity: 0 } => "tls.key_file",
                TlsFault::Unusable { identity: 0, .. } => "tls.cert_file",
                TlsFault::KeyMismatch { .. } | TlsFault::Unusable { .. } => "tls.sni",
                TlsFault::ClientCa { .. } => "tls.client_ca_file",
            };
            faults.push(place.fault(key, fault.to_string()));
        }
        settings
    }

    fn users(&mut self, root: &mut Table, roles: &policy::RoleNames, faults: &mut Faults) -> Vec<User> {
        let Some(mut directory) = root.table("directory", faults) else {
            faults.push(self.start().fault("directory", "is missing; name a file of users"));
            return Vec::new();
        };
        self.later.note_key(&directory, "webitel");
        if let Some(mut webitel) = directory.table("webitel", faults) {
            webitel.take("url");
            webitel.finish(faults);
        }
        let path = directory.parsed("file", faults, |text, origin| {
            let path = origin.path(text);
            if path.is_file() { Ok(path) } else { Err(format!("{text} is not there or is no file")) }
        });
        directory.finish(faults);
        let Some(entries) = path.and_then(|path| self.file(&path, faults).map(|entries| (entries, path)))
        else {
            return Vec::new();
        };
        let (entries, path) = entries;
        let folder: Arc<Path> = path.parent().unwrap_or(Path::new("")).into();
        let origin = Origin::File { place: Place { file: Self::shown(&path).into(), line: 1 }, folder };
        let mut file = Table::new(entries, origin, "");
        let users = policy::users(file.table("users", faults), roles, &mut self.files, faults);
        file.finish(faults);
        users
    }

    fn paths(&self, root: &mut Table, faults: &mut Faults) -> bool {
        let Some(mut table) = root.table("paths", faults) else { return false };
        let case_sensitive = table.bool("case_sensitive", false, faults);
        table.finish(faults);
        case_sensitive
    }

    /// Sections of listeners that come later.
    fn rest(&mut self, root: &mut Table, faults: &mut Faults) {
        if let Some(mut authz) = root.table("authz", faults) {
            let words = [("any", ()), ("nginx", ()), ("forwarded", ()), ("envoy", ())];
            authz.word("convention", &words, (), faults);
            authz.finish(faults);
        }
        if let Some(mut telemetry) = root.table("telemetry", faults) {
            self.later.note_key(&telemetry, "otlp_endpoint");
            telemetry.text("otlp_endpoint", faults);
            telemetry.finish(faults);
        }
    }
}

fn clone_tls(settings: &TlsSettings) -> TlsSettings {
    let identity = |identity: &tls::Identity| tls::Identity {
        names: identity.names.clone(),
        chain: identity.chain.clone(),
        key: identity.key.clone_key(),
    };
    TlsSettings {
        default: identity(&settings.default),
        sni: settings.sni.iter().map(identity).collect(),
        client_ca: settings.client_ca.clone(),
        min_version: settings.min_version,
    }
}
