//! The worker threads: one a core, each with its own runtime, sockets, handler and connections.
//! Nothing of a request crosses threads.

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::ServerConfig;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};

use super::admission::{Admission, Connections};
use super::connection::Setting;
use super::counts::ServerCounts;
use super::draining::Draining;
use super::inherited::Inherited;
use super::listener::{Bound, Sharing, accept, accept_waiting};
use super::reception::{self, Desk, Speaks, serve_proxied};
use super::{Handler, Limits, ListenSettings};
use crate::drain::{Drain, DrainGuard};
use crate::peer::{ListenerKind, Peer, TrustedProxies};

/// How long a worker that panicked stays away.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// What a reload may change while the workers run: read once a connection.
#[derive(Clone)]
pub struct Live {
    pub limits: Arc<ArcSwap<Limits>>,
    pub trusted_proxies: Arc<ArcSwap<TrustedProxies>>,
    /// Needed by the https listener before it serves. Swapped whole; connections go on with what they began with.
    pub tls: Arc<ArcSwapOption<ServerConfig>>,
}

/// All listeners, bound before anything is served.
pub struct Listeners {
    bound: Vec<Bound>,
    proxy_protocol: bool,
    threads: NonZeroUsize,
    live: Live,
    drain: Drain,
    counts: ServerCounts,
}

impl Listeners {
    /// Binds every address for as many workers as there are cores; a listener whose sockets were handed over takes
    /// these instead, and none may be left.
    ///
    /// # Errors
    /// The address that cannot be bound, or the socket that cannot be used, and why.
    pub fn bind(
        settings: &ListenSettings,
        limits: Limits,
        drain: Drain,
        mut inherited: Inherited,
    ) -> io::Result<Self> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let wanted: Vec<_> =
            ListenerKind::ALL.into_iter().filter_map(|kind| Some((kind, settings.address(kind)?))).collect();
        // All before the first is bound: a socket of a wrong name holds the address of the right one.
        let handed_over = wanted
            .iter()
            .map(|(kind, addr)| inherited.take(kind.as_str(), *addr))
            .collect::<Result<Vec<_>, _>>()?;
        inherited.finish()?;
        let sharing = Sharing { threads, send_timeout: limits.send_timeout };
        let bound = wanted
            .into_iter()
            .zip(handed_over)
            .map(|(listener, sockets)| Bound::inheriting(listener, sockets, sharing))
            .collect::<io::Result<_>>()?;
        let live = Live {
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            trusted_proxies: Arc::new(ArcSwap::from_pointee(settings.trusted_proxies.clone())),
            tls: Arc::default(),
        };
        Ok(Self {
            bound,
            proxy_protocol: settings.proxy_protocol,
            threads,
            live,
            drain,
            counts: ServerCounts::default(),
        })
    }

    /// One listener without TLS on one thread: for what is seldom asked. Its sockets may have been handed over.
    pub fn single(
        addr: SocketAddr,
        handed_over: Vec<TcpListener>,
        limits: Limits,
        drain: Drain,
    ) -> io::Result<Self> {
        let threads = NonZeroUsize::MIN;
        let sharing = Sharing { threads, send_timeout: limits.send_timeout };
        let live = Live {
            limits: Arc::new(ArcSwap::from_pointee(limits)),
            trusted_proxies: Arc::default(),
            tls: Arc::default(),
        };
        let bound = vec![Bound::inheriting((ListenerKind::Http, addr), handed_over, sharing)?];
        Ok(Self { bound, proxy_protocol: false, threads, live, drain, counts: ServerCounts::default() })
    }

    /// What a reload swaps.
    #[must_use]
    pub fn live(&self) -> Live {
        self.live.clone()
    }

    /// What the listeners will have seen.
    #[must_use]
    pub fn counts(&self) -> ServerCounts {
        self.counts.clone()
    }

    /// What was bound; the ports are the real ones.
    #[must_use]
    pub fn addresses(&self) -> Vec<(ListenerKind, SocketAddr)> {
        let addr = |bound: &Bound| Some((bound.kind, bound.sockets.first()?.local_addr().ok()?));
        self.bound.iter().filter_map(addr).collect()
    }

    /// Starts the workers; each makes its own handler by `make`, which need not be `Send`. They end once the drain has
    /// started and everything in flight has ended.
    pub fn serve<H: Handler>(
        self,
        make: impl Fn() -> H + Clone + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let mut threads: Vec<Sockets> = (0..self.threads.get()).map(|_| Vec::new()).collect();
        for Bound { kind, sockets, inherited } in self.bound {
            for (n, socket) in sockets.into_iter().enumerate() {
                let proxied = self.proxy_protocol && kind.is_gateway();
                threads[n % self.threads].push(Entrance { kind, socket, inherited, proxied });
            }
        }
        let connections = Connections::default();
        let spawn = |(n, sockets)| {
            let (live, drain, connections) = (self.live.clone(), self.drain.clone(), connections.clone());
            let worker = Worker { live, drain, connections, counts: self.counts.clone(), make: make.clone() };
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || worker.run_for_ever(sockets))
        };
        threads.into_iter().enumerate().map(spawn).collect()
    }
}

type Sockets = Vec<Entrance>;

/// One socket of a listener, as a worker has it.
struct Entrance {
    kind: ListenerKind,
    socket: TcpListener,
    inherited: bool,
    proxied: bool,
}

struct Worker<F> {
    live: Live,
    drain: Drain,
    connections: Connections,
    counts: ServerCounts,
    make: F,
}

impl<H: Handler, F: Fn() -> H> Worker<F> {
    /// A worker that panics takes its connections with it; the sockets stay open, and a new one takes its place.
    fn run_for_ever(self, mut sockets: Sockets) {
        loop {
            match catch_unwind(AssertUnwindSafe(|| self.run(&mut sockets))) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => tracing::error!(%error, "a worker failed and is replaced"),
                Err(_) => tracing::error!("a worker panicked and is replaced"),
            }
            if self.drain.is_started() {
                return;
            }
            std::thread::sleep(RESTART_PAUSE);
        }
    }

    fn run(&self, sockets: &mut Sockets) -> io::Result<()> {
        // No `LocalSet`: what the system wakes would stand in a second queue there, behind what tasks wake, and an
        // HTTP/2 connection would write each answer by itself instead of all that are ready.
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(self.serve(sockets))
    }

    async fn serve(&self, sockets: &mut Sockets) -> io::Result<()> {
        let draining = Rc::new(Draining::default());
        let handler = Rc::new((self.make)());
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn_local(crate::deadline::drive());
        tasks.spawn_local(pass_on(self.drain.clone(), draining.clone()));
        for Entrance { kind, socket, inherited, proxied } in &*sockets {
            let doorkeeper = Doorkeeper {
                kind: *kind,
                inherited: *inherited,
                proxied: *proxied,
                live: self.live.clone(),
                drain: self.drain.clone(),
                connections: self.connections.clone(),
                counts: self.counts.clone(),
                handler: handler.clone(),
                draining: draining.clone(),
                _guard: self.drain.guard(),
            };
            let socket = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
            tasks.spawn_local(doorkeeper.accept_all(socket));
        }
        tokio::select! {
            () = self.drain.started() => {}
            // None of them returns before that, so this is a panic: the worker cannot do its work any more.
            _ = tasks.join_next() => return Err(io::Error::other("a task of the worker ended")),
        }
        draining.start();
        // What a replacement would have taken over; while it is open the kernel takes connections for us.
        sockets.clear();
        // The program itself cuts off at `drain_timeout`; it shall have the first word. What is left goes with the runtime.
        let timeout = self.live.limits.load().drain_timeout + Duration::from_secs(1);
        let _ = tokio::time::timeout(timeout, self.drain.finished_or_cut()).await;
        Ok(())
    }
}

/// Never returns: the worker ends by itself.
async fn pass_on(drain: Drain, draining: Rc<Draining>) {
    drain.announced().await;
    draining.announce();
    std::future::pending().await
}

/// Takes the connections of one listener.
struct Doorkeeper<H> {
    kind: ListenerKind,
    inherited: bool,
    /// Trusted proxies say whose connections they pass on (`listen.proxy_protocol`).
    proxied: bool,
    live: Live,
    drain: Drain,
    connections: Connections,
    counts: ServerCounts,
    handler: Rc<H>,
    draining: Rc<Draining>,
    /// Or the drain could be over before the last connections are counted.
    _guard: DrainGuard,
}

impl<H: Handler> Doorkeeper<H> {
    /// Until the drain starts. What the kernel has taken for us by then is served too, unless the service manager keeps
    /// it for the next process.
    async fn accept_all(self, listener: tokio::net::TcpListener) {
        let mut drain = self.draining.listener();
        let mut full = false;
        loop {
            let mut next = pin!(accept(&listener));
            let accepted = std::future::poll_fn(|cx| match drain.poll_started(cx) {
                Poll::Ready(()) => Poll::Ready(None),
                Poll::Pending => next.as_mut().poll(cx).map(Some),
            });
            let Some((stream, addr)) = accepted.await else { break };
            self.admit(stream, addr, &mut full);
        }
        if self.inherited {
            return;
        }
        for (stream, addr) in accept_waiting(listener) {
            self.admit(stream, addr, &mut full);
        }
    }

    /// A connection past `limits.max_connections` is closed at once, without a word: its client, or the balancer
    /// before us, learns so that it must go elsewhere, which leaving it in the backlog would not tell it.
    fn admit(&self, stream: TcpStream, addr: SocketAddr, full: &mut bool) {
        let limits = self.live.limits.load_full();
        let open = self.counts.connection(self.kind);
        let admission = self.connections.admit(limits.max_connections, &self.drain, open);
        if admission.is_none() && !*full {
            tracing::warn!(max = limits.max_connections, "limits.max_connections is reached");
        }
        *full = admission.is_none();
        if let Some(admission) = admission {
            self.open(stream, addr, limits, admission);
        }
    }

    fn open(&self, stream: TcpStream, addr: SocketAddr, limits: Arc<Limits>, admission: Admission) {
        let speaks = match (self.kind, self.live.tls.load_full()) {
            (ListenerKind::Http | ListenerKind::Authz, _) => Speaks::Http1,
            // gRPC is HTTP/2, without TLS by prior knowledge (RFC 9113 section 3.3).
            (ListenerKind::ExtAuthz, _) => Speaks::Http2,
            (ListenerKind::Https, Some(tls)) => Speaks::Tls(tls),
            (ListenerKind::Https, None) => return tracing::error!("an https listener without certificates"),
        };
        let trusted = self.live.trusted_proxies.load().trusts(addr.ip());
        let setting = Setting {
            handler: self.handler.clone(),
            peer: Rc::new(Peer::new(addr, self.kind, trusted)),
            limits,
            draining: self.draining.clone(),
            admission,
        };
        if trusted && self.proxied {
            let desk = Desk { live: self.live.clone(), counts: self.counts.clone() };
            tokio::task::spawn_local(serve_proxied(stream, speaks, desk, setting));
        } else {
            reception::spawn(stream, speaks, &self.counts, setting);
        }
    }
}
