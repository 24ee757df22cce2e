//! All files and the environment become [`Settings`]: the order in which sections are read, and what they need of
//! each other.

use super::environment::{Environment, Part};
use super::findings::Findings;
use super::listen::{self, Listen};
use super::table::Table;
use super::tree::Origin;
use super::{DirectorySettings, Settings, Source};
use super::{front, include, login, roles, routes, shown, telemetry, tls, upstreams, users};
use crate::access::AccessSettings;
use crate::server::tls::TlsSettings;
use crate::session::token::DomainToken;

/// With what is to be shown of it. None when a fault keeps the settings from being whole; faults may be found all the
/// same.
pub(super) fn load(source: &Source, f: &mut Findings) -> Option<(Settings, serde_json::Value)> {
    let mut entries = include::read_all(source, f)?;
    let env = Environment::of(source, f);
    env.apply(Part::Main, &mut entries, f);
    let shown = shown::of(&entries);
    let mut root = Table::new(entries, Origin::start_of(&source.file), "");

    let listen = required(&mut root, "listen", f).map(|table| listen::listen(table, f));
    let tls = tls(&mut root, listen.as_ref(), f);
    let token = required(&mut root, "token", f).and_then(|table| login::token(table, f));
    let (login, own_below) = login::login(root.table("login", f), f);
    let sessions = login::sessions(root.table("sessions", f), f);
    let upstreams = upstreams::upstreams(root.table("upstreams", f), f);
    let (access, directory, domain_tokens) = access(&mut root, &upstreams, &env, f);
    let cors = root.table("cors", f).map(|table| front::cors(table, f));
    let admin = root.table("admin", f);
    let admin = listen.as_ref().and_then(|listen| listen::admin(admin, listen, f));
    let limits = front::limits(root.table("limits", f), f);
    let log = front::log(root.table("log", f), f);
    let authz = front::authz(root.table("authz", f), f);
    let traces = root.table("telemetry", f).and_then(|table| telemetry::telemetry(table, f));
    let access = AccessSettings { own_below, ..access };
    finish(root, f);
    let (listen, token) = (listen?.settings, token?);
    let settings = Settings {
        listen,
        tls,
        token,
        login,
        directory: directory?,
        domain_tokens,
        sessions,
        upstreams,
        access,
        cors,
        authz,
        admin,
        limits,
        log,
        traces,
    };
    Some((settings, shown))
}

fn required(root: &mut Table, name: &str, f: &mut Findings) -> Option<Table> {
    let table = root.table(name, f);
    root.required(name, table, f)
}

fn tls(root: &mut Table, listen: Option<&Listen>, f: &mut Findings) -> Option<TlsSettings> {
    let table = root.table("tls", f);
    if let Some(listen) = listen.filter(|listen| listen.settings.https.is_some() && !root.has("tls")) {
        let what = "needs [tls] with cert_file and key_file; add it, or listen on http behind a proxy";
        f.fault(&listen.https_place, "listen.https", what);
    }
    tls::tls(table?, f)
}

/// What decides, and who may log in: both name roles.
fn access(
    root: &mut Table,
    upstreams: &[crate::upstream::UpstreamSettings],
    env: &Environment,
    f: &mut Findings,
) -> (AccessSettings, Option<DirectorySettings>, Vec<DomainToken>) {
    let roles = roles::roles(root.table("roles", f), f);
    let directory = required(root, "directory", f).map(|table| users::directory(table, &roles, env, f));
    let domain_tokens = users::domain_tokens(root.table("domain_tokens", f), &roles, f);
    let case_sensitive = front::case_sensitive(root.table("paths", f), f);
    let routes = routes::routes(root.tables("routes", f), upstreams, case_sensitive, f);
    let names = front::credentials(root.table("credentials", f), f);
    (AccessSettings { routes, roles, names, case_sensitive, own_below: Vec::new() }, directory, domain_tokens)
}

/// Users are looked for in the main file by many.
fn finish(mut root: Table, f: &mut Findings) {
    if root.has("users") {
        root.fault("users", "is an unknown key here; users stand in the file that [directory] file names", f);
        let _: Option<_> = root.take("users");
    }
    root.finish(f);
}
