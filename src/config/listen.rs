//! `[listen]` and `[admin]`.

use std::net::SocketAddr;

use super::files;
use super::findings::Findings;
use super::table::Table;
use super::tree::Origin;
use super::values;
use crate::admin::AdminSettings;
use crate::peer::TrustedProxies;
use crate::server::ListenSettings;

/// What `[listen]` says.
pub(super) struct Listen {
    pub(super) settings: ListenSettings,
    pub(super) admin: Option<SocketAddr>,
    /// Where `listen.https` stands.
    pub(super) https_place: Origin,
    admin_place: Origin,
}

pub(super) fn listen(mut table: Table, f: &mut Findings) -> Listen {
    let [https, http, authz, ext_authz, admin] = addresses(&mut table, f);
    let proxy_protocol = table.bool("proxy_protocol", false, f);
    let trusted = table.parsed_list("trusted_proxies", f, values::network).unwrap_or_default();
    if !table.has("https") && !table.has("http") {
        table.fault("https", "is missing, and so is listen.http; one of them must be there", f);
    }
    if proxy_protocol && trusted.is_empty() {
        let what = "is of no use without trusted_proxies: headers are read from them alone; name the addresses that \
                    the proxies connect from";
        table.fault("proxy_protocol", what, f);
    }
    for (name, addr) in [("authz", authz), ("ext_authz", ext_authz)] {
        if trusted.is_empty() && addr.is_some_and(|addr| !addr.ip().is_loopback()) {
            let what = "is asked by trusted_proxies and loopback alone, and there are no trusted_proxies; name the \
                        addresses that the ingress asks from";
            f.warn(&table.place_of(name), &table.key(name), what);
        }
    }
    let (https_place, admin_place) = (table.place_of("https"), table.place_of("admin"));
    table.finish(f);
    let trusted_proxies = TrustedProxies(trusted);
    let settings = ListenSettings { https, http, authz, ext_authz, proxy_protocol, trusted_proxies };
    Listen { settings, admin, https_place, admin_place }
}

fn addresses(table: &mut Table, f: &mut Findings) -> [Option<SocketAddr>; 5] {
    let mut taken: Vec<(SocketAddr, &str)> = Vec::new();
    ["https", "http", "authz", "ext_authz", "admin"].map(|name| {
        let addr = table.parsed(name, f, |text| {
            let addr = values::address(text)?;
            match taken.iter().find(|(other, _)| collide(*other, addr)) {
                Some((other, by)) => Err(format!("{addr} is taken by listen.{by} ({other}); choose another")),
                None => Ok(addr),
            }
        })?;
        taken.push((addr, name));
        Some(addr)
    })
}

/// The unspecified address takes the port of every other.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && (any || a.ip() == b.ip())
}

pub(super) fn admin(table: Option<Table>, listen: &Listen, f: &mut Findings) -> Option<AdminSettings> {
    let (mut hosts, mut token, mut guarded) = (Vec::new(), None, false);
    if let Some(mut table) = table {
        hosts = table.parsed_list("hosts", f, host).unwrap_or_default();
        guarded = table.has("token_file");
        token = files::secret_text(&mut table, "token_file", f);
        table.finish(f);
    }
    let addr = listen.admin?;
    if !addr.ip().is_loopback() && !guarded {
        let what = "is reachable from elsewhere and needs [admin] token_file; or listen on 127.0.0.1";
        f.fault(&listen.admin_place, "listen.admin", what);
    }
    Some(AdminSettings { addr, hosts, token })
}

fn host(text: &str) -> Result<String, String> {
    if values::is_host(text) {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{text}\" is no host name; write it without scheme and port"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unspecified_address_collides_with_every_other_of_its_port() {
        let collide = |a: &str, b: &str| collide(a.parse().unwrap(), b.parse().unwrap());
        assert!(collide("127.0.0.1:80", "127.0.0.1:80") && collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(collide("[::]:80", "127.0.0.1:80"));
        assert!(!collide("127.0.0.1:80", "127.0.0.2:80") && !collide("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
    }
}
