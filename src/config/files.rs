//! Files that the configuration names: keys, certificates, secrets.

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::Fault;
use super::table::{Faults, Table};
use super::tree::Origin;
use crate::secret::{SecretSlice, SecretString};

/// What reading files leaves behind beside their contents.
#[derive(Default)]
pub(super) struct Files {
    pub(super) read: Vec<PathBuf>,
    pub(super) warnings: Vec<Fault>,
}

impl Files {
    fn bytes(&mut self, key: &str, text: &str, origin: &Origin) -> Result<Vec<u8>, String> {
        let path = origin.path(text);
        let bytes = std::fs::read(&path).map_err(|error| format!("{text} cannot be read: {error}"))?;
        self.read.push(path);
        if bytes.is_empty() {
            return Err(format!("{key}: {text} is empty"));
        }
        Ok(bytes)
    }

    /// A file that others may read is told as a warning.
    pub(super) fn secret(
        &mut self,
        key: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<SecretSlice<u8>, String> {
        let bytes = self.bytes(key, text, origin)?;
        let mode = std::fs::metadata(origin.path(text)).map_or(0, |metadata| metadata.permissions().mode());
        if mode & 0o077 != 0 {
            self.warnings.push(origin.fault(
                key,
                format!("{text} can be read by others (mode {:03o}); chmod 600 it", mode & 0o777),
            ));
        }
        Ok(SecretSlice::from(bytes))
    }

    pub(super) fn secret_text(
        &mut self,
        key: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<SecretString, String> {
        use crate::secret::ExposeSecret;
        let bytes = self.secret(key, text, origin)?;
        let secret =
            std::str::from_utf8(bytes.expose_secret()).map_err(|_| format!("{text} is no UTF-8 text"))?;
        Ok(SecretString::from(secret.trim_end_matches(['\r', '\n'])))
    }

    pub(super) fn chain(
        &mut self,
        key: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let bytes = self.bytes(key, text, origin)?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{text} is no PEM file of certificates: {error}"))?;
        if chain.is_empty() { Err(format!("{text} holds no PEM certificate")) } else { Ok(chain) }
    }

    pub(super) fn key(
        &mut self,
        key: &str,
        text: &str,
        origin: &Origin,
    ) -> Result<PrivateKeyDer<'static>, String> {
        use crate::secret::ExposeSecret;
        let bytes = self.secret(key, text, origin)?;
        PrivateKeyDer::from_pem_slice(bytes.expose_secret())
            .map_err(|error| format!("{text} holds no PEM private key: {error}"))
    }

    /// `chain_key` and `key_key` of one table.
    pub(super) fn identity(
        &mut self,
        table: &mut Table,
        faults: &mut Faults,
    ) -> Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let had = (table.has("cert_file"), table.has("key_file"));
        let chain = table.parsed("cert_file", faults, |text, origin| self.chain("cert_file", text, origin));
        let key = table.parsed("key_file", faults, |text, origin| self.key("key_file", text, origin));
        let chain = table.required(chain, had.0, "cert_file", faults);
        let key = table.required(key, had.1, "key_file", faults);
        chain.zip(key)
    }
}
