//! Files that the configuration names: keys, certificates, secrets. Their contents are never shown.

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use zeroize::Zeroizing;

use super::findings::Findings;
use super::table::{Table, Text};
use crate::secret::{ExposeSecret, SecretSlice, SecretString};

/// No key, certificate or bundle is larger.
const LARGEST: u64 = 4 * 1024 * 1024;

/// A secret's bytes, as they are. A file that others may read is told as a warning.
pub(super) fn secret(table: &mut Table, name: &str, f: &mut Findings) -> Option<SecretSlice<u8>> {
    let named = table.text_at(name, f)?;
    let key = table.key(name);
    secret_at(&named, &key, f)
}

/// As [`secret`], of a file that is already taken out of its table.
pub(super) fn secret_at(named: &Text, key: &str, f: &mut Findings) -> Option<SecretSlice<u8>> {
    let mut bytes = bytes(named, key, f)?;
    warn_of_readers(named, key, f);
    Some(SecretSlice::from(std::mem::take(&mut *bytes)))
}

/// A secret that is a line of text; its end does not belong to it.
pub(super) fn secret_text(table: &mut Table, name: &str, f: &mut Findings) -> Option<SecretString> {
    let named = table.text_at(name, f)?;
    let key = table.key(name);
    let secret = secret_at(&named, &key, f)?;
    let text = std::str::from_utf8(secret.expose_secret()).map(|text| text.trim_end_matches(['\r', '\n']));
    match text {
        Ok("") => f.fault(&named.origin, &key, format!("{} is empty", named.text)),
        Ok(text) => return Some(SecretString::from(text)),
        Err(_) => f.fault(&named.origin, &key, format!("{} is no UTF-8 text", named.text)),
    }
    None
}

/// A PEM file of certificates, at least one.
pub(super) fn certificates(
    table: &mut Table,
    name: &str,
    f: &mut Findings,
) -> Option<Vec<CertificateDer<'static>>> {
    certificates_as_they_are(table, name, f).map(|(chain, _)| chain)
}

/// With the file's bytes.
pub(super) fn certificates_as_they_are(
    table: &mut Table,
    name: &str,
    f: &mut Findings,
) -> Option<(Vec<CertificateDer<'static>>, Vec<u8>)> {
    let named = table.text_at(name, f)?;
    let key = table.key(name);
    let bytes = bytes(&named, &key, f)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let what = match read {
        Ok(chain) if !chain.is_empty() => return Some((chain, bytes.to_vec())),
        Ok(_) | Err(pem::Error::NoItemsFound) => {
            "holds no PEM certificate (-----BEGIN CERTIFICATE-----)".to_owned()
        }
        Err(error) => format!("is no PEM file of certificates: {error}"),
    };
    f.fault(&named.origin, &key, format!("{} {what}", named.text));
    None
}

/// A PEM file with a private key: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(table: &mut Table, name: &str, f: &mut Findings) -> Option<PrivateKeyDer<'static>> {
    let named = table.text_at(name, f)?;
    let key = table.key(name);
    let bytes = secret_at(&named, &key, f)?;
    let what = match PrivateKeyDer::from_pem_slice(bytes.expose_secret()) {
        Ok(private) => return Some(private),
        Err(pem::Error::NoItemsFound) => "holds no PEM private key (-----BEGIN PRIVATE KEY-----)".to_owned(),
        Err(error) => format!("is no PEM file of a private key: {error}"),
    };
    f.fault(&named.origin, &key, format!("{} {what}", named.text));
    None
}

const EMPTY: &str = "is empty";

/// A file's bytes; none and a fault when it is missing, empty, or no file.
fn bytes(named: &Text, key: &str, f: &mut Findings) -> Option<Zeroizing<Vec<u8>>> {
    let path = named.origin.path(&named.text);
    match read(&path) {
        Ok(bytes) => {
            f.file(&path, Some(&bytes));
            Some(bytes)
        }
        Err(what) => {
            match &*what {
                EMPTY => f.file(&path, Some(b"")),
                _ => f.unread(&path),
            }
            f.fault(&named.origin, key, format!("{} {what}", named.text));
            None
        }
    }
}

/// What a file holds, as [`NamedFile`](super::NamedFile) has it.
#[must_use]
pub fn hash_of(path: &Path) -> Option<[u8; 32]> {
    // Asked first: opening a pipe would wait for its writer.
    let is_file = std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file());
    is_file.then(|| std::fs::read(path).ok().map(|bytes| crate::secret::sha256(&bytes)))?
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    // Asked first: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is no file".to_owned());
    }
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path).map_err(cannot)?.take(LARGEST + 1).read_to_end(&mut bytes).map_err(cannot)?;
    match bytes.len() as u64 {
        0 => Err(EMPTY.to_owned()),
        n if n > LARGEST => Err(format!("is larger than {} MiB", LARGEST / 1024 / 1024)),
        _ => Ok(bytes),
    }
}

/// A warning when others than the owner may read or change the file.
pub(super) fn warn_of_readers(named: &Text, key: &str, f: &mut Findings) {
    let Ok(file) = std::fs::metadata(named.origin.path(&named.text)) else { return };
    let mode = file.permissions().mode();
    // Kubernetes hands a Secret over as root's, to be read by the pod's group.
    let is_ours = file.uid() == rustix::process::geteuid().as_raw();
    let too_open = if is_ours { 0o066 } else { 0o026 };
    if mode & too_open != 0 {
        let what = format!(
            "{} is open to others than its owner (mode {:03o}); chmod 600 it",
            named.text,
            mode & 0o777
        );
        f.warn(&named.origin, key, what);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::{self, Origin};
    use super::*;
    use std::fs;

    fn read_with<T>(
        content: Option<&[u8]>,
        mode: u32,
        read: impl FnOnce(&mut Table, &mut Findings) -> T,
    ) -> (T, Findings) {
        let folder = tempfile::tempdir().unwrap();
        if let Some(content) = content {
            fs::write(folder.path().join("x"), content).unwrap();
            fs::set_permissions(folder.path().join("x"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let main = folder.path().join("main.toml");
        let entries = tree::parse("k = \"x\"", &main).ok().unwrap();
        let (mut table, mut f) = (Table::new(entries, Origin::start_of(&main), "t"), Findings::default());
        (read(&mut table, &mut f), f)
    }

    #[test]
    fn a_secret_is_its_bytes_as_they_are() {
        let (secret, f) = read_with(Some(b"a\xff\n"), 0o600, |t, f| secret(t, "k", f));
        assert_eq!(secret.unwrap().expose_secret(), b"a\xff\n");
        assert!(f.faults.is_empty() && f.warnings.is_empty() && f.files.len() == 1);
    }

    #[test]
    fn a_secret_that_others_can_read_is_a_warning() {
        for mode in [0o644, 0o640, 0o606] {
            let (_, f) = read_with(Some(b"a"), mode, |t, f| secret(t, "k", f));
            assert!(f.warnings[0].to_string().contains("t.k: x is open"), "{mode:o}");
        }
    }

    #[test]
    fn empty_missing_and_unreadable_files_are_faults() {
        assert!(read_with(Some(b""), 0o600, |t, f| secret(t, "k", f)).0.is_none());
        assert!(read_with(None, 0o600, |t, f| secret(t, "k", f)).0.is_none());
        assert!(read_with(Some(b"\n"), 0o600, |t, f| secret_text(t, "k", f)).0.is_none());
        let (chain, f) = read_with(Some(b"no pem"), 0o600, |t, f| certificates(t, "k", f));
        assert!(chain.is_none() && f.faults[0].what.contains("holds no PEM certificate"), "{:?}", f.faults);
        let (key, f) = read_with(Some(b"no pem"), 0o600, |t, f| private_key(t, "k", f));
        assert!(key.is_none() && f.faults[0].what.contains("holds no PEM private key"), "{:?}", f.faults);
    }
}
