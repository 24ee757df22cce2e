//! `[sessions.redis]`: where the store is that replicas share.

use std::time::Duration;

use super::files;
use super::findings::Findings;
use super::table::Table;
use super::values;
use crate::session::redis::{Place, RedisSettings};

const MINUTE: Duration = Duration::from_secs(60);

/// What a `redis://host:6379/0` names.
struct RedisUrl {
    is_tls: bool,
    host: String,
    port: u16,
    database: u16,
}

pub(super) fn redis(mut table: Table, f: &mut Findings) -> Option<RedisSettings> {
    let ways = ["url", "sentinel", "cluster"];
    match ways.iter().filter(|way| table.has(way)).count() {
        0 => table.fault("url", "is missing; name a url, a sentinel or a cluster", f),
        1 => {}
        _ => table.fault("url", "stands beside sentinel or cluster; keep one of them", f),
    }
    let url = table.parsed("url", f, redis_url);
    let sentinel = table.table("sentinel", f).and_then(|sentinel| nodes_of_a_master(sentinel, f));
    let cluster = nodes(&mut table, "cluster", f);
    let username = table.text("username", f);
    let has_password = table.has("password_file");
    let password = files::secret_text(&mut table, "password_file", f);
    if username.is_some() && !has_password {
        table.fault("username", "stands without a password_file; name the file that holds the password", f);
    }
    let ca = files::certificates_as_they_are(&mut table, "ca_file", f);
    if url.as_ref().is_some_and(|url| !url.is_tls) && table.has("ca_file") {
        table.fault("ca_file", "is of no use without TLS; write the url as rediss://", f);
    }
    let max_stale = table.duration_or_zero("max_stale", MINUTE, f);
    let local_logins = table.bool("local_logins", false, f);
    table.finish(f);
    let place = match (url, sentinel, cluster) {
        (Some(RedisUrl { is_tls, host, port, database }), _, _) => {
            Place::One { is_tls, host, port, database }
        }
        (None, Some(sentinel), _) => sentinel,
        (None, None, cluster) => Place::Cluster(cluster?),
    };
    let ca = ca.map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned());
    Some(RedisSettings { place, username, password, ca, max_stale, local_logins })
}

fn redis_url(text: &str) -> Result<RedisUrl, String> {
    let url = values::url(text, &[("redis", false, 6379), ("rediss", true, 6379)])?;
    let database = if url.rest.is_empty() { Ok(0) } else { url.rest.parse() };
    match database {
        Ok(database) => Ok(RedisUrl { is_tls: url.scheme, host: url.host, port: url.port, database }),
        Err(_) => Err(format!("\"{text}\" names no database; write it as redis://host:6379/0")),
    }
}

fn nodes_of_a_master(mut table: Table, f: &mut Findings) -> Option<Place> {
    let master = table.text("master", f);
    let master = table.required("master", master, f);
    let nodes = nodes(&mut table, "nodes", f);
    if !table.has("nodes") {
        table.fault("nodes", "is missing", f);
    }
    table.finish(f);
    Some(Place::Sentinel { master: master?, nodes: nodes? })
}

fn nodes(table: &mut Table, name: &str, f: &mut Findings) -> Option<Vec<(String, u16)>> {
    table.refuse_empty(name, "name at least one \"host:port\"", f);
    table.parsed_list(name, f, values::node)
}
