//! Which certificate authorities are believed when the gateway itself is the client: of servers and of an engine.

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use std::sync::Arc;

/// Why no TLS client can be made of the settings.
#[derive(Debug, thiserror::Error)]
pub enum TrustFault {
    #[error("no root certificates found on this system; set ca_file")]
    NoSystemRoots,
    #[error("ca_file holds no certificate")]
    NoCa,
    #[error("a certificate of ca_file cannot be used")]
    Tls(#[from] rustls::Error),
}

/// A client for HTTP/1.1 over TLS that believes `ca`, else the system's roots.
pub fn client(ca: Option<&[CertificateDer<'static>]>) -> Result<ClientConfig, TrustFault> {
    let roots = match ca {
        Some(ca) => roots_of(ca)?,
        None => system_roots()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The name that a server's certificate must be for.
#[must_use]
pub fn server_name(host: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(host.to_owned()).ok()
}

fn roots_of(ca: &[CertificateDer<'static>]) -> Result<RootCertStore, TrustFault> {
    let mut roots = RootCertStore::empty();
    for certificate in ca {
        roots.add(certificate.clone())?;
    }
    if roots.is_empty() { Err(TrustFault::NoCa) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TrustFault> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustFault::NoSystemRoots) } else { Ok(roots) }
}
