//! What is written about requests and about the program itself: the access log, the audit log, the operational
//! log, counters. Decides nothing; no line ever holds a token, a key or a password, since none of them is handed in.

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
