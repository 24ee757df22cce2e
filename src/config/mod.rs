//! The only place that reads files: TOML files and the environment become [`Settings`].

use crate::access::AccessSettings;
use crate::access::routes::Place;
use crate::admin::AdminSettings;
use crate::directory::file::User;
use crate::gateway::cors::CorsSettings;
use crate::gateway::login::LoginSettings;
use crate::server::tls::TlsSettings;
use crate::server::{Limits, ListenSettings};
use crate::session::SessionSettings;
use crate::session::token::TokenSettings;
use crate::telemetry::LogSettings;
use crate::upstream::UpstreamSettings;

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

/// A configuration that can be run, with what should be said about it.
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<Fault>,
    /// Keys that this version accepts but does not carry out yet: `run` refuses them.
    pub unsupported: Vec<Fault>,
    /// Every file that was read, for the start-up message and for watching.
    pub files: Vec<std::path::PathBuf>,
}
