//! Another configuration is put in place of the running one: loaded and checked beside it, swapped in whole, or refused
//! with every fault, while the running one goes on (contract section 2, Reload).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::assemble::{Assembled, Base, assemble};
use crate::admin::control::{Faults, Reloaded};
use crate::admin::frame::{Gate, LiveGate};
use crate::config::{self, Loaded, NamedFile, Refused, Settings, Source};
use crate::gateway::live::LiveCell;
use crate::server::{Limits, worker};
use crate::session::redis::Place;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{LogFormat, TraceSettings, audit, log};

/// Who asked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trigger {
    Signal,
    Files,
    Operator,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Signal => "signal",
            Self::Files => "files",
            Self::Operator => "operator",
        }
    }
}

/// What cannot change while the program runs, as it was at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    https: Option<SocketAddr>,
    http: Option<SocketAddr>,
    authz: Option<SocketAddr>,
    ext_authz: Option<SocketAddr>,
    proxy_protocol: bool,
    send_timeout: Duration,
    admin: Option<SocketAddr>,
    store: Option<PathBuf>,
    redis: Option<Place>,
    format: LogFormat,
    traces: Option<TraceSettings>,
}

impl Fixed {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            https: settings.listen.https,
            http: settings.listen.http,
            authz: settings.listen.authz,
            ext_authz: settings.listen.ext_authz,
            proxy_protocol: settings.listen.proxy_protocol,
            send_timeout: settings.limits.send_timeout,
            admin: settings.admin.as_ref().map(|admin| admin.addr),
            store: settings.sessions.file.clone(),
            redis: settings.sessions.redis.as_ref().map(|redis| redis.place.clone()),
            format: settings.log.format,
            traces: settings.traces.clone(),
        }
    }

    /// The keys that another configuration has otherwise.
    fn changed(&self, other: &Self) -> Vec<&'static str> {
        [
            ("listen.https", self.https == other.https),
            ("listen.http", self.http == other.http),
            ("listen.authz", self.authz == other.authz),
            ("listen.ext_authz", self.ext_authz == other.ext_authz),
            ("listen.proxy_protocol", self.proxy_protocol == other.proxy_protocol),
            ("limits.send_timeout", self.send_timeout == other.send_timeout),
            ("listen.admin", self.admin == other.admin),
            ("sessions.file", self.store == other.store),
            ("sessions.redis", self.redis == other.redis),
            ("log.format", self.format == other.format),
            ("telemetry", self.traces == other.traces),
        ]
        .into_iter()
        .filter_map(|(key, same)| (!same).then_some(key))
        .collect()
    }
}

pub(super) struct Reloader {
    pub(super) source: Source,
    pub(super) base: Base,
    pub(super) fixed: Fixed,
    pub(super) live: Arc<LiveCell>,
    pub(super) server: worker::Live,
    pub(super) gate: Option<LiveGate>,
    pub(super) metrics: Metrics,
}

impl Reloader {
    /// Loads what the source holds now and puts it in place. Also says which files were read, to be watched.
    pub(super) async fn reload(&self, trigger: Trigger) -> (Result<Reloaded, Faults>, Vec<NamedFile>) {
        let source = self.source.clone();
        let loaded = tokio::task::spawn_blocking(move || config::load(&source)).await;
        let (outcome, files) = match loaded {
            Ok(Ok(loaded)) => {
                let files = loaded.files.clone();
                (self.put_in_place(loaded).await, files)
            }
            Ok(Err(Refused { faults, files })) => (Err(told(&faults)), files),
            Err(panic) => (Err(vec![format!("the configuration could not be read: {panic}")]), Vec::new()),
        };
        self.tell(trigger, &outcome);
        (outcome, files)
    }

    fn tell(&self, trigger: Trigger, outcome: &Result<Reloaded, Faults>) {
        match outcome {
            Ok(Reloaded { generation, warnings }) => {
                warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                tracing::info!(generation, by = trigger.as_str(), "the configuration was reloaded");
            }
            Err(faults) => {
                faults.iter().for_each(|fault| tracing::error!("{fault}"));
                tracing::error!(
                    faults = faults.len(),
                    by = trigger.as_str(),
                    "the configuration was refused; the running one stays"
                );
            }
        }
        let result = if outcome.is_ok() { "ok" } else { "refused" };
        self.metrics.reload(result);
        audit::reload(trigger.as_str(), result, self.live.generation());
    }

    async fn put_in_place(&self, loaded: Loaded) -> Result<Reloaded, Faults> {
        let mut warnings = told(&loaded.warnings);
        let changed = self.fixed.changed(&Fixed::of(&loaded.settings));
        warnings.extend(changed.iter().map(|key| format!("{key} has changed; that acts at the next start")));
        let before = self.live.load();
        let sessions = loaded.settings.sessions.clone();
        let assembled = assemble(loaded, &self.base, Some(&before.upstreams));
        let Assembled { live, tls, domain_tokens, admin, log } =
            assembled.map_err(|e| vec![e.to_string()])?;

        log::set_level(log.level);
        // The listeners' sockets keep theirs; HTTP/2 is to do the same.
        let limits = Limits { send_timeout: self.fixed.send_timeout, ..live.limits.clone() };
        self.server.limits.store(Arc::new(limits));
        self.server.trusted_proxies.store(Arc::new(live.trusted.clone()));
        if let Some(tls) = tls {
            self.server.tls.store(Some(Arc::new(tls)));
        }
        if let (Some(gate), Some(admin)) = (&self.gate, admin) {
            gate.swap(Gate::new(&admin));
        }
        self.base.sessions.go_on_with(&sessions);
        self.base.sessions.domain_tokens().configure(&domain_tokens);
        let generation = self.live.swap(live);
        // Behind the swap: whoever logs in from here on is judged by the new directory.
        let directory = self.live.load();
        match self.base.sessions.reconcile(|session| directory.role_of(session)).await {
            Ok(changed) => tracing::debug!(changed.ended, changed.new_role, "sessions follow the user file"),
            Err(error) => tracing::warn!(%error, "sessions that ended or changed are not stored yet"),
        }
        Ok(Reloaded { generation, warnings })
    }
}

fn told(faults: &[config::Fault]) -> Vec<String> {
    faults.iter().map(ToString::to_string).collect()
}
