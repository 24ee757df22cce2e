//! Settings become a running program: stores, listeners, gateway and admin; then signals, reloads, and the drain at the
//! end.

mod assemble;
mod ending;
mod orders;
pub mod process;
mod reload;
mod watch;

use std::io;
use std::net::TcpListener;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use crate::admin::control::{Control, ControlCell};
use crate::admin::frame::{Gate, LiveGate};
use crate::admin::{self, Admin, AdminSettings, Readiness};
use crate::clock::Clock;
use crate::config::{Loaded, Settings, Source};
use crate::drain::Drain;
use crate::gateway::authorizer::health::Health;
use crate::gateway::in_flight::InFlightCount;
use crate::gateway::live::{Live, LiveCell};
use crate::gateway::login::LoginService;
use crate::gateway::request_body::HeldMemory;
use crate::gateway::{Gateway, Shared};
use crate::server::Limits;
use crate::server::inherited::Inherited;
use crate::server::tls::{self, Resumption};
use crate::server::worker::Listeners;
use crate::session::engine_logout::EngineLogouts;
use crate::session::map::Sessions;
use crate::session::store;
use crate::telemetry::access_log::{AccessLog, LineBuffer, Writer};
use crate::telemetry::exchange::Scribe;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::{Exporter, SpanBuffer, SpanCounts, TraceFault, Traces};
use crate::telemetry::{TraceSettings, log, output};
use crate::trust::TrustFault;
use crate::upstream::UpstreamFault;

use assemble::{Assembled, Base, assemble};
use ending::{LAST_TRACES, LAST_WORK, finish};
use orders::{Orders, Signals};
use reload::{Fixed, Reloader};
use watch::FileWatch;

/// How often expired sessions are taken away.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How much longer than a drain may take the sessions file of the process before us is waited for.
const HANDOVER: Duration = Duration::from_secs(10);

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
    Upstream(#[from] UpstreamFault),
    #[error("the engine's url: {0}")]
    Engine(#[from] TrustFault),
    #[error("cors: {0}")]
    Cors(#[from] http::header::InvalidHeaderValue),
    #[error(transparent)]
    Traces(#[from] TraceFault),
}

/// Runs the gateway until SIGTERM, SIGINT or an operator's drain has been carried out. `source` is what a reload reads
/// again, `inherited` what listeners take instead of binding.
#[must_use]
pub fn run(source: Source, loaded: Loaded, inherited: Inherited) -> ExitCode {
    run_then(source, loaded, inherited, || {})
}

/// As [`run`]; `ready` is called once requests are served.
#[must_use]
pub fn run_then(source: Source, loaded: Loaded, inherited: Inherited, ready: impl FnOnce()) -> ExitCode {
    log::start(&loaded.settings.log, output::stderr());
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    process::raise_descriptors(loaded.settings.limits.max_connections);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    let ended = runtime.block_on(serve(source, loaded, inherited, ready));
    // What waits for a resolver, a disk or a reader of the logs does not hold up the end.
    runtime.shutdown_timeout(LAST_WORK);
    log::finish(LAST_WORK);
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

fn failed(error: &StartError) -> ExitCode {
    eprintln!("postern: {error}");
    ExitCode::FAILURE
}

async fn serve(
    source: Source,
    loaded: Loaded,
    inherited: Inherited,
    ready: impl FnOnce(),
) -> Result<(), StartError> {
    // Heard before anything else: one that comes while the program starts acts too, and does not kill it.
    let mut signals = Signals::listen()?;
    let starting = Box::pin(start(source, loaded, inherited));
    let started = tokio::select! {
        started = starting => started?,
        () = signals.end() => return Ok(()),
    };
    let Started { mut orders, reloader, readiness, engine_logouts, writer, workers, exporter } = started;
    readiness.start();
    notify(&[sd_notify::NotifyState::Ready]);
    ready();
    tokio::spawn(sweep(Arc::clone(&reloader.base.sessions), reloader.base.clock.clone()));
    tokio::spawn(engine_logouts.drive());
    orders.obey_until_the_end(&mut signals, &reloader).await;
    let limits = reloader.live.load().limits.clone();
    finish(&reloader.base.drain, &limits, &mut signals, (writer, workers)).await;
    let closed = tokio::select! {
        closed = reloader.base.sessions.close() => closed,
        () = signals.again() => Ok(()),
    };
    if let Err(error) = closed {
        tracing::error!(%error, "sessions may be missing at the next start");
    }
    if let Some(exporter) = exporter {
        // A panic is on standard error already.
        let _: Result<(), _> = tokio::task::spawn_blocking(|| exporter.finish(LAST_TRACES)).await;
    }
    Ok(())
}

/// What has been started.
struct Started {
    orders: Orders,
    reloader: Reloader,
    readiness: Readiness,
    engine_logouts: Arc<EngineLogouts>,
    writer: Writer,
    workers: Vec<JoinHandle<()>>,
    exporter: Option<Exporter>,
}

/// Once workers run there is nothing to wait for: a start that is called off leaves none behind.
async fn start(source: Source, loaded: Loaded, inherited: Inherited) -> Result<Started, StartError> {
    let (clock, drain, metrics) = (Clock::system(), Drain::new(), Metrics::default());
    let (readiness, control) = (Readiness::new(drain.clone()), ControlCell::default());
    let (fixed, files) = (Fixed::of(&loaded.settings), loaded.files.clone());
    let patience = patience(&inherited, &loaded.settings.limits);
    // Bound first: a taken address must be told before a store is touched.
    let (listeners, for_admin) = bind(&loaded.settings, &drain, inherited)?;
    let gate = serve_admin(loaded.settings.admin.as_ref(), for_admin, readiness.clone(), control.clone())?;

    let store = store::open_to_serve(&loaded.settings.sessions, patience, clock.now()).await?;
    let sessions = Arc::new(Sessions::open(store, &clock).await?);
    let base = Base {
        clock: clock.clone(),
        drain: drain.clone(),
        sessions,
        resumption: Resumption::new()?,
        engine_counts: Arc::default(),
    };
    let engine_logouts = EngineLogouts::new(Arc::clone(&base.sessions), clock.clone());
    let engine_counts = Arc::clone(&base.engine_counts);
    let (traces, exporter, spans) = start_traces(loaded.settings.traces.as_ref(), &clock)?;
    let Assembled { live, tls, domain_tokens, .. } = assemble(loaded, &base, None)?;
    listeners.live().tls.store(tls.map(Arc::new));
    base.sessions.domain_tokens().configure(&domain_tokens);
    // The user file may have changed while nothing ran: who left it has no session, a new role acts.
    base.sessions.reconcile(|session| live.role_of(session)).await?;
    announce(&live, &listeners, gate.as_ref().map(|(_, addr)| *addr), &base.sessions);

    let live = Arc::new(LiveCell::new(live));
    follow(&base.sessions, &live, &readiness);
    let (server, counts) = (listeners.live(), listeners.counts());
    let shared = Arc::new(Shared {
        live: Arc::clone(&live),
        login: LoginService::start(Arc::clone(&base.sessions), clock.clone())?,
        engine_logouts: Arc::clone(&engine_logouts),
        in_flight: InFlightCount::default(),
        logins: InFlightCount::default(),
        held: HeldMemory::default(),
        health: Health::following(drain.clone()),
        metrics: metrics.clone(),
        clock: clock.clone(),
    });
    let (lines, writer) = AccessLog::start(output::stdout())?;
    let lines_dropped = lines.dropped();
    let workers = listeners.serve(move || gateway(&shared, &lines, traces.as_ref()))?;
    let (orders, reloads, drain_asked) = Orders::new(FileWatch::start(files));
    control.set(Control {
        live: Arc::clone(&live),
        sessions: Arc::clone(&base.sessions),
        clock,
        metrics: metrics.clone(),
        server: counts,
        engine: engine_counts,
        engine_logouts: Arc::clone(&engine_logouts),
        lines_dropped,
        spans,
        reloads,
        drain: drain_asked,
    });
    let gate = gate.map(|(gate, _)| gate);
    let reloader = Reloader { source, base, fixed, live, server, gate, metrics };
    Ok(Started { orders, reloader, readiness, engine_logouts, writer, workers, exporter })
}

/// One worker thread's, with what it writes of its requests.
fn gateway(shared: &Arc<Shared>, lines: &Arc<AccessLog>, traces: Option<&Arc<Traces>>) -> Gateway {
    let lines = LineBuffer::new(Arc::clone(lines));
    tokio::task::spawn_local(Rc::clone(&lines).flush_now_and_then());
    let spans = traces.map(|traces| SpanBuffer::new(Arc::clone(traces)));
    if let Some(spans) = &spans {
        tokio::task::spawn_local(Rc::clone(spans).flush_now_and_then());
    }
    let scribe = Scribe::recording(shared.metrics.thread(), lines, shared.clock.clone(), spans);
    Gateway::new(Arc::clone(shared), scribe)
}

type TracesStarted = (Option<Arc<Traces>>, Option<Exporter>, SpanCounts);

fn start_traces(settings: Option<&TraceSettings>, clock: &Clock) -> Result<TracesStarted, TraceFault> {
    let counts = SpanCounts::default();
    let started =
        settings.map(|settings| Traces::start(settings, clock.clone(), counts.clone())).transpose()?;
    let (traces, exporter) = started.unzip();
    Ok((traces, exporter, counts))
}

/// Where replicas share the store: what others do acts here, and readiness depends on hearing of it.
fn follow(sessions: &Arc<Sessions>, live: &Arc<LiveCell>, readiness: &Readiness) {
    let roles = Arc::clone(live);
    sessions.follow(Box::new(move |user, role, is_adopted| roles.load().role_for(user, role, is_adopted)));
    if let Some(freshness) = sessions.freshness() {
        readiness.watch(freshness);
    }
}

/// How long the sessions file is waited for. Who hands sockets over may start us while the process before us drains.
fn patience(inherited: &Inherited, limits: &Limits) -> Duration {
    if inherited.is_empty() {
        return Duration::ZERO;
    }
    limits.drain_delay + limits.drain_timeout + HANDOVER
}

/// The listeners that carry traffic, and the sockets that were handed over for the operator's.
fn bind(
    settings: &Settings,
    drain: &Drain,
    mut inherited: Inherited,
) -> io::Result<(Listeners, Vec<TcpListener>)> {
    let limits = settings.limits.clone();
    let admin = settings.admin.as_ref().map(|admin| inherited.take("admin", admin.addr)).transpose()?;
    let listeners = Listeners::bind(&settings.listen, limits, drain.clone(), inherited)?;
    Ok((listeners, admin.unwrap_or_default()))
}

/// Serves until the program ends: health is told during the drain too. None: there is no admin listener.
fn serve_admin(
    settings: Option<&AdminSettings>,
    handed_over: Vec<TcpListener>,
    readiness: Readiness,
    control: ControlCell,
) -> io::Result<Option<(LiveGate, std::net::SocketAddr)>> {
    let Some(settings) = settings else { return Ok(None) };
    let gate = LiveGate::new(Gate::new(settings));
    let admin = Admin::start(settings.addr, handed_over, gate.clone(), admin::router(readiness, control))?;
    Ok(Some((gate, admin.addr().unwrap_or(settings.addr))))
}

/// What an operator looks for when it has started: what listens where, and what it was made of.
fn announce(live: &Live, listeners: &Listeners, admin: Option<std::net::SocketAddr>, sessions: &Sessions) {
    for (kind, addr) in listeners.addresses() {
        tracing::info!(%addr, listener = kind.as_str(), "listening");
    }
    if let Some(addr) = admin {
        tracing::info!(%addr, listener = "admin", "listening");
    }
    for file in &live.about.files {
        tracing::info!(file = %file.display(), "in use");
    }
    tracing::info!(
        users = live.directory.len(),
        roles = live.access.roles.len(),
        routes = live.access.routes.len(),
        upstreams = live.upstreams.len(),
        sessions = sessions.len(),
        store = sessions.store_operations().0,
        "started"
    );
}

/// Tells the service manager, where there is one.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

async fn sweep(sessions: Arc<Sessions>, clock: Clock) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        while sessions.sweep(clock.now()).await > 0 {
            tokio::task::yield_now().await;
        }
    }
}
