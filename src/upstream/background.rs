//! What goes on beside requests, once a process and configuration: names are asked for their addresses, servers for
//! their health.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::dial;
use super::parse;
use super::server::{Group, Server};
use super::stream::Stream;
use super::{HealthSettings, Scheme, ServerUrl};

/// How often a name is asked for.
const RESOLVE: Duration = Duration::from_secs(5);

/// Sets the addresses that need no lookup; returns the indices of those that do.
pub(super) fn literal_addresses(group: &Group) -> Vec<usize> {
    let mut names = Vec::new();
    for (index, url) in group.settings.servers.iter().enumerate() {
        match url.host.parse::<IpAddr>() {
            Ok(ip) => group.resolved(index, vec![SocketAddr::new(ip, url.port)]),
            Err(_) => names.push(index),
        }
    }
    names
}

/// Keeps the addresses of the server at `index` up to date; never returns.
pub(super) async fn resolve(group: Arc<Group>, index: usize) {
    let Some(url) = group.settings.servers.get(index).cloned() else { return };
    loop {
        let lookup =
            tokio::time::timeout(RESOLVE, tokio::net::lookup_host((url.host.as_str(), url.port))).await;
        match lookup {
            Ok(Ok(found)) => group.resolved(index, found.collect()),
            Ok(Err(e)) => unresolved(&group, index, &url, &e.to_string()),
            Err(_) => unresolved(&group, index, &url, "no answer in time"),
        }
        tokio::time::sleep(RESOLVE).await;
    }
}

fn unresolved(group: &Group, index: usize, url: &ServerUrl, why: &str) {
    tracing::warn!(upstream = %group.settings.name, host = %url.host, "name not resolved: {why}");
    group.resolved(index, Vec::new());
}

/// Checks every server of an upstream in each interval; never returns.
pub(super) async fn check_health(group: Arc<Group>, health: HealthSettings) {
    let wait = health.interval.max(Duration::from_secs(1)).min(Duration::from_secs(10));
    loop {
        let mut checks = JoinSet::new();
        let servers = group.servers();
        for server in servers.iter() {
            let server = Arc::clone(server);
            let (group, path) = (group.clone(), health.path.clone());
            checks.spawn(async move {
                match tokio::time::timeout(wait, check(&group, &server, &path)).await {
                    // It was not asked.
                    Ok(Err(e)) if dial::is_ours(&e) => dial::tell(&group.settings.name, &e),
                    // A backend that answers 401 or 404 to a path without credentials works.
                    Ok(Ok(status)) if !status.is_server_error() => note(&group, &server, true),
                    Ok(_) | Err(_) => note(&group, &server, false),
                }
            });
        }
        while checks.join_next().await.is_some() {}
        tokio::time::sleep(health.interval).await;
    }
}

fn note(group: &Group, server: &Server, good: bool) {
    let before = server.is_healthy();
    server.checked(good);
    if before != server.is_healthy() {
        let (upstream, addr) = (&group.settings.name, server.addr);
        tracing::warn!(%upstream, %addr, healthy = good, "health of a server changed");
    }
}

async fn check(group: &Group, server: &Server, path: &str) -> io::Result<StatusCode> {
    let tcp = TcpStream::connect(server.addr).await?;
    let host = authority(&server.url);
    match (server.url.scheme, &group.tls) {
        (Scheme::H2c, _) => ask_h2c(tcp, &host, path).await,
        (Scheme::Https, Some(tls)) => ask(tls.connect(&server.url.host, tcp).await?, &host, path).await,
        (Scheme::Http, _) | (Scheme::Https, None) => ask(Stream::Tcp(tcp), &host, path).await,
    }
}

/// `host:port` as `Host` has it.
pub(super) fn authority(url: &ServerUrl) -> String {
    let (host, port) = (&url.host, url.port);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

async fn ask(mut stream: Stream, host: &str, path: &str) -> io::Result<StatusCode> {
    let head = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut buf = BytesMut::with_capacity(4096);
    loop {
        match parse::head(&mut buf, &Method::GET) {
            Ok(Some(head)) if !head.status.is_informational() => return Ok(head.status),
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(broken) => return Err(io::Error::other(broken.0)),
        }
        if stream.read_buf(&mut buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

async fn ask_h2c(tcp: TcpStream, host: &str, path: &str) -> io::Result<StatusCode> {
    let shake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp));
    let (mut sender, connection) = shake.await.map_err(io::Error::other)?;
    let request = Request::get(format!("http://{host}{path}")).body(Empty::<Bytes>::new());
    let answer = sender.send_request(request.map_err(io::Error::other)?);
    tokio::select! {
        answer = answer => answer.map(|a| a.status()).map_err(io::Error::other),
        ended = connection => Err(ended.map_or_else(io::Error::other, |()| io::ErrorKind::UnexpectedEof.into())),
    }
}
