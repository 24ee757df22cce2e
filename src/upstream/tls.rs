//! TLS to https servers. No policy: who is trusted comes from the settings.

use rustls_pki_types::CertificateDer;
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::UpstreamFault;
use super::stream::Stream;
use crate::trust;

/// Connects to servers whose certificates lead to one set of roots.
#[derive(Clone)]
pub(super) struct TlsClient(TlsConnector);

impl TlsClient {
    /// Trusts `ca`, else the system's roots.
    pub(super) fn new(
        upstream: &Arc<str>,
        ca: Option<&[CertificateDer<'static>]>,
    ) -> Result<Self, UpstreamFault> {
        let config = trust::client(ca)
            .map_err(|source| UpstreamFault::Trust { upstream: Arc::clone(upstream), source })?;
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<Stream> {
        let name = trust::server_name(host).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Stream::Tls(Box::new(self.0.connect(name, tcp).await?)))
    }
}
