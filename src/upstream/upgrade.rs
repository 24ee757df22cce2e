//! WebSockets and other upgrades: once both sides have switched, bytes are passed on as they come until one side ends,
//! or the session does (contract section 4).

use bytes::BytesMut;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};

use super::conn::Stream;
use super::parse::{Framing, Head};
use super::transfer::{Answer, Transfer};
use super::{UpstreamBody, UpstreamContext};
use crate::session::Session;

/// How often an open stream looks whether its session is over: it ends within a second of it.
const SESSION_CHECK: Duration = Duration::from_millis(500);

/// Answers 101 to the client and passes bytes on from then.
pub(super) fn switch(
    client: OnUpgrade,
    transfer: Transfer<Incoming>,
    head: &Head,
    (mut headers, session, context): (HeaderMap, Option<Arc<Session>>, &UpstreamContext),
) -> Response<UpstreamBody> {
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = head.headers.get(UPGRADE) {
        headers.insert(UPGRADE, protocol.clone());
    }
    let (guard, clock) = (context.drain.guard(), context.clock.clone());
    let conn = transfer.conn;
    let watched = session.clone();
    tokio::task::spawn_local(async move {
        let _guard = guard;
        let tunnel = tunnel(client, conn.stream, conn.read);
        tokio::select! {
            () = tunnel => {}
            () = over(watched, clock) => {}
        }
    });
    let mut answer = Response::new(Answer::nothing(context.clock.clone()));
    (*answer.status_mut(), *answer.headers_mut()) = (StatusCode::SWITCHING_PROTOCOLS, headers);
    debug_assert_eq!(head.framing, Framing::None);
    answer
}

async fn over(session: Option<Arc<Session>>, clock: crate::clock::Clock) {
    let Some(session) = session else { return std::future::pending().await };
    while !session.is_over(clock.now()) {
        tokio::time::sleep(SESSION_CHECK).await;
    }
}

async fn tunnel(client: OnUpgrade, server: Stream, early: BytesMut) {
    let Ok(client) = client.await else { return };
    let client = TokioIo::new(client);
    let copied = match server {
        Stream::Tcp(server) => pass(client, server, early).await,
        Stream::Tls(server) => pass(client, *server, early).await,
    };
    if let Err(error) = copied {
        tracing::debug!(%error, "an upgraded stream ended");
    }
}

/// What the server said right behind its 101 comes first.
async fn pass<C, S>(mut client: C, mut server: S, early: BytesMut) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    client.write_all(&early).await?;
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}
