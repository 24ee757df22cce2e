//! An upgraded exchange: behind a 101 both sides speak another protocol, which is copied as it is.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncWriteExt, copy_bidirectional};

use super::conn::Connection;
use super::pool::Load;
use super::watch::Watch;
use crate::drain::DrainGuard;

/// What an open tunnel holds.
pub(super) struct Held {
    pub(super) watch: Watch,
    /// The program does not end before the tunnel does.
    pub(super) guard: DrainGuard,
    pub(super) load: Load,
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
        drop((held.load, held.guard));
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
