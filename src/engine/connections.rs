//! Connections to the engine: HTTP/1.1, a few kept for the next call. Calls are rare beside requests, so any thread may
//! use any of them.

use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tower::BoxError;

use super::Reply;
use crate::body::Full;
use crate::clock::monotonic;
use crate::trust;

/// The largest answer that is read: a login's with its ACL is a few KiB.
const MAX_ANSWER: usize = 256 * 1024;

/// An idle connection is used again no later than this: Node closes one after 5 s.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// How many idle ones are kept.
const KEPT: usize = 16;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Connections {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<(SendRequest<Full>, Instant)>>,
}

impl Connections {
    pub(super) fn new(host: &str, port: u16, tls: Option<ClientConfig>) -> Self {
        let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
        Self { host: host.to_owned(), port, tls, idle: Mutex::default() }
    }

    /// One call, its answer whole. A request that an idle connection did not take goes out on another.
    pub(super) async fn call(&self, mut request: Request<Full>) -> Result<Reply, BoxError> {
        loop {
            let kept = self.kept();
            let is_new = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            let answer = match sender.try_send_request(request).await {
                Ok(answer) => answer,
                Err(mut failed) => match failed.take_message() {
                    Some(back) if !is_new => {
                        request = back;
                        continue;
                    }
                    _ => return Err(failed.into_error().into()),
                },
            };
            let (head, body) = answer.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
            self.keep(sender);
            let content_type = head.headers.get(http::header::CONTENT_TYPE).cloned();
            return Ok(Reply { status: head.status, content_type, body });
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full>, BoxError> {
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else {
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
            tokio::spawn(connection);
            return Ok(sender);
        };
        let name =
            trust::server_name(&self.host).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let stream = tls.connect(name, tcp).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn kept(&self) -> Option<SendRequest<Full>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let now = monotonic();
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && now.saturating_duration_since(since) < KEPT_FOR {
                return Some(sender);
            }
        }
        None
    }

    fn keep(&self, sender: SendRequest<Full>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !sender.is_closed() && idle.len() < KEPT {
            idle.push((sender, monotonic()));
        }
    }
}
