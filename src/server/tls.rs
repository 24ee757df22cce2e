//! Ending TLS: certificates by name, client certificates, versions.

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::HashMap;
use std::sync::Arc;

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

/// The keys of session tickets. Made once a process and used for every configuration: with new ones, resumption would
/// end at every reload.
pub struct Resumption(Arc<dyn ProducesTickets>);

impl Resumption {
    pub fn new() -> Result<Self, TlsFault> {
        aws_lc_rs::Ticketer::new().map(Self).map_err(library)
    }
}

/// The rustls configuration; also how `check` finds faults.
pub fn server_config(settings: TlsSettings) -> Result<ServerConfig, TlsFault> {
    server_config_resuming(settings, &Resumption::new()?)
}

/// As [`server_config`], with the ticket keys of the configurations before it. Mozilla's "intermediate": what rustls has is within it, and the client's order of ciphers counts.
pub fn server_config_resuming(
    settings: TlsSettings,
    resumption: &Resumption,
) -> Result<ServerConfig, TlsFault> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Certificates::new(settings.default, settings.sni, &provider)?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions(settings.min_version))
        .map_err(library)?;
    let asks_clients = settings.client_ca.is_some();
    let builder = match settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let roots = Arc::new(client_roots(authorities)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .build()
                .map_err(|e| TlsFault::ClientCa { what: e.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // No early data: it could be replayed. Endless KeyUpdates, renegotiations and empty records are bounded by rustls.
    config.max_early_data_size = 0;
    config.send_half_rtt_data = false;
    // Tickets alone: a session cache would be one lock for all threads. A resumed session is not asked for its
    // client certificate again, so where one is required nothing is resumed.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    if asks_clients {
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = resumption.0.clone();
    }
    Ok(config)
}

fn versions(min: MinVersion) -> &'static [&'static SupportedProtocolVersion] {
    static TLS13_ALONE: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
    match min {
        MinVersion::Tls12 => rustls::ALL_VERSIONS,
        MinVersion::Tls13 => &TLS13_ALONE,
    }
}

fn client_roots(authorities: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TlsFault> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|e| TlsFault::ClientCa { what: e.to_string() })?;
    }
    Ok(roots)
}

/// The library itself fails (no randomness): nobody's certificate, so the default's.
fn library(error: rustls::Error) -> TlsFault {
    TlsFault::Unusable { identity: 0, what: error.to_string() }
}

/// Which certificate is shown: by the name the client asks for (RFC 6066 section 3), else the default.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what stands behind `*.`.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(default: Identity, sni: Vec<Identity>, provider: &CryptoProvider) -> Result<Self, TlsFault> {
        let default = Arc::new(certified_key(0, default.chain, default.key, provider)?);
        let mut all = Self { default, exact: HashMap::new(), wildcard: HashMap::new() };
        for (n, identity) in sni.into_iter().enumerate() {
            let key = Arc::new(certified_key(n + 1, identity.chain, identity.key, provider)?);
            for name in identity.names {
                all.add(&name, &key);
            }
        }
        Ok(all)
    }

    /// Of a name given twice the first counts.
    fn add(&mut self, name: &str, key: &Arc<CertifiedKey>) {
        let name = canonical(name);
        let (map, name) = match name.strip_prefix("*.") {
            Some(parent) => (&mut self.wildcard, parent),
            None => (&mut self.exact, &*name),
        };
        map.entry(name.into()).or_insert_with(|| key.clone());
    }

    fn of(&self, name: &str) -> &Arc<CertifiedKey> {
        let name = canonical(name);
        let by_wildcard = || {
            name.split_once('.')
                .filter(|(label, _)| !label.is_empty())
                .and_then(|(_, p)| self.wildcard.get(p))
        };
        self.exact.get(&*name).or_else(by_wildcard).unwrap_or(&self.default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(hello.server_name().map_or(&self.default, |name| self.of(name)).clone())
    }
}

/// Names are the same in any letter case, and with the root's dot.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// An expired certificate is not a fault here: to refuse it would stop a gateway that can still serve.
fn certified_key(
    identity: usize,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsFault> {
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => TlsFault::KeyMismatch { identity },
        other => TlsFault::Unusable { identity, what: other.to_string() },
    })
}
