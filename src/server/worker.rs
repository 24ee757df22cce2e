//! The worker threads: one a core, each with a runtime, listeners and a handler of its own. Nothing of a request ever
//! leaves its thread.

use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use super::connection::{Serving, serve_h1, serve_h2};
use super::{Handler, Limits, ListenSettings};
use crate::deadline;
use crate::drain::Drain;
use crate::peer::{ListenerKind, Peer, TrustedProxies};

const BACKLOG: i32 = 4096;
/// After an accept that failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A listener's sockets, one for each worker.
struct Bound {
    kind: ListenerKind,
    sockets: Vec<TcpListener>,
}

/// What every worker has of the listeners.
#[derive(Clone)]
struct Common {
    tls: Option<Arc<ServerConfig>>,
    trusted: TrustedProxies,
    limits: Limits,
    drain: Drain,
    /// Connections of all workers.
    open: Arc<AtomicUsize>,
}

/// All listeners, bound before anything is served.
pub struct Listeners {
    bound: Vec<Bound>,
    common: Common,
}

impl Listeners {
    /// Binds every address for as many workers as there are cores.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub fn bind(
        settings: &ListenSettings,
        tls: Option<ServerConfig>,
        limits: Limits,
        drain: Drain,
    ) -> io::Result<Self> {
        let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wanted = [(ListenerKind::Https, settings.https), (ListenerKind::Http, settings.http)];
        let mut bound = Vec::new();
        for (kind, addr) in wanted {
            let Some(addr) = addr else { continue };
            let told =
                |error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}"));
            bound.push(Bound { kind, sockets: bind_all(addr, workers).map_err(told)? });
        }
        let (trusted, open) = (settings.trusted_proxies.clone(), Arc::default());
        Ok(Self { bound, common: Common { tls: tls.map(Arc::new), trusted, limits, drain, open } })
    }

    /// Starts the workers; each makes its own handler by `make`.
    pub fn serve<H: Handler>(
        self,
        make: impl Fn() -> H + Clone + Send + 'static,
    ) -> io::Result<Vec<JoinHandle<()>>> {
        let workers = self.bound.first().map_or(0, |bound| bound.sockets.len());
        let mut sockets: Vec<Vec<(ListenerKind, TcpListener)>> = (0..workers).map(|_| Vec::new()).collect();
        for Bound { kind, sockets: of_listener } in self.bound {
            for (worker, socket) in sockets.iter_mut().zip(of_listener) {
                worker.push((kind, socket));
            }
        }
        let spawn = |(n, sockets)| {
            let (common, make) = (self.common.clone(), make.clone());
            std::thread::Builder::new()
                .name(format!("worker-{n}"))
                .spawn(move || work(sockets, &common, &make))
        };
        sockets.into_iter().enumerate().map(spawn).collect()
    }
}

/// The first bind is without SO_REUSEPORT: with it, a second process would share the port unnoticed.
fn bind_all(addr: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    drop(bind(addr, false)?);
    (0..count).map(|_| bind(addr, true)).collect()
}

fn bind(addr: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn work<H: Handler>(sockets: Vec<(ListenerKind, TcpListener)>, common: &Common, make: &impl Fn() -> H) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!(%error, "a worker cannot start"),
    };
    LocalSet::new().block_on(&runtime, async {
        spawn_local(deadline::drive());
        let handler = Rc::new(make());
        for (kind, socket) in sockets {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(listener) => {
                    drop(spawn_local(accept(listener, kind, common.clone(), Rc::clone(&handler))))
                }
                Err(error) => tracing::error!(%error, "a worker cannot listen"),
            }
        }
        common.drain.started().await;
        common.drain.finished().await;
    });
}

async fn accept<H: Handler>(
    listener: tokio::net::TcpListener,
    kind: ListenerKind,
    common: Common,
    handler: Rc<H>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = common.drain.started() => return,
        };
        match accepted {
            // Past the limit a client is told at once, by a closed connection, instead of waiting in vain.
            Ok(_) if common.open.load(Ordering::Relaxed) >= common.limits.max_connections => {}
            Ok((stream, addr)) => {
                let peer = Peer { addr, listener: kind, trusted: common.trusted.trusts(addr.ip()) };
                spawn_local(connection(stream, Rc::new(peer), common.clone(), Rc::clone(&handler)));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

async fn connection<H: Handler>(stream: TcpStream, peer: Rc<Peer>, common: Common, handler: Rc<H>) {
    common.open.fetch_add(1, Ordering::Relaxed);
    let guard = common.drain.guard();
    // Nagle's delay costs a latency that nobody asks for; a socket that cannot do without works all the same.
    let _: io::Result<()> = stream.set_nodelay(true);
    let serving = Serving { handler: &handler, limits: &common.limits, drain: &common.drain };
    match (peer.listener, &common.tls) {
        (ListenerKind::Https, Some(tls)) => serve_tls(stream, peer, &serving, tls).await,
        (ListenerKind::Http, _) => serve_h1(stream, peer, &serving).await,
        (ListenerKind::Https, None) => tracing::error!("an https listener without certificates"),
    }
    drop(guard);
    common.open.fetch_sub(1, Ordering::Relaxed);
}

/// ALPN has chosen the protocol; without it HTTP/1.1.
async fn serve_tls<H: Handler>(
    stream: TcpStream,
    peer: Rc<Peer>,
    serving: &Serving<'_, H>,
    tls: &Arc<ServerConfig>,
) {
    let handshake = TlsAcceptor::from(Arc::clone(tls)).accept(stream);
    let stream = match tokio::time::timeout(serving.limits.handshake_timeout, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
        Err(_) => return tracing::debug!("a handshake took too long"),
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        serve_h2(stream, peer, serving).await;
    } else {
        serve_h1(stream, peer, serving).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_its_address() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let settings =
            ListenSettings { https: None, http: Some(addr), trusted_proxies: TrustedProxies::default() };
        let error = Listeners::bind(&settings, None, Limits::default(), Drain::new()).err().unwrap();
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
