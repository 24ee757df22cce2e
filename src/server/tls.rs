//! Ending TLS: certificates by name, client certificates, versions.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// A certificate chain with its key. `names` is empty for the default one (`tls.cert_file`).
pub struct Identity {
    pub names: Vec<String>,
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

/// `[tls]`, with the files read.
pub struct TlsSettings {
    pub default: Identity,
    pub sni: Vec<Identity>,
    /// Certificates of the authorities that client certificates must come from; none: no client certificates.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
    pub min_version: MinVersion,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinVersion {
    Tls12,
    Tls13,
}

/// What is wrong with the certificates, and with which of them.
#[derive(Debug, thiserror::Error)]
pub enum TlsFault {
    /// The certificate (0: the default, n: the n-th of `sni`) and its key do not belong together.
    #[error("the key does not belong to the certificate")]
    KeyMismatch { identity: usize },
    #[error("the certificate or its key cannot be used: {what}")]
    Unusable { identity: usize, what: String },
    #[error("client_ca_file cannot be used: {what}")]
    ClientCa { what: String },
}

/// The rustls configuration; also how `check` finds faults.
pub fn server_config(settings: TlsSettings) -> Result<rustls::ServerConfig, TlsFault> {
    let _ = settings;
    todo!()
}
