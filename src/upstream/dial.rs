//! A TCP connection to a server, and what is set on it.

use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

use crate::clock::monotonic;

/// When a connection on which nothing passes is first probed, and how often from then on: a server that has vanished
/// without a word would hold an open WebSocket for ever.
const KEEPALIVE: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// The user timeout is how long probes may go unanswered too: some of them may be lost.
const LEAST_PATIENCE: Duration = if cfg!(test) { Duration::from_secs(5) } else { Duration::from_secs(60) };
/// Linux takes it for a signed number of milliseconds.
const MOST_PATIENCE: Duration = Duration::from_millis(i32::MAX as u64);
/// How often it is told that no socket can be had.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Connects. `patience` is how long the server may leave unacknowledged, or untaken, what was sent, before the connection
/// is ended: that bounds tunnels, in which nothing else is waited for.
pub(super) async fn connect(addr: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(&tcp);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(PROBE_EVERY))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(patience.clamp(LEAST_PATIENCE, MOST_PATIENCE)))?;
    Ok(tcp)
}

/// Whether the system had no socket for us: the server was not even asked.
pub(super) fn is_ours(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM))
}

/// Says so, seldom.
pub(super) fn tell(upstream: &str, error: &io::Error) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let now = monotonic();
    let mut told = TOLD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if told.is_none_or(|at| now.saturating_duration_since(at) >= TELL_EVERY) {
        *told = Some(now);
        tracing::error!(
            upstream, %error, to_do = "raise the limit of open files",
            "no connection to a server can be opened; requests that need one are answered 503"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_patience_that_can_be_configured_is_taken() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        for patience in [Duration::ZERO, Duration::from_secs(30 * 86_400), Duration::MAX] {
            connect(addr, patience).await.unwrap();
        }
    }
}
