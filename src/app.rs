//! Settings become a running program: stores, listeners, gateway and admin, and the drain at the end.

use std::io;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::admin::{self, Admin, AdminSettings, Readiness};
use crate::clock::Clock;
use crate::config::{Loaded, Settings};
use crate::directory::Directory;
use crate::directory::file::FileDirectory;
use crate::drain::Drain;
use crate::gateway::cors::Cors;
use crate::gateway::in_flight::InFlightCount;
use crate::gateway::live::{Live, LiveCell};
use crate::gateway::login::LoginService;
use crate::gateway::{Gateway, Shared};
use crate::server::worker::Listeners;
use crate::server::{Limits, tls};
use crate::session::map::Sessions;
use crate::session::store;
use crate::session::token::Tokens;
use crate::telemetry::access_log::{AccessLog, LineBuffer, Writer};
use crate::telemetry::exchange::Scribe;
use crate::telemetry::log;
use crate::telemetry::metrics::Metrics;
use crate::upstream::{UpstreamContext, UpstreamSet};

/// How often expired sessions are taken away.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Why the program could not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Tls(#[from] tls::TlsFault),
    #[error(transparent)]
    Upstream(#[from] crate::upstream::UpstreamFault),
    #[error("cors: {0}")]
    Cors(#[from] http::header::InvalidHeaderValue),
}

/// Runs the gateway until SIGTERM or SIGINT has been carried out.
#[must_use]
pub fn run(loaded: Loaded) -> ExitCode {
    run_then(loaded, || {})
}

/// As [`run`]; `ready` is called once requests are served.
#[must_use]
pub fn run_then(loaded: Loaded, ready: impl FnOnce()) -> ExitCode {
    log::start(&loaded.settings.log);
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(serve(loaded, ready)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &StartError) -> ExitCode {
    eprintln!("postern: {error}");
    ExitCode::FAILURE
}

async fn serve(loaded: Loaded, ready: impl FnOnce()) -> Result<(), StartError> {
    let Settings {
        listen,
        tls,
        token,
        login,
        users,
        domain_tokens,
        sessions,
        upstreams,
        access,
        cors,
        admin,
        limits,
        log,
    } = loaded.settings;
    let (clock, drain) = (Clock::system(), Drain::new());
    let (readiness, metrics) = (Readiness::new(drain.clone()), Metrics::default());
    // Bound first: a taken address must be told before a store is touched.
    let tls = tls.filter(|_| listen.https.is_some()).map(tls::server_config).transpose()?;
    let listeners = Listeners::bind(&listen, tls, limits.clone(), drain.clone())?;
    serve_admin(admin, readiness.clone())?;

    let sessions = Arc::new(Sessions::open(store::open(&sessions)?, &clock).await?);
    sessions.domain_tokens().configure(&domain_tokens);
    let tokens = Arc::new(Tokens::new(&token));
    let context = UpstreamContext {
        names: access.names.clone(),
        body_timeout: limits.body_timeout,
        clock: clock.clone(),
        drain: drain.clone(),
    };
    tracing::info!(
        https = ?listen.https, http = ?listen.http, users = users.len(), roles = access.roles.len(), routes = access.routes.len(),
        sessions = sessions.len(), files = loaded.files.len(), "started"
    );
    let directory = Directory::new(FileDirectory::new(users));
    // The user file may have changed while nothing ran: who left it has no session, a new role acts.
    sessions.reconcile(|user| directory.role_of(user)).await?;
    let live = Live {
        access,
        sessions: Arc::clone(&sessions),
        tokens,
        directory,
        login,
        cors: cors.as_ref().map(Cors::new).transpose()?,
        limits: limits.clone(),
        trusted: listen.trusted_proxies,
        upstreams: UpstreamSet::start(upstreams, context, &tokio::runtime::Handle::current())?,
        access_log: log.access,
    };
    let shared = Arc::new(Shared {
        live: Arc::new(LiveCell::new(live)),
        login: LoginService::start(Arc::clone(&sessions), clock.clone())?,
        in_flight: InFlightCount::default(),
        metrics: metrics.clone(),
        clock: clock.clone(),
    });
    let (lines, writer) = AccessLog::start(io::stdout())?;
    let workers = listeners.serve(move || {
        let lines = LineBuffer::new(Arc::clone(&lines));
        tokio::task::spawn_local(Rc::clone(&lines).flush_now_and_then());
        let scribe = Scribe::new(shared.metrics.thread(), lines, shared.clock.clone());
        Gateway::new(Arc::clone(&shared), scribe)
    })?;
    // Heard before anyone is told that it is ready: a signal that comes at once drains too.
    let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    readiness.start();
    ready();
    tokio::spawn(sweep(sessions, clock));
    ended_by(signals).await;
    finish(&drain, &limits, writer, workers).await;
    Ok(())
}

/// Serves until the program ends: health is told during the drain too.
fn serve_admin(settings: Option<AdminSettings>, readiness: Readiness) -> io::Result<()> {
    let Some(settings) = settings else { return Ok(()) };
    Admin::start(&settings, admin::router(readiness)).map(drop)
}

async fn sweep(sessions: Arc<Sessions>, clock: Clock) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        while sessions.sweep(clock.now()).await > 0 {
            tokio::task::yield_now().await;
        }
    }
}

async fn ended_by((mut term, mut int): (Signal, Signal)) {
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// Waits for what is in flight, at most `drain_timeout`.
async fn finish(drain: &Drain, limits: &Limits, writer: Writer, workers: Vec<JoinHandle<()>>) {
    tracing::info!("draining");
    drain.announce();
    tokio::time::sleep(limits.drain_delay).await;
    drain.start();
    if tokio::time::timeout(limits.drain_timeout, drain.finished()).await.is_err() {
        tracing::warn!(
            in_flight = drain.in_flight(),
            "the drain took too long; what is in flight is cut off"
        );
        return;
    }
    // With the last worker goes the last line buffer, and the writer ends.
    let ended = tokio::task::spawn_blocking(move || {
        let joined = workers.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        writer.finish();
        joined
    });
    if ended.await.unwrap_or(1) > 0 {
        tracing::error!("a worker ended by a panic");
    }
}
