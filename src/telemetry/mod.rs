//! What is written about requests and about the program itself: the access log, the audit log, the operational
//! log, counters, traces. Decides nothing; no line ever holds a token, a key or a password, since none of them is handed in.

pub mod access_log;
pub mod audit;
pub mod exchange;
pub mod histogram;
pub mod ids;
pub mod json;
pub mod label;
pub mod log;
pub mod metrics;
pub mod output;
mod spans;
pub mod trace;
pub mod traces;

/// `[log]`
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    pub level: tracing::Level,
    /// Of the operational and audit log; access lines are always JSON (contract section 7).
    pub format: LogFormat,
    pub access: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Text,
}

/// `[telemetry]`: where traces go, and how many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// A collector that speaks OTLP over gRPC: `http://host:port`, or `https://host:port`, whose certificate the
    /// system's roots must vouch for.
    pub endpoint: String,
    pub sample_ratio: SampleRatio,
}

/// Which part of the traces that begin here is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleRatio {
    /// Of 2^63.
    admitted: u64,
}

impl SampleRatio {
    pub const ALL: Self = Self { admitted: 1 << 63 };

    /// None: it is not from 0 to 1.
    #[must_use]
    pub fn of(ratio: f64) -> Option<Self> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 0 to 2^63, and rounded"
        )]
        let admitted = |ratio: f64| (ratio * (1u64 << 63) as f64) as u64;
        (0.0..=1.0).contains(&ratio).then(|| Self { admitted: admitted(ratio) })
    }

    /// By the trace's id, as OpenTelemetry's own `TraceIdRatioBased` does: whoever samples the same trace at the same
    /// ratio decides alike.
    #[must_use]
    pub fn admits(self, trace: u128) -> bool {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is what is random in every id")]
        let low = trace as u64;
        low >> 1 < self.admitted
    }
}
