//! Sections whose behaviour comes later: known and checked whole, so that a configuration that passes now passes then.

use std::time::Duration;

use super::files;
use super::findings::Findings;
use super::table::Table;
use super::values;

const MINUTE: Duration = Duration::from_secs(60);

/// `[sessions.redis]`
pub(super) fn redis(mut table: Table, f: &mut Findings) {
    let ways = ["url", "sentinel", "cluster"];
    match ways.iter().filter(|way| table.has(way)).count() {
        0 => table.fault("url", "is missing; name a url, a sentinel or a cluster", f),
        1 => {}
        _ => table.fault("url", "stands beside sentinel or cluster; keep one of them", f),
    }
    let tls = table.parsed("url", f, redis_url);
    if let Some(sentinel) = table.table("sentinel", f) {
        nodes_of_a_master(sentinel, f);
    }
    nodes(&mut table, "cluster", f);
    table.text("username", f);
    files::secret_text(&mut table, "password_file", f);
    files::certificates(&mut table, "ca_file", f);
    if tls == Some(false) && table.has("ca_file") {
        table.fault("ca_file", "is of no use without TLS; write the url as rediss://", f);
    }
    table.duration("max_stale", MINUTE, f);
    table.bool("local_logins", false, f);
    table.finish(f);
}

/// Whether it is one with TLS.
fn redis_url(text: &str) -> Result<bool, String> {
    let url = values::url(text, &[("redis", false, 6379), ("rediss", true, 6379)])?;
    let is_database = url.rest.is_empty() || url.rest.parse::<u16>().is_ok();
    if is_database {
        Ok(url.scheme)
    } else {
        Err(format!("\"{text}\" names no database; write it as redis://host:6379/0"))
    }
}

fn nodes_of_a_master(mut table: Table, f: &mut Findings) {
    let master = table.text("master", f);
    table.required("master", master, f);
    nodes(&mut table, "nodes", f);
    if !table.has("nodes") {
        table.fault("nodes", "is missing", f);
    }
    table.finish(f);
}

fn nodes(table: &mut Table, name: &str, f: &mut Findings) {
    table.refuse_empty(name, "name at least one \"host:port\"", f);
    table.parsed_list(name, f, values::node);
}
