//! Settings become what requests are judged by: the same at start and at a reload.

use std::sync::Arc;

use super::StartError;
use crate::clock::Clock;
use crate::config::{DirectorySettings, Loaded, Settings};
use crate::directory::Directory;
use crate::directory::file::FileDirectory;
use crate::drain::Drain;
use crate::engine::{Engine, EngineCounts, EngineSettings};
use crate::gateway::cors::Cors;
use crate::gateway::live::{About, Live};
use crate::server::tls::{Resumption, server_config_resuming};
use crate::session::adopter::{AdoptSettings, Adopter};
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
    pub(super) engine_counts: Arc<EngineCounts>,
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
        mut login,
        directory,
        domain_tokens,
        sessions,
        upstreams,
        access,
        cors,
        authz,
        admin,
        limits,
        log,
        // They act from the start to the end of the program.
        traces: _,
    } = settings;
    let context = UpstreamContext {
        names: access.names.clone(),
        body_timeout: limits.body_timeout,
        clock: base.clock.clone(),
        drain: base.drain.clone(),
    };
    let (directory, engine, adopter) = who_is_known(directory, sessions.adopt, &base.engine_counts)?;
    login.rights_by_role = adopter.as_ref().is_some_and(|adopter| adopter.is_by_role());
    let tls = tls.filter(|_| listen.https.is_some());
    let files = files.into_iter().map(|file| file.path).collect();
    let warnings = warnings.iter().map(ToString::to_string).collect();
    let live = Live {
        access,
        sessions: Arc::clone(&base.sessions),
        tokens: Arc::new(Tokens::new(&token)),
        directory,
        engine,
        adopter,
        login,
        cors: cors.as_ref().map(Cors::new).transpose()?,
        authz,
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

type Known = (Directory, Option<Arc<Engine>>, Option<Arc<Adopter>>);

/// Who may log in, and whom an engine makes known. An engine that is named twice is one.
fn who_is_known(
    directory: DirectorySettings,
    adopt: Option<AdoptSettings>,
    counts: &Arc<EngineCounts>,
) -> Result<Known, StartError> {
    let engine = |settings: &EngineSettings| Engine::new(settings, Arc::clone(counts)).map(Arc::new);
    let DirectorySettings { users, webitel, file_first } = directory;
    let asked_at_login = webitel.as_ref().map(engine).transpose()?;
    let asked_later = match &adopt {
        Some(adopt) if webitel.as_ref() == Some(&adopt.engine) => asked_at_login.clone(),
        Some(adopt) => Some(engine(&adopt.engine)?),
        None => None,
    };
    let adopter = asked_later.clone().zip(adopt).map(|(engine, adopt)| Arc::new(Adopter::new(engine, adopt)));
    let directory = Directory::new(FileDirectory::new(users)).with_engine(asked_at_login.clone(), file_first);
    Ok((directory, asked_at_login.or(asked_later), adopter))
}
