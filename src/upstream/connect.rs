//! The servers of an upstream, and new connections to them.

use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::conn::{Conn, Place, Stream};
use super::{ForwardError, Scheme, ServerUrl, UpstreamFault, UpstreamSettings, pool};

/// One server.
pub(super) struct Server {
    /// Another in each configuration, so that idle connections of an old one are not taken for a new one.
    pub(super) id: u64,
    url: ServerUrl,
    /// For logs: `upstream/host:port`.
    pub(super) label: Arc<str>,
}

/// One upstream with its servers.
pub(super) struct Upstream {
    pub(super) settings: UpstreamSettings,
    pub(super) servers: Vec<Server>,
    tls: Option<TlsConnector>,
    /// Connections of all threads.
    open: Arc<AtomicUsize>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl Upstream {
    pub(super) fn new(settings: UpstreamSettings) -> Result<Self, UpstreamFault> {
        let server = |url: &ServerUrl| Server {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            url: url.clone(),
            label: format!("{}/{}:{}", settings.name, url.host, url.port).into(),
        };
        let servers: Vec<Server> = settings.servers.iter().map(server).collect();
        let secure = servers.iter().any(|server| server.url.scheme == Scheme::Https);
        let told = |what: String| UpstreamFault { name: Arc::clone(&settings.name), what };
        let tls = secure.then(|| connector(&settings)).transpose().map_err(told)?;
        Ok(Self { tls, servers, settings, open: Arc::default() })
    }

    pub(super) async fn connect(&self, server: &Server) -> Result<Conn, ForwardError> {
        let place = self.place(server).ok_or(ForwardError::Busy)?;
        let opened = timeout(self.settings.connect_timeout, self.open(server)).await;
        let stream = opened.map_err(|_| ForwardError::Unreachable(Some(io::ErrorKind::TimedOut.into())))?;
        let stream = stream.map_err(|error| ForwardError::Unreachable(Some(error)))?;
        Ok(Conn::new(stream, place))
    }

    /// When none is free, this thread's idle ones go first.
    fn place(&self, server: &Server) -> Option<Place> {
        let most = self.settings.max_connections;
        for last in [false, true] {
            if self.open.fetch_add(1, Ordering::Relaxed) < most {
                return Some(Place(Arc::clone(&self.open)));
            }
            self.open.fetch_sub(1, Ordering::Relaxed);
            if !last {
                pool::trim(server.id);
            }
        }
        None
    }

    async fn open(&self, server: &Server) -> io::Result<Stream> {
        let ServerUrl { scheme, host, port } = &server.url;
        let stream = TcpStream::connect((host.as_str(), *port)).await?;
        stream.set_nodelay(true)?;
        match (scheme, &self.tls) {
            (Scheme::Https, Some(tls)) => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Ok(Stream::Tls(Box::new(tls.connect(name, stream).await?)))
            }
            (Scheme::Http | Scheme::Https | Scheme::H2c, _) => Ok(Stream::Tcp(stream)),
        }
    }
}

fn connector(settings: &UpstreamSettings) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca {
        Some(authorities) => {
            for authority in authorities {
                roots.add(authority.clone()).map_err(|error| format!("ca_file: {error}"))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(
            "no certificates of authorities are installed on this system; name them with ca_file".into()
        );
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}
