//! What stands before HTTP on a connection: a proxy's header, then TLS. Each has `handshake_timeout`.

use rustls::ServerConfig;
use std::rc::Rc;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::Handler;
use super::connection::{Setting, serve_http1, serve_http2};
use super::counts::{Handshake, ProxyHeader, ServerCounts};
use super::patience::GRACE;
use super::proxy_protocol::{self, Fault};
use super::worker::Live;
use crate::clock::monotonic;
use crate::peer::{self, Peer};

/// What is spoken on a connection.
pub(super) enum Speaks {
    Http1,
    Http2,
    Tls(Arc<ServerConfig>),
}

/// Whom a connection is told of besides its handler.
pub(super) struct Desk {
    pub(super) live: Live,
    pub(super) counts: ServerCounts,
}

/// Why a client was not waited for any longer.
enum Cut {
    TimedOut,
    Draining,
}

/// Starts a task that serves the connection of a client.
pub(super) fn spawn<H: Handler>(
    stream: TcpStream,
    speaks: Speaks,
    counts: &ServerCounts,
    setting: Setting<H>,
) {
    match speaks {
        Speaks::Http1 => tokio::task::spawn_local(serve_http1(stream, setting)),
        Speaks::Http2 => tokio::task::spawn_local(serve_http2(stream, setting)),
        Speaks::Tls(tls) => tokio::task::spawn_local(serve_tls(stream, tls, counts.clone(), setting)),
    };
}

/// The connection of a proxy that must say first whose it is. From then on that client is the peer, believed about
/// others only if it is a trusted proxy itself.
pub(super) async fn serve_proxied<H: Handler>(
    mut stream: TcpStream,
    speaks: Speaks,
    desk: Desk,
    mut setting: Setting<H>,
) {
    let told = in_time(&setting, proxy_protocol::receive(&mut stream)).await;
    let (proxy, listener) = (setting.peer.addr, setting.peer.listener.as_str());
    let source = match told {
        Ok(Ok(source)) => source,
        Ok(Err(fault @ Fault::Silent)) => {
            return tracing::debug!(%proxy, listener, "a connection was closed: {fault}");
        }
        Ok(Err(fault)) => {
            desk.counts.proxy_header(ProxyHeader::Failed);
            return tracing::warn!(%proxy, listener, "a trusted proxy's connection was closed: {fault}");
        }
        Err(Cut::TimedOut) => {
            desk.counts.proxy_header(ProxyHeader::TimedOut);
            return tracing::warn!(%proxy, listener, "a trusted proxy's PROXY protocol header took too long");
        }
        Err(Cut::Draining) => return,
    };
    desk.counts.proxy_header(ProxyHeader::Taken);
    if let Some(client) = source {
        let trusted = desk.live.trusted_proxies.load().trusts(client.ip());
        setting.peer = Rc::new(Peer::new(client, setting.peer.listener, trusted));
    }
    spawn(stream, speaks, &desk.counts, setting);
}

/// Ends TLS; ALPN decides what is spoken.
async fn serve_tls<H: Handler>(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    counts: ServerCounts,
    setting: Setting<H>,
) {
    let began = monotonic();
    let stream = match in_time(&setting, TlsAcceptor::from(tls).accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            counts.handshake(Handshake::Failed);
            return tracing::debug!(%error, "a handshake failed");
        }
        Err(Cut::TimedOut) => {
            counts.handshake(Handshake::TimedOut);
            return tracing::debug!("a handshake took too long");
        }
        Err(Cut::Draining) => return,
    };
    let how = Handshake::of(stream.get_ref().1.protocol_version());
    counts.handshake(how);
    let shaken = peer::Handshake { began, ended: monotonic(), version: how.words().0 };
    setting.peer.handshake.set(Some(shaken));
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    if http2 { serve_http2(stream, setting).await } else { serve_http1(stream, setting).await }
}

/// Waits for a client, for `handshake_timeout` at most, and no longer than [`GRACE`] once the drain has started.
async fn in_time<H, T>(setting: &Setting<H>, what: impl Future<Output = T>) -> Result<T, Cut> {
    let mut drain = setting.draining.listener();
    let draining = async {
        std::future::poll_fn(|cx| drain.poll_started(cx)).await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        came = tokio::time::timeout(setting.limits.handshake_timeout, what) => came.map_err(|_| Cut::TimedOut),
        () = draining => Err(Cut::Draining),
    }
}
