//! An open WebSocket (contract section 4): both sides are copied as they are, and when the session ends the client is
//! told so with 1008, between two frames of the server. One that is guarded lets nothing of the client through before
//! its first message was judged.

use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::sync::OwnedSemaphorePermit;
use zeroize::{Zeroize, Zeroizing};

use super::conn::Connection;
use super::frames::{Boundary, CLOSE_1008, FirstMessage, Opening};
use super::stream::Stream;
use super::upgrade::Held;
use super::watch::Watch;
use crate::access::Principal;
use crate::clock::monotonic;

/// How long the first message may take.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);

/// How long its judgement may take: a password is hashed, or an engine asked.
const JUDGEMENT: Duration = Duration::from_secs(15);

/// How long the end of a server's frame, and the client's own close, are waited for.
const LAST_FRAME: Duration = Duration::from_millis(200);
const FAREWELL: Duration = Duration::from_secs(1);

const PIECE: usize = 16 * 1024;

/// Judges a client's first message, text. None: the socket closes.
pub type Judge = Box<dyn FnOnce(Zeroizing<Vec<u8>>) -> Pin<Box<dyn Future<Output = Option<Admitted>>>>>;

/// With something that is given back once it is known whose the socket is, or that it is nobody's.
pub(super) fn holding(place: OwnedSemaphorePermit, judge: Judge) -> Judge {
    Box::new(move |text| {
        let judged = judge(text);
        Box::pin(async move {
            let _place = place;
            judged.await
        })
    })
}

/// Who a socket was opened for.
pub struct Admitted {
    pub principal: Principal,
    pub on_close: Option<OnClose>,
}

/// What is to be done when a socket has closed, however it came to that: done when this is dropped.
pub struct OnClose(Option<Box<dyn FnOnce()>>);

impl OnClose {
    #[must_use]
    pub fn new(act: impl FnOnce() + 'static) -> Self {
        Self(Some(Box::new(act)))
    }
}

impl Drop for OnClose {
    fn drop(&mut self) {
        if let Some(act) = self.0.take() {
            act();
        }
    }
}

/// The client's side, and how far the server's frames have come on it.
struct Client {
    read: ReadHalf<TokioIo<Upgraded>>,
    write: WriteHalf<TokioIo<Upgraded>>,
    boundary: Boundary,
}

struct Server {
    read: ReadHalf<Stream>,
    write: WriteHalf<Stream>,
}

/// Why a socket is not copied any more.
enum End {
    /// One of the sides.
    Closed,
    /// The gateway ends it: the client is told.
    Refused,
}

/// Copies both ways until either side, or the session, ends. `patience` is how long a server may say nothing once the client has stopped sending.
pub(super) fn spawn(
    client: OnUpgrade,
    server: Connection,
    held: Held,
    (judge, patience): (Option<Judge>, Duration),
) {
    tokio::task::spawn_local(async move {
        let Held { watch, guard, load, trace } = held;
        // Either side's failure is the socket's end; there is no one to tell.
        let _: io::Result<()> = run(client, server, watch, (judge, patience)).await;
        drop((trace, load, guard));
    });
}

async fn run(
    client: OnUpgrade,
    server: Connection,
    mut watch: Watch,
    (judge, patience): (Option<Judge>, Duration),
) -> io::Result<()> {
    let upgraded = client.await.map_err(io::Error::other)?;
    let (read, write) = split(TokioIo::new(upgraded));
    let mut client = Client { read, write, boundary: Boundary::default() };
    let (stream, early, _slot) = server.into_parts();
    let (read, write) = split(stream);
    let mut server = Server { read, write };
    client.pass(&early).await?;
    let mut _on_close = None;
    if let Some(judge) = judge {
        match tokio::time::timeout(FIRST_MESSAGE + JUDGEMENT, admit(&mut client, &mut server, judge)).await {
            Ok(Ok(Some(admitted))) => {
                watch = watch.for_principal(admitted.principal);
                _on_close = admitted.on_close;
            }
            Ok(Ok(None)) | Err(_) => return client.refuse(server).await,
            Ok(Err(error)) => return Err(error),
        }
    }
    match splice((&mut client, &mut server), &mut watch, patience).await? {
        End::Closed => client.farewell(&[]).await,
        End::Refused => client.refuse(server).await,
    }
}

/// Waits for the first message and has it judged, while the server's frames pass. Its frames, and what came behind
/// them, are sent on only once it is good.
async fn admit(client: &mut Client, server: &mut Server, judge: Judge) -> io::Result<Option<Admitted>> {
    let mut first = FirstMessage::default();
    let (mut from_client, mut from_server) = (BytesMut::with_capacity(PIECE), BytesMut::with_capacity(PIECE));
    let deadline = tokio::time::sleep(FIRST_MESSAGE);
    tokio::pin!(deadline);
    loop {
        tokio::select! {
            () = &mut deadline => return Ok(None),
            read = client.read.read_buf(&mut from_client) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                let mut read = from_client.split();
                let opening = first.take(&read);
                read.zeroize();
                match opening {
                    Opening::Bad => return Ok(None),
                    Opening::Message => {
                        client.pong(&mut first.pongs).await?;
                        break;
                    }
                    Opening::Unfinished => client.pong(&mut first.pongs).await?,
                }
            }
            read = server.read.read_buf(&mut from_server) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                client.pass(&from_server.split()).await?;
                client.pong(&mut first.pongs).await?;
            }
        }
    }
    let mut pongs = std::mem::take(&mut first.pongs);
    let (text, frames) = first.into_parts();
    let mut judged = judge(text);
    let admitted = loop {
        tokio::select! {
            admitted = &mut judged => break admitted,
            read = server.read.read_buf(&mut from_server) => {
                if read? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                client.pass(&from_server.split()).await?;
                client.pong(&mut pongs).await?;
            }
        }
    };
    if admitted.is_some() {
        server.write.write_all(&frames).await?;
        server.write.flush().await?;
    }
    Ok(admitted)
}

async fn splice(
    (client, server): (&mut Client, &mut Server),
    watch: &mut Watch,
    patience: Duration,
) -> io::Result<End> {
    // Since when the server is waited for; none while the client is.
    let heard = Cell::new(Some(monotonic()));
    let Client { read, write, boundary } = client;
    let up = async {
        copy(read, &mut server.write).await?;
        // The client only stops sending: what the server still says reaches it.
        server.write.shutdown().await
    };
    let down = async {
        let mut piece = BytesMut::with_capacity(PIECE);
        while server.read.read_buf(&mut piece).await? > 0 {
            heard.set(None);
            boundary.begin();
            write.write_all(&piece).await?;
            write.flush().await?;
            boundary.pass(&piece);
            piece.clear();
            heard.set(Some(monotonic()));
        }
        io::Result::Ok(End::Closed)
    };
    tokio::pin!(up, down);
    let mut sends = true;
    loop {
        tokio::select! {
            () = poll_fn(|cx| watch.poll_over(cx)) => return Ok(End::Refused),
            ended = &mut down => return ended,
            ended = &mut up, if sends => {
                ended?;
                sends = false;
                heard.set(heard.get().map(|_| monotonic()));
            }
            // Such a client answers no ping (RFC 6455 section 5.5.2), and that it has gone for good would go unseen.
            () = silence(&heard, patience), if !sends => return Ok(End::Closed),
        }
    }
}

/// Waits until nothing was heard for so long.
async fn silence(heard: &Cell<Option<Instant>>, patience: Duration) {
    loop {
        let silent = heard.get().map_or(Duration::ZERO, |at| monotonic().saturating_duration_since(at));
        let Some(left) = patience.checked_sub(silent).filter(|left| !left.is_zero()) else { return };
        tokio::time::sleep(left).await;
    }
}

/// Copies up to the end of `from`.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let mut piece = BytesMut::with_capacity(PIECE);
    while from.read_buf(&mut piece).await? > 0 {
        to.write_all(&piece).await?;
        to.flush().await?;
        piece.clear();
    }
    Ok(())
}

impl Client {
    /// Passes on what the server sent.
    async fn pass(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.boundary.begin();
        self.write.write_all(bytes).await?;
        self.write.flush().await?;
        self.boundary.pass(bytes);
        Ok(())
    }

    /// Answers pings where no frame of the server is cut by it.
    async fn pong(&mut self, pongs: &mut Vec<u8>) -> io::Result<()> {
        if pongs.is_empty() || !self.boundary.is_between() {
            return Ok(());
        }
        self.write.write_all(&std::mem::take(pongs)).await?;
        self.write.flush().await
    }

    /// Closes with 1008 behind the frame that the server has begun.
    async fn refuse(mut self, mut server: Server) -> io::Result<()> {
        let whole = self.rest_of_frame(&mut server.read);
        let is_whole = tokio::time::timeout(LAST_FRAME, whole).await.is_ok_and(|read| read.is_ok());
        drop(server);
        let last: &[u8] = if is_whole && self.boundary.is_between() { &CLOSE_1008 } else { &[] };
        self.farewell(last).await
    }

    /// Says the last, and waits a moment for the client to have read it: a socket that is closed with bytes unread on
    /// this side takes back what the other has not read yet. A client that does not read is not waited for.
    async fn farewell(mut self, last: &[u8]) -> io::Result<()> {
        let said = async {
            self.write.write_all(last).await?;
            self.write.shutdown().await?;
            let mut dropped = [0; 1024];
            while self.read.read(&mut dropped).await? > 0 {}
            io::Result::Ok(())
        };
        tokio::time::timeout(FAREWELL, said).await.unwrap_or(Ok(()))
    }

    async fn rest_of_frame(&mut self, server: &mut ReadHalf<Stream>) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while !self.boundary.is_between() {
            if self.boundary.is_lost() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            // Of a header that is cut one byte after the other is read: what is behind it must not be begun.
            let wanted = usize::try_from(self.boundary.left()).unwrap_or(PIECE).clamp(1, PIECE);
            let read = server.read(piece.get_mut(..wanted).unwrap_or_default()).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.pass(piece.get(..read).unwrap_or_default()).await?;
        }
        Ok(())
    }
}
