//! `[tls]`: certificates, their keys, and whether they fit.

use rustls_pki_types::{CertificateDer, DnsName};
use std::collections::HashMap;

use super::files;
use super::findings::Findings;
use super::table::{Table, Text};
use super::tree::Origin;
use crate::server::tls::{self, Identity, MinVersion, TlsFault, TlsSettings};

pub(super) fn tls(mut table: Table, f: &mut Findings) -> Option<TlsSettings> {
    let default = identity(&mut table, Vec::new(), f);
    let client_ca = files::certificates(&mut table, "client_ca_file", f);
    if let (Some(default), Some(authorities)) = (&default, &client_ca) {
        check_client_ca(default, authorities, &table, f);
    }
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let min_version = table.word("min_version", &versions, f).unwrap_or(MinVersion::Tls12);
    let sni = sni(&mut table, f);
    table.finish(f);
    Some(TlsSettings { default: default?, sni, client_ca, min_version })
}

fn sni(table: &mut Table, f: &mut Findings) -> Vec<Identity> {
    let (mut identities, mut seen) = (Vec::new(), HashMap::new());
    for mut table in table.tables("sni", f) {
        let names = names(&mut table, &mut seen, f);
        identities.extend(identity(&mut table, names, f));
        table.finish(f);
    }
    identities
}

fn names(table: &mut Table, seen: &mut HashMap<String, Origin>, f: &mut Findings) -> Vec<String> {
    let key = table.key("names");
    table.refuse_empty("names", "name at least one host", f);
    let texts = table.texts("names", f);
    let mut names = Vec::new();
    for Text { text, origin } in table.required("names", texts, f).unwrap_or_default() {
        if DnsName::try_from(text.strip_prefix("*.").unwrap_or(&text)).is_err() {
            f.fault(
                &origin,
                &key,
                format!("\"{text}\" is no host name; write it as api.example.com or *.example.com"),
            );
        } else if seen.insert(text.to_ascii_lowercase(), origin.clone()).is_some() {
            f.fault(&origin, &key, format!("\"{text}\" has a certificate already"));
        } else {
            names.push(text);
        }
    }
    names
}

/// `cert_file` and `key_file` of a table, and whether they belong together.
fn identity(table: &mut Table, names: Vec<String>, f: &mut Findings) -> Option<Identity> {
    let chain = files::certificates(table, "cert_file", f);
    let key = files::private_key(table, "key_file", f);
    let chain = table.required("cert_file", chain, f);
    let key = table.required("key_file", key, f);
    let identity = Identity { names, chain: chain?, key: key? };
    match tls::server_config(alone(&identity, None)) {
        Ok(_) => {}
        Err(fault @ TlsFault::KeyMismatch { .. }) => table.fault("key_file", fault.to_string(), f),
        Err(fault) => table.fault("cert_file", fault.to_string(), f),
    }
    Some(identity)
}

fn check_client_ca(
    default: &Identity,
    authorities: &[CertificateDer<'static>],
    table: &Table,
    f: &mut Findings,
) {
    if let Err(fault @ TlsFault::ClientCa { .. }) =
        tls::server_config(alone(default, Some(authorities.to_vec())))
    {
        table.fault("client_ca_file", fault.to_string(), f);
    }
}

/// Settings of one identity: built to find its faults, each where it stands.
fn alone(identity: &Identity, client_ca: Option<Vec<CertificateDer<'static>>>) -> TlsSettings {
    let Identity { chain, key, .. } = identity;
    let default = Identity { names: Vec::new(), chain: chain.clone(), key: key.clone_key() };
    TlsSettings { default, sni: Vec::new(), client_ca, min_version: MinVersion::Tls12 }
}
