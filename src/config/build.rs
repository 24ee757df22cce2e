//! The sections of the main file become settings.

use std::net::SocketAddr;
use std::time::Duration;

use super::Unsupported;
use super::files::Files;
use super::table::{Faults, Table};
use super::tree::{Node, Value};
use crate::admin::AdminSettings;
use crate::gateway::cors::CorsSettings;
use crate::gateway::login::{Answers, LoginSettings};
use crate::peer::TrustedProxies;
use crate::server::tls::{Identity, MinVersion, TlsSettings};
use crate::server::{Limits, ListenSettings};
use crate::session::SessionSettings;
use crate::session::token::TokenSettings;
use crate::telemetry::{LogFormat, LogSettings};
use crate::upstream::{Balance, HealthSettings, Scheme, ServerUrl, UpstreamSettings};

const DAY: Duration = Duration::from_secs(86_400);

/// The listeners, and the admin listener's address with the place of its key.
pub(super) fn listen(
    table: Option<Table>,
    faults: &mut Faults,
    later: &mut Unsupported,
) -> (ListenSettings, Option<(SocketAddr, super::tree::Origin)>) {
    let mut settings = ListenSettings { https: None, http: None, trusted_proxies: TrustedProxies::default() };
    let Some(mut table) = table else { return (settings, None) };
    let mut addrs: Vec<(SocketAddr, &str)> = Vec::new();
    let mut found = std::collections::HashMap::new();
    for key in ["https", "http", "authz", "ext_authz", "admin"] {
        if matches!(key, "authz" | "ext_authz") {
            later.note_key(&table, key);
        }
        let addr = table.parsed(key, faults, |text, origin| {
            let addr: SocketAddr = text
                .parse()
                .map_err(|_| format!("\"{text}\" is no address; write it as \"127.0.0.1:8443\""))?;
            match addrs.iter().find(|(other, _)| *other == addr && addr.port() != 0) {
                Some((_, other)) => Err(format!(
                    "{addr} is taken by listen.{other}; each listener needs an address of its own"
                )),
                None => Ok((addr, origin.clone())),
            }
        });
        if let Some((addr, origin)) = addr {
            addrs.push((addr, key));
            found.insert(key, (addr, origin));
        }
    }
    let (https, http) = (found.get("https"), found.get("http"));
    (settings.https, settings.http) = (https.map(|(addr, _)| *addr), http.map(|(addr, _)| *addr));
    if table.bool("proxy_protocol", false, faults) {
        later.note(&table, "proxy_protocol");
    }
    for (text, origin) in table.texts("trusted_proxies", faults).unwrap_or_default() {
        let net = text.parse().or_else(|_| text.parse::<std::net::IpAddr>().map(Into::into));
        match net {
            Ok(net) => settings.trusted_proxies.0.push(net),
            Err(_) => faults.push(origin.fault(
                "listen.trusted_proxies",
                format!("\"{text}\" is no network; write it as \"10.0.0.0/8\""),
            )),
        }
    }
    if settings.https.is_none() && settings.http.is_none() && !table.asked("https") && !table.asked("http") {
        faults.push(table.origin.fault("listen", "has neither https nor http; one of them must be there"));
    }
    table.finish(faults);
    (settings, found.remove("admin"))
}

pub(super) fn tls(table: Option<Table>, files: &mut Files, faults: &mut Faults) -> Option<TlsSettings> {
    let mut table = table?;
    let default = files.identity(&mut table, faults);
    let client_ca =
        table.parsed("client_ca_file", faults, |text, origin| files.chain("client_ca_file", text, origin));
    let versions = [("1.2", MinVersion::Tls12), ("1.3", MinVersion::Tls13)];
    let min_version = table.word("min_version", &versions, MinVersion::Tls12, faults);
    let sni = table.take("sni").map(|node| sni(node, files, faults)).unwrap_or_default();
    table.finish(faults);
    let (chain, key) = default?;
    Some(TlsSettings { default: Identity { names: Vec::new(), chain, key }, sni, client_ca, min_version })
}

fn sni(node: Node, files: &mut Files, faults: &mut Faults) -> Vec<Identity> {
    let Value::List(items) = node.value else {
        faults.push(node.origin.fault("tls.sni", "must be a list of tables"));
        return Vec::new();
    };
    let mut identities = Vec::new();
    for item in items {
        let Value::Table(entries) = item.value else { continue };
        let mut table = Table::new(entries, item.origin, "tls.sni");
        let names =
            table.texts("names", faults).unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        let identity = files.identity(&mut table, faults);
        table.finish(faults);
        identities.extend(identity.map(|(chain, key)| Identity { names, chain, key }));
    }
    identities
}

pub(super) fn token(table: Option<Table>, files: &mut Files, faults: &mut Faults) -> Option<TokenSettings> {
    let mut table = table?;
    let had = table.has("secret_file");
    let secret =
        table.parsed("secret_file", faults, |text, origin| files.secret("secret_file", text, origin));
    let secret = table.required(secret, had, "secret_file", faults);
    let mut previous = Vec::new();
    for (text, origin) in table.texts("previous_secret_files", faults).unwrap_or_default() {
        match files.secret("previous_secret_files", &text, &origin) {
            Ok(secret) => previous.push(secret),
            Err(what) => faults.push(origin.fault("token.previous_secret_files", what)),
        }
    }
    let ttl = table.duration("ttl", 100 * DAY, faults);
    let claims =
        table.texts("claims", faults).unwrap_or_default().into_iter().map(|(text, _)| text).collect();
    table.finish(faults);
    Some(TokenSettings { secret: secret?, previous, ttl, claims })
}

pub(super) fn login(table: Option<Table>, faults: &mut Faults, later: &mut Unsupported) -> LoginSettings {
    let mut settings = LoginSettings {
        cdr: serde_json::json!({}),
        hide_unknown_user: false,
        answers: Answers::Documented,
        max_failures: 10,
        window: Duration::from_secs(300),
        max_sessions_per_user: 0,
    };
    let Some(mut table) = table else { return settings };
    if let Some(node) = table.take("cdr") {
        settings.cdr = json(&node);
    }
    let hides = [("not_found", false), ("invalid_credentials", true)];
    settings.hide_unknown_user = table.word("unknown_user", &hides, false, faults);
    later.note_word(&table, "answers", "engine");
    settings.answers = table.word(
        "answers",
        &[("documented", Answers::Documented), ("engine", Answers::Engine)],
        Answers::Documented,
        faults,
    );
    settings.max_failures = table.number("max_failures", settings.max_failures, faults);
    settings.window = table.duration("window", settings.window, faults);
    settings.max_sessions_per_user = table.number("max_sessions_per_user", 0, faults);
    table.finish(faults);
    settings
}

fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Text(text) | Value::Time(text) => text.clone().into(),
        Value::Integer(n) => (*n).into(),
        Value::Bool(b) => (*b).into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Table(entries) => entries
            .iter()
            .map(|(key, node)| (key.clone(), json(node)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Other(_) => serde_json::Value::Null,
    }
}

pub(super) fn sessions(
    table: Option<Table>,
    faults: &mut Faults,
    later: &mut Unsupported,
) -> SessionSettings {
    let Some(mut table) = table else { return SessionSettings::default() };
    for (name, keys) in [
        (
            "redis",
            &[
                "url",
                "sentinel",
                "cluster",
                "username",
                "password_file",
                "ca_file",
                "max_stale",
                "local_logins",
            ][..],
        ),
        ("adopt", &["url", "revalidate", "rights", "negative_ttl", "max_lookups_per_second"][..]),
    ] {
        later.note_key(&table, name);
        let Some(mut inner) = table.table(name, faults) else { continue };
        inner.word("rights", &[("whoami", ()), ("roles", ())], (), faults);
        for key in ["max_stale", "revalidate", "negative_ttl"] {
            inner.duration(key, DAY, faults);
        }
        keys.iter().for_each(|key| drop(inner.take(key)));
        inner.finish(faults);
    }
    let file = table.parsed("file", faults, |text, origin| {
        if text.is_empty() {
            return Ok(None);
        }
        let path = origin.path(text);
        let folder = path.parent().is_none_or(|folder| folder.as_os_str().is_empty() || folder.is_dir());
        if folder {
            Ok(Some(path))
        } else {
            Err(format!("the folder of \"{text}\" is not there; make it first"))
        }
    });
    table.finish(faults);
    SessionSettings { file: file.flatten() }
}

pub(super) fn upstreams(
    table: Option<Table>,
    files: &mut Files,
    faults: &mut Faults,
) -> Vec<UpstreamSettings> {
    let named = table.map(|table| table.named(faults)).unwrap_or_default();
    named.into_iter().map(|(name, table)| upstream(&name, table, files, faults)).collect()
}

fn upstream(name: &str, mut table: Table, files: &mut Files, faults: &mut Faults) -> UpstreamSettings {
    let place = table.peek("servers").map(|node| node.origin.clone()).unwrap_or_else(|| table.origin.clone());
    let texts = table.texts("servers", faults).unwrap_or_default();
    if texts.is_empty() {
        faults.push(
            place.fault(&table.key("servers"), "is empty; name at least one, as \"http://127.0.0.1:10022\""),
        );
    }
    let mut servers = Vec::new();
    for (text, origin) in texts {
        match server_url(&text) {
            Some(url) => {
                servers.push(url);
            }
            None => faults.push(origin.fault(&table.key("servers"), format!("\"{text}\" is no server; write it as \"http://host:port\", https:// or h2c://, without a path"))),
        }
    }
    let balance = table.word(
        "balance",
        &[("least_request", Balance::LeastRequest), ("round_robin", Balance::RoundRobin)],
        Balance::LeastRequest,
        faults,
    );
    let connect_timeout = table.duration("connect_timeout", Duration::from_secs(2), faults);
    let response_timeout = table.duration("response_timeout", Duration::from_secs(60), faults);
    let retries = table.number("retries", 1, faults);
    let max_connections = table.number("max_connections", 1024, faults);
    let health = table.table("health", faults).map(|mut health| {
        let path = health.text("path", faults).unwrap_or_else(|| "/".to_owned());
        let interval = health.duration("interval", Duration::from_secs(5), faults);
        health.finish(faults);
        HealthSettings { path, interval }
    });
    let ca = table.parsed("ca_file", faults, |text, origin| files.chain("ca_file", text, origin));
    let forward_credentials = table.bool("forward_credentials", true, faults);
    table.finish(faults);
    UpstreamSettings {
        name: name.into(),
        servers,
        balance,
        connect_timeout,
        response_timeout,
        retries,
        max_connections,
        health,
        ca,
        forward_credentials,
    }
}

fn server_url(text: &str) -> Option<ServerUrl> {
    let (scheme, default, rest) =
        [("http://", Scheme::Http, 80), ("https://", Scheme::Https, 443), ("h2c://", Scheme::H2c, 80)]
            .iter()
            .find_map(|(prefix, scheme, port)| Some((*scheme, *port, text.strip_prefix(prefix)?)))?;
    let authority: http::uri::Authority = rest.trim_end_matches('/').parse().ok()?;
    let host = authority.host().trim_matches(['[', ']']).to_owned();
    let has_port = authority.as_str().rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let port = if has_port { authority.port_u16()? } else { default };
    (!host.is_empty() && !authority.as_str().contains('@')).then_some(ServerUrl { scheme, host, port })
}

pub(super) fn cors(table: Option<Table>, faults: &mut Faults) -> Option<CorsSettings> {
    let mut table = table?;
    let mut list = |key: &str, default: &[&str]| {
        let texts = table.texts(key, faults).map(|texts| texts.into_iter().map(|(text, _)| text).collect());
        texts.unwrap_or_else(|| default.iter().map(ToString::to_string).collect())
    };
    let allow_origins = list("allow_origins", &["*"]);
    let allow_methods = list("allow_methods", &["GET", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"]);
    let allow_headers = list("allow_headers", &["Content-type", "Accept", "X-Access-Token", "X-Key"]);
    let max_age = table.duration("max_age", DAY, faults);
    table.finish(faults);
    Some(CorsSettings { allow_origins, allow_methods, allow_headers, max_age })
}

pub(super) fn admin(
    table: Option<Table>,
    addr: Option<(SocketAddr, super::tree::Origin)>,
    files: &mut Files,
    faults: &mut Faults,
) -> Option<AdminSettings> {
    let (mut hosts, mut token, mut had_token) = (Vec::new(), None, false);
    if let Some(mut table) = table {
        hosts = table.texts("hosts", faults).unwrap_or_default().into_iter().map(|(host, _)| host).collect();
        had_token = table.has("token_file");
        token =
            table.parsed("token_file", faults, |text, origin| files.secret_text("token_file", text, origin));
        table.finish(faults);
    }
    let (addr, origin) = addr?;
    if !addr.ip().is_loopback() && !had_token {
        faults.push(origin.fault(
            "listen.admin",
            "is reachable from elsewhere and needs [admin] token_file; or listen on 127.0.0.1",
        ));
    }
    Some(AdminSettings { addr, hosts, token })
}

pub(super) fn limits(table: Option<Table>, faults: &mut Faults) -> Limits {
    let d = Limits::default();
    let Some(mut table) = table else { return d };
    let limits = Limits {
        max_connections: table.number("max_connections", d.max_connections, faults),
        max_requests: table.number("max_requests", d.max_requests, faults),
        header_read_timeout: table.duration("header_read_timeout", d.header_read_timeout, faults),
        idle_timeout: table.duration("idle_timeout", d.idle_timeout, faults),
        body_timeout: table.duration("body_timeout", d.body_timeout, faults),
        handshake_timeout: table.duration("handshake_timeout", d.handshake_timeout, faults),
        max_header_bytes: table.size("max_header_bytes", d.max_header_bytes, faults),
        drain_delay: table.duration("drain_delay", d.drain_delay, faults),
        drain_timeout: table.duration("drain_timeout", d.drain_timeout, faults),
    };
    table.finish(faults);
    limits
}

pub(super) fn log(table: Option<Table>, faults: &mut Faults) -> LogSettings {
    let mut settings = LogSettings { level: tracing::Level::INFO, format: LogFormat::Json, access: true };
    let Some(mut table) = table else { return settings };
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    settings.level = table.word("level", &levels, settings.level, faults);
    settings.format = table.word(
        "format",
        &[("json", LogFormat::Json), ("text", LogFormat::Text)],
        settings.format,
        faults,
    );
    settings.access = table.bool("access", settings.access, faults);
    table.finish(faults);
    settings
}
