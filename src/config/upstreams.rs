//! `[upstreams.NAME]`.

use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, ServerName};
use std::time::Duration;

use super::files;
use super::findings::Findings;
use super::table::Table;
use super::values;
use crate::upstream::{Balance, EjectSettings, HealthSettings, Scheme, ServerUrl, UpstreamSettings};

/// In the order of their names.
pub(super) fn upstreams(table: Option<Table>, f: &mut Findings) -> Vec<UpstreamSettings> {
    let named = table.map(|table| table.named(f)).unwrap_or_default();
    named.into_iter().map(|(name, table)| upstream(&name, table, f)).collect()
}

fn upstream(name: &str, mut table: Table, f: &mut Findings) -> UpstreamSettings {
    let balances = [("least_request", Balance::LeastRequest), ("round_robin", Balance::RoundRobin)];
    let settings = UpstreamSettings {
        name: name.into(),
        servers: servers(&mut table, f),
        balance: table.word("balance", &balances, f).unwrap_or(Balance::LeastRequest),
        connect_timeout: table.duration("connect_timeout", Duration::from_secs(2), f),
        response_timeout: table.duration("response_timeout", Duration::from_secs(60), f),
        retries: table.number("retries", 1, 0, f),
        max_connections: table.number("max_connections", 1024, 1, f),
        max_pending: table.number("max_pending", 1024, 0, f),
        health: table.table("health", f).map(|table| health(table, f)),
        eject: table.table("eject", f).map(|table| eject(table, f)).unwrap_or_default(),
        ca: files::certificates(&mut table, "ca_file", f),
        forward_credentials: table.bool("forward_credentials", true, f),
    };
    check_schemes(&settings.servers, &table, f);
    check_authorities(&settings, &table, f);
    table.finish(f);
    settings
}

fn servers(table: &mut Table, f: &mut Findings) -> Vec<ServerUrl> {
    table.refuse_empty("servers", "name at least one, as \"http://127.0.0.1:10022\"", f);
    let servers = table.parsed_list("servers", f, server);
    table.required("servers", servers, f).unwrap_or_default()
}

fn server(text: &str) -> Result<ServerUrl, String> {
    let schemes = [("http", Scheme::Http, 80), ("https", Scheme::Https, 443), ("h2c", Scheme::H2c, 80)];
    let values::Url { scheme, host, port, rest } = values::url(text, &schemes)?;
    if !rest.is_empty() {
        return Err(format!("\"{text}\" has a path; a server is its scheme, host and port alone"));
    }
    if scheme == Scheme::Https && ServerName::try_from(host.as_str()).is_err() {
        return Err(format!("\"{text}\" has a host that no certificate can be for"));
    }
    Ok(ServerUrl { scheme, host, port })
}

fn health(mut table: Table, f: &mut Findings) -> HealthSettings {
    let path = table.parsed("path", f, |text| {
        let target = text.parse::<http::uri::PathAndQuery>().ok().filter(|_| text.starts_with('/'));
        target.map(|_| text.to_owned()).ok_or_else(|| format!("\"{text}\" is no path; it begins with \"/\""))
    });
    let interval = table.duration("interval", Duration::from_secs(5), f);
    table.finish(f);
    HealthSettings { path: path.unwrap_or_else(|| "/".to_owned()), interval }
}

fn eject(mut table: Table, f: &mut Findings) -> EjectSettings {
    let usual = EjectSettings::default();
    let settings = EjectSettings {
        failures: table.number("failures", usual.failures, 0, f),
        base: table.duration("base", usual.base, f),
        max: table.duration("max", usual.max, f),
    };
    if settings.max < settings.base {
        let name = if table.has("max") { "max" } else { "base" };
        table.fault(name, "makes max shorter than base", f);
    }
    table.finish(f);
    settings
}

/// HTTP/2 without TLS is spoken by all servers of an upstream or by none.
fn check_schemes(servers: &[ServerUrl], table: &Table, f: &mut Findings) {
    let h2c = servers.iter().filter(|server| server.scheme == Scheme::H2c).count();
    if h2c != 0 && h2c != servers.len() {
        table.fault("servers", "mixes h2c with http or https; make two upstreams of them", f);
    }
}

/// An https server needs authorities to check its certificate against: those of `ca_file`, else the system's.
fn check_authorities(settings: &UpstreamSettings, table: &Table, f: &mut Findings) {
    let has_https = settings.servers.iter().any(|server| server.scheme == Scheme::Https);
    if let Some(authorities) = &settings.ca {
        check_each(authorities, table, f);
        if !has_https && !settings.servers.is_empty() {
            let what = "is of no use without an https server";
            f.warn(&table.place_of("ca_file"), &table.key("ca_file"), what);
        }
    } else if has_https && !table.has("ca_file") && rustls_native_certs::load_native_certs().certs.is_empty()
    {
        table.fault("ca_file", "is missing, and this system has no authorities; name a file of them", f);
    }
}

fn check_each(authorities: &[CertificateDer<'static>], table: &Table, f: &mut Findings) {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        if let Err(error) = roots.add(authority.clone()) {
            return table.fault("ca_file", format!("holds a certificate that cannot be used: {error}"), f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_of_three_schemes_and_have_no_path() {
        let url = |scheme, host: &str, port| Ok(ServerUrl { scheme, host: host.to_owned(), port });
        assert_eq!(server("http://engine:10022"), url(Scheme::Http, "engine", 10022));
        assert_eq!(server("https://[::1]"), url(Scheme::Https, "::1", 443));
        assert_eq!(server("h2c://127.0.0.1:1/"), url(Scheme::H2c, "127.0.0.1", 1));
        for bad in ["ftp://x", "engine:10022", "http://x/y", "http://x//"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
