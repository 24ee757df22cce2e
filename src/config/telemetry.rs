//! `[telemetry]`.

use super::findings::Findings;
use super::table::Table;
use super::tree::{Node, Value};
use super::values::{self, Url};
use crate::telemetry::{SampleRatio, TraceSettings};

/// None: nothing is recorded.
pub(super) fn telemetry(mut table: Table, f: &mut Findings) -> Option<TraceSettings> {
    let endpoint = table.parsed("otlp_endpoint", f, |text| values::http_url(text).map(|url| written(&url)));
    let sample_ratio = ratio(&mut table, f);
    if table.has("sample_ratio") && !table.has("otlp_endpoint") {
        table.fault("sample_ratio", "is of no use without otlp_endpoint; name the collector", f);
    }
    table.finish(f);
    Some(TraceSettings { endpoint: endpoint?, sample_ratio })
}

/// With its port, whichever way it was written.
fn written(url: &Url<bool>) -> String {
    let scheme = if url.scheme { "https" } else { "http" };
    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
    format!("{scheme}://{host}:{}", url.port)
}

fn ratio(table: &mut Table, f: &mut Findings) -> SampleRatio {
    let Some(Node { value, .. }) = table.take("sample_ratio") else { return SampleRatio::ALL };
    let number = match &value {
        Value::Float(number) => Some(*number),
        Value::Integer(0) => Some(0.0),
        Value::Integer(1) => Some(1.0),
        Value::Raw(text) => text.parse().ok(),
        _ => None,
    };
    number.and_then(SampleRatio::of).unwrap_or_else(|| {
        table.fault("sample_ratio", "must be a number from 0.0, no trace, to 1.0, every one", f);
        SampleRatio::ALL
    })
}
