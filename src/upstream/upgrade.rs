//! An upgraded exchange: behind a 101 both sides speak another protocol, which is copied as it is.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use std::rc::Rc;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::conn::Connection;
use super::pool::Load;
use super::watch::Watch;
use crate::drain::DrainGuard;
use crate::telemetry::trace::Trace;

/// What an open tunnel holds.
pub(super) struct Held {
    pub(super) watch: Watch,
    /// The program does not end before the tunnel does.
    pub(super) guard: DrainGuard,
    pub(super) load: Load,
    /// The request's span ends with the tunnel.
    pub(super) trace: Option<Rc<Trace>>,
}

/// Copies both ways once the client's side is handed over by hyper; ends with either side or with the session. A side
/// that only stops sending leaves the other direction open.
pub(super) fn spawn(client: OnUpgrade, server: Connection, mut held: Held) {
    tokio::task::spawn_local(async move {
        let over = std::future::poll_fn(|cx| held.watch.poll_over(cx));
        tokio::select! {
            () = over => {}
            // Either side's end is the tunnel's end; there is no one to tell.
            _ = copy(client, server) => {}
        }
        drop((held.trace, held.load, held.guard));
    });
}

async fn copy(client: OnUpgrade, server: Connection) -> io::Result<()> {
    let client = client.await.map_err(io::Error::other)?;
    let mut client = TokioIo::new(client);
    let (mut server, early, _slot) = server.into_parts();
    if !early.is_empty() {
        client.write_all(&early).await?;
        client.flush().await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
