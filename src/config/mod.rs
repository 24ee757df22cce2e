//! The only place that reads files: TOML files and the environment become [`Settings`]. Every fault is gathered and
//! told with its place, not the first alone. Decides nothing and starts nothing.
//!
//! A file becomes a [`tree`] of values that know where they stand; [`include`] merges several, [`environment`] lays
//! variables over them; then [`load`](mod@load) takes one section after the other out of its [`table`], and what
//! nobody took is unknown. [`values`] reads scalars and [`files`] the files that are named; the rest is one file a
//! group of sections.

mod engine;
mod environment;
mod files;
mod findings;
mod front;
mod include;
mod listen;
mod load;
mod login;
mod redis;
mod roles;
mod routes;
mod shown;
mod table;
mod telemetry;
mod tls;
mod tree;
mod upstreams;
mod users;
mod values;

#[cfg(test)]
mod tests;

pub use files::hash_of;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

use crate::access::AccessSettings;
use crate::access::routes::Place;
use crate::admin::AdminSettings;
use crate::directory::file::User;
use crate::engine::EngineSettings;
use crate::gateway::authorizer::Convention;
use crate::gateway::cors::CorsSettings;
use crate::gateway::login::LoginSettings;
use crate::server::tls::TlsSettings;
use crate::server::{Limits, ListenSettings};
use crate::session::SessionSettings;
use crate::session::token::{DomainToken, TokenSettings};
use crate::telemetry::{LogSettings, TraceSettings};
use crate::upstream::UpstreamSettings;

use findings::Findings;

/// The whole configuration, read and checked, secrets and certificates included.
pub struct Settings {
    pub listen: ListenSettings,
    pub tls: Option<TlsSettings>,
    pub token: TokenSettings,
    pub login: LoginSettings,
    pub directory: DirectorySettings,
    /// `[domain_tokens]`
    pub domain_tokens: Vec<DomainToken>,
    pub sessions: SessionSettings,
    pub upstreams: Vec<UpstreamSettings>,
    pub access: AccessSettings,
    pub cors: Option<CorsSettings>,
    /// `[authz] convention`
    pub authz: Convention,
    pub admin: Option<AdminSettings>,
    pub limits: Limits,
    pub log: LogSettings,
    /// `[telemetry]`
    pub traces: Option<TraceSettings>,
}

/// `[directory]`
pub struct DirectorySettings {
    /// Of `directory.file`.
    pub users: Vec<User>,
    pub webitel: Option<EngineSettings>,
    /// The file is named before the engine.
    pub file_first: bool,
}

/// One thing that is wrong: `file:line: key: what is wrong, what would be right`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// None: from the environment, `key` is the variable then; or of a file that cannot be read, which is the key.
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
    /// Every file that is named, for the start-up message and for watching.
    pub files: Vec<NamedFile>,
    /// What the files and the environment say, as JSON, secrets left out.
    pub shown: serde_json::Value,
}

/// A configuration that cannot be run.
#[derive(Debug)]
pub struct Refused {
    /// All of them, by file and line; those of the environment first.
    pub faults: Vec<Fault>,
    /// Every file that is named all the same: to be watched for being mended.
    pub files: Vec<NamedFile>,
}

/// A file that the configuration is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    pub path: PathBuf,
    /// SHA-256 of what it held when it was read; none: it could not be.
    pub hash: Option<[u8; 32]>,
}

/// Where a configuration comes from: kept, so that a reload reads the same again.
#[derive(Clone)]
pub struct Source {
    pub file: PathBuf,
    /// Names and values; those that are none of ours are ignored.
    pub env: Vec<(String, String)>,
}

/// Where the configuration is when nothing says otherwise.
const DEFAULT_FILE: &str = "/etc/postern/postern.toml";

impl Source {
    /// `--config`, else `$POSTERN_CONFIG`, else `/etc/postern/postern.toml`; with the process's environment.
    #[must_use]
    pub fn from_process(file: Option<PathBuf>) -> Self {
        let named = || std::env::var_os("POSTERN_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
        let file = file.or_else(named).unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        // What is no UTF-8 gets replacement characters, and is refused for them if it is ours.
        let text = |text: OsString| text.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
        Self { file, env: env.filter(|(name, _)| name.starts_with("POSTERN_")).collect() }
    }
}

/// Loads and checks everything that `run` would.
///
/// # Errors
/// Every fault.
pub fn load(source: &Source) -> Result<Loaded, Refused> {
    let mut found = Findings::default();
    let loaded = load::load(source, &mut found);
    found.sort();
    let Findings { faults, warnings, files } = found;
    match loaded {
        Some((settings, shown)) if faults.is_empty() => Ok(Loaded { settings, warnings, files, shown }),
        _ => Err(Refused { faults, files }),
    }
}
