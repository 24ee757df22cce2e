//! TLS to https servers. No policy: who is trusted comes from the settings.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::io;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::UpstreamFault;
use super::stream::Stream;

/// Connects to servers whose certificates lead to one set of roots.
#[derive(Clone)]
pub(super) struct TlsClient(TlsConnector);

impl TlsClient {
    /// Trusts `ca`, else the system's roots.
    pub(super) fn new(upstream: &str, ca: Option<&[CertificateDer<'static>]>) -> Result<Self, UpstreamFault> {
        let roots = match ca {
            Some(ca) => roots_of(upstream, ca)?,
            None => system_roots(upstream)?,
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|source| UpstreamFault::Tls { upstream: upstream.into(), source })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    pub(super) async fn connect(&self, host: &str, tcp: TcpStream) -> io::Result<Stream> {
        let name = server_name(host).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Stream::Tls(Box::new(self.0.connect(name, tcp).await?)))
    }
}

/// The name that a server's certificate must be for.
pub(super) fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

fn roots_of(upstream: &str, ca: &[CertificateDer<'static>]) -> Result<RootCertStore, UpstreamFault> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots
            .add(certificate.clone())
            .map_err(|source| UpstreamFault::Tls { upstream: upstream.into(), source })?;
    }
    if roots.is_empty() { Err(UpstreamFault::NoCa { upstream: upstream.into() }) } else { Ok(roots) }
}

fn system_roots(upstream: &str) -> Result<RootCertStore, UpstreamFault> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(UpstreamFault::NoSystemRoots { upstream: upstream.into() }) } else { Ok(roots) }
}
