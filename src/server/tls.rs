//! Ending TLS: certificates by name, client certificates, versions.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, version};
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

/// The rustls configuration; also how `check` finds faults.
pub fn server_config(settings: TlsSettings) -> Result<ServerConfig, TlsFault> {
    // Built with its provider, never with the process's default, which another library could set.
    let provider = Arc::new(aws_lc_rs::default_provider());
    let certificates = Arc::new(Certificates::new(settings.default, settings.sni, &provider)?);
    let versions: &[_] = match settings.min_version {
        MinVersion::Tls12 => &[&version::TLS13, &version::TLS12],
        MinVersion::Tls13 => &[&version::TLS13],
    };
    let unusable = |error: rustls::Error| TlsFault::Unusable { identity: 0, what: error.to_string() };
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(unusable)?;
    let wants_client = settings.client_ca.is_some();
    let builder = match settings.client_ca {
        Some(authorities) => builder.with_client_cert_verifier(verifier(authorities, provider)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if wants_client {
        // A resumed connection would skip the check of the client's certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(unusable)?;
    }
    Ok(config)
}

fn verifier(
    authorities: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsFault> {
    let told = |what: String| TlsFault::ClientCa { what };
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).map_err(|error| told(error.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| told(error.to_string()))
}

/// Chooses the certificate by the name that the client asks for.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    /// By lower-case name; `*.example.com` stands for one label.
    by_name: HashMap<String, Arc<CertifiedKey>>,
}

impl Certificates {
    fn new(default: Identity, sni: Vec<Identity>, provider: &CryptoProvider) -> Result<Self, TlsFault> {
        let default = Arc::new(certified(default.chain, default.key, provider, 0)?);
        let mut by_name = HashMap::new();
        for (at, Identity { names, chain, key }) in sni.into_iter().enumerate() {
            let certified = Arc::new(certified(chain, key, provider, at + 1)?);
            for name in names {
                by_name.insert(name.to_ascii_lowercase(), Arc::clone(&certified));
            }
        }
        Ok(Self { default, by_name })
    }

    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let wildcard = || name.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.by_name.get(&name).or_else(|| self.by_name.get(&wildcard()?))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.named(name));
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}

fn certified(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
    identity: usize,
) -> Result<CertifiedKey, TlsFault> {
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsFault::KeyMismatch { identity },
        other => TlsFault::Unusable { identity, what: other.to_string() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str) -> Identity {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        Identity { names: vec![name.to_owned()], chain: vec![made.cert.der().clone()], key }
    }

    fn settings(default: Identity, sni: Vec<Identity>) -> TlsSettings {
        TlsSettings { default, sni, client_ca: None, min_version: MinVersion::Tls12 }
    }

    #[test]
    fn a_key_of_another_certificate_is_told_with_its_place() {
        let mut wrong = identity("b.example");
        wrong.key = identity("c.example").key;
        let fault = server_config(settings(identity("a.example"), vec![wrong])).err();
        assert!(matches!(fault, Some(TlsFault::KeyMismatch { identity: 1 })), "{fault:?}");
    }

    #[test]
    fn names_are_found_without_regard_to_case_and_by_wildcard_of_one_label() {
        let provider = aws_lc_rs::default_provider();
        let sni = vec![identity("Api.example.com"), identity("*.example.org")];
        let certificates = Certificates::new(identity("a"), sni, &provider).unwrap();
        for (name, found) in [
            ("api.EXAMPLE.com", true),
            ("api.example.com.", true),
            ("x.example.org", true),
            ("example.org", false),
            ("y.x.example.org", false),
            ("other", false),
        ] {
            assert_eq!(certificates.named(name).is_some(), found, "{name}");
        }
    }

    #[test]
    fn with_client_certificates_nothing_is_resumed() {
        let ca = identity("ca");
        let with = TlsSettings { client_ca: Some(ca.chain), ..settings(identity("a"), Vec::new()) };
        let config = server_config(with).unwrap();
        assert!(config.send_tls13_tickets == 0 && !config.ticketer.enabled());
        assert!(server_config(settings(identity("a"), Vec::new())).unwrap().ticketer.enabled());
    }
}
