//! Sockets: bound before anything is served, one a worker thread and address (`SO_REUSEPORT`), or handed over by the
//! service manager; and accepted from without spinning when the machine is out of descriptors.

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::net::TcpStream;

use crate::peer::ListenerKind;

/// Connections the kernel may hold for us (it takes less where `net.core.somaxconn` is less).
const BACKLOG: i32 = 4096;
/// How long nothing is accepted after an error that does not pass by itself.
const BACK_OFF: Duration = Duration::from_millis(100);
/// When a silent connection is first probed; inherited by accepted sockets.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// One listener's sockets.
pub(super) struct Bound {
    pub(super) kind: ListenerKind,
    /// At least as many as there are threads.
    pub(super) sockets: Vec<std::net::TcpListener>,
    /// The service manager has them too: they stay open when we close ours.
    pub(super) inherited: bool,
}

/// Of every listener alike.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    pub(super) threads: NonZeroUsize,
    pub(super) send_timeout: Duration,
}

impl Bound {
    /// Binds the address once for each worker thread. The error names the address.
    pub(super) fn new((kind, addr): (ListenerKind, SocketAddr), sharing: Sharing) -> io::Result<Self> {
        bind_all(addr, sharing)
            .map(|sockets| Self { kind, sockets, inherited: false })
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
    }

    /// What was handed over, if anything was, else as [`Bound::new`]. Threads for which there is no socket share one:
    /// each is woken by a connection and one gets it, which costs less than a thread that takes none.
    pub(super) fn inheriting(
        (kind, addr): (ListenerKind, SocketAddr),
        handed_over: Vec<std::net::TcpListener>,
        sharing: Sharing,
    ) -> io::Result<Self> {
        if handed_over.is_empty() {
            return Self::new((kind, addr), sharing);
        }
        let Sharing { threads, send_timeout } = sharing;
        tracing::info!(%addr, sockets = handed_over.len(), "the service manager's sockets are used");
        let mut sockets = Vec::with_capacity(threads.get());
        for socket in handed_over.iter().cycle().take(threads.get().saturating_sub(handed_over.len())) {
            sockets.push(socket.try_clone()?);
        }
        sockets.extend(handed_over);
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            set_options(&SockRef::from(socket), send_timeout)?;
        }
        Ok(Self { kind, sockets, inherited: true })
    }
}

fn bind_all(
    addr: SocketAddr,
    Sharing { threads, send_timeout }: Sharing,
) -> io::Result<Vec<std::net::TcpListener>> {
    if addr.port() != 0 {
        // With SO_REUSEPORT the bind would succeed beside another program of ours and share its traffic.
        socket(addr, false)?;
    }
    let first = listen(addr, send_timeout)?;
    let addr = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..threads.get() {
        sockets.push(listen(addr, send_timeout)?);
    }
    Ok(sockets)
}

fn listen(addr: SocketAddr, send_timeout: Duration) -> io::Result<std::net::TcpListener> {
    let socket = socket(addr, true)?;
    set_options(&socket, send_timeout)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Set on the listener and inherited by every accepted connection: three system calls less for each. How long sent bytes
/// may stay unacknowledged, or untaken, before the connection is ended bounds a client that does not read its answer.
#[cfg_attr(not(target_os = "linux"), expect(unused_variables, reason = "other systems have no such timeout"))]
fn set_options(socket: &Socket, send_timeout: Duration) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(send_timeout))?;
    Ok(())
}

/// A bound socket. `[::]` takes IPv4 too, whatever the system's default.
fn socket(addr: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// The next connection. Errors of a single connection are passed over; being out of descriptors or memory is
/// logged and waited out, because accepting again at once would fail again at once.
pub(super) async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                inherit_nodelay(&stream);
                return (stream, SocketAddr::new(peer.ip().to_canonical(), peer.port()));
            }
            Err(error) if is_of_one_connection(&error) => tokio::task::yield_now().await,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections, trying again");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Closes the listener and hands out the connections that the kernel has already taken for it: their clients were told
/// that somebody is there. Not for a listener that was handed over: it stays open, what waits there is the next
/// process's, and taking it for as long as more comes would have no end.
pub(super) fn accept_waiting(listener: tokio::net::TcpListener) -> Vec<(TcpStream, SocketAddr)> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    let waiting = std::iter::from_fn(|| listener.accept().ok());
    waiting
        .filter_map(|(stream, peer)| {
            stream.set_nonblocking(true).ok()?;
            let stream = TcpStream::from_std(stream).ok()?;
            inherit_nodelay(&stream);
            Some((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
        })
        .collect()
}

/// Only Linux hands the listener's TCP_NODELAY on.
fn inherit_nodelay(stream: &TcpStream) {
    if cfg!(not(target_os = "linux")) {
        let _ = SockRef::from(stream).set_tcp_nodelay(true);
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sharing(threads: usize) -> Sharing {
        Sharing { threads: NonZeroUsize::new(threads).unwrap(), send_timeout: Duration::from_secs(1) }
    }

    fn bind(addr: &str, threads: usize) -> io::Result<(Bound, SocketAddr)> {
        let bound = Bound::new((ListenerKind::Http, addr.parse().unwrap()), sharing(threads))?;
        let addr = bound.sockets[0].local_addr().unwrap();
        Ok((bound, addr))
    }

    #[test]
    fn every_thread_has_a_socket_on_the_same_port() {
        let (bound, addr) = bind("127.0.0.1:0", 3).unwrap();
        assert_ne!(addr.port(), 0);
        assert_eq!(bound.sockets.len(), 3);
        assert!(bound.sockets.iter().all(|s| s.local_addr().unwrap() == addr));
    }

    #[test]
    fn every_thread_has_one_of_the_sockets_handed_over_and_none_is_left_out() {
        let addr = "127.0.0.1:0".parse().unwrap();
        for (handed_over, threads) in [(1, 3), (2, 3), (3, 2), (1, 1)] {
            let sockets: Vec<_> =
                (0..handed_over).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
            let mut wanted: Vec<_> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            let bound = Bound::inheriting((ListenerKind::Http, addr), sockets, sharing(threads)).unwrap();
            assert_eq!(bound.sockets.len(), handed_over.max(threads));
            let mut found: Vec<_> = bound.sockets.iter().map(|s| s.local_addr().unwrap()).collect();
            wanted.sort();
            found.sort();
            found.dedup();
            assert_eq!(found, wanted);
            assert!(bound.inherited && SockRef::from(&bound.sockets[0]).tcp_nodelay().unwrap());
        }
    }

    #[test]
    fn a_port_in_use_is_refused_by_name_even_if_the_other_would_share_it() {
        let (_first, addr) = bind("127.0.0.1:0", 2).unwrap();
        let error = bind(&addr.to_string(), 2).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4() {
        let Ok((_bound, addr)) = bind("[::]:0", 1) else { return };
        std::net::TcpStream::connect(("127.0.0.1", addr.port())).unwrap();
    }

    #[tokio::test]
    async fn accepted_connections_have_nodelay() {
        let (mut bound, addr) = bind("127.0.0.1:0", 1).unwrap();
        let socket = bound.sockets.remove(0);
        let listener = tokio::net::TcpListener::from_std(socket).unwrap();
        let _client = TcpStream::connect(addr).await.unwrap();
        let (stream, peer) = accept(&listener).await;
        assert!(stream.nodelay().unwrap() && peer.ip().is_loopback());
    }
}
