//! `directory.webitel` and `[sessions.adopt]`: an existing engine, and what is asked of it.

use std::time::Duration;

use super::files;
use super::findings::Findings;
use super::table::Table;
use super::values;
use crate::engine::EngineSettings;
use crate::session::adopter::AdoptSettings;
use crate::trust;

/// `directory.webitel`
pub(super) fn webitel(mut table: Table, f: &mut Findings) -> Option<EngineSettings> {
    let engine = engine(&mut table, f);
    table.finish(f);
    engine
}

/// `[sessions.adopt]`
pub(super) fn adopt(mut table: Table, f: &mut Findings) -> Option<AdoptSettings> {
    let engine = engine(&mut table, f);
    let revalidate = table.duration("revalidate", Duration::from_secs(60), f);
    let by_role = table.word("rights", &[("whoami", false), ("roles", true)], f).unwrap_or(false);
    let negative_ttl = table.duration("negative_ttl", Duration::from_secs(10), f);
    let max_lookups_per_second = table.number("max_lookups_per_second", 50u32, 1, f);
    table.finish(f);
    Some(AdoptSettings { engine: engine?, revalidate, by_role, negative_ttl, max_lookups_per_second })
}

fn engine(table: &mut Table, f: &mut Findings) -> Option<EngineSettings> {
    let url = table.parsed("url", f, values::http_url);
    let url = table.required("url", url, f);
    let ca = files::certificates(table, "ca_file", f);
    let url = url?;
    if ca.is_some() && !url.scheme {
        table.fault("ca_file", "is of no use without TLS; write the url as https://", f);
    }
    if url.scheme
        && (ca.is_some() || !table.has("ca_file"))
        && let Err(fault) = trust::client(ca.as_deref())
    {
        table.fault("ca_file", fault.to_string(), f);
    }
    Some(EngineSettings { is_https: url.scheme, host: url.host, port: url.port, ca })
}
