//! Settings become what requests are judged by: the same at start and at a reload.

use std::sync::Arc;

use super::StartError;
use crate::clock::Clock;
use crate::config::{Loaded, Settings};
use crate::directory::Directory;
use crate::directory::file::FileDirectory;
use crate::drain::Drain;
use crate::gateway::cors::Cors;
use crate::gateway::live::{About, Live};
use crate::server::tls::{Resumption, server_config_resuming};
use crate::session::map::Sessions;
use crate::session::token::{DomainToken, Tokens};
use crate::telemetry::LogSettings;
use crate::upstream::{UpstreamContext, UpstreamSet};

/// What outlives every configuration.
pub(super) struct Base {
    pub(super) clock: Clock,
    pub(super) drain: Drain,
    pub(super) sessions: Arc<Sessions>,
    pub(super) resumption: Resumption,
}

/// One configuration, whole, not in place yet.
pub(super) struct Assembled {
    pub(super) live: Live,
    pub(super) tls: Option<rustls::ServerConfig>,
    pub(super) domain_tokens: Vec<DomainToken>,
    pub(super) admin: Option<crate::admin::AdminSettings>,
    pub(super) log: LogSettings,
}

/// `before` is what runs: servers that are in both go on with their addresses and health.
pub(super) fn assemble(
    loaded: Loaded,
    base: &Base,
    before: Option<&UpstreamSet>,
) -> Result<Assembled, StartError> {
    let Loaded { settings, warnings, files, shown, .. } = loaded;
    let Settings {
        listen,
        tls,
        token,
        login,
        users,
        domain_tokens,
        sessions: _,
        upstreams,
        access,
        cors,
        admin,
        limits,
        log,
    } = settings;
    let context = UpstreamContext {
        names: access.names.clone(),
        body_timeout: limits.body_timeout,
        clock: base.clock.clone(),
        drain: base.drain.clone(),
    };
    let tls = tls.filter(|_| listen.https.is_some());
    let files = files.into_iter().map(|file| file.path).collect();
    let warnings = warnings.iter().map(ToString::to_string).collect();
    let live = Live {
        access,
        sessions: Arc::clone(&base.sessions),
        tokens: Arc::new(Tokens::new(&token)),
        directory: Directory::new(FileDirectory::new(users)),
        login,
        cors: cors.as_ref().map(Cors::new).transpose()?,
        limits,
        trusted: listen.trusted_proxies,
        upstreams: UpstreamSet::start(upstreams, context, before, &tokio::runtime::Handle::current())?,
        access_log: log.access,
        about: About { loaded: base.clock.now(), shown, files, warnings },
        policy: std::sync::OnceLock::new(),
    };
    let tls = tls.map(|tls| server_config_resuming(tls, &base.resumption)).transpose()?;
    Ok(Assembled { live, tls, domain_tokens, admin, log })
}
