//! What the operator's calls act on: the running configuration, the sessions, and the two things that only the program
//! itself can do, a reload and a drain. Handed over once everything has started; until then calls are told to wait.

use http::StatusCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, mpsc, oneshot};

use super::frame::Refusal;
use crate::clock::Clock;
use crate::engine::EngineCounts;
use crate::gateway::live::LiveCell;
use crate::server::counts::ServerCounts;
use crate::session::engine_logout::EngineLogouts;
use crate::session::map::Sessions;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::traces::SpanCounts;

pub struct Control {
    pub live: Arc<LiveCell>,
    pub sessions: Arc<Sessions>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub server: ServerCounts,
    pub engine: Arc<EngineCounts>,
    pub engine_logouts: Arc<EngineLogouts>,
    /// Access lines lost so far.
    pub lines_dropped: Arc<AtomicU64>,
    pub spans: SpanCounts,
    pub reloads: mpsc::Sender<ReloadRequest>,
    pub drain: Arc<Notify>,
}

/// A configuration was put in place.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Reloaded {
    pub generation: u64,
    /// What has changed and acts only at the next start, and what `check` would warn of.
    pub warnings: Vec<String>,
}

/// Every fault of a configuration that was refused; the running one stays.
pub type Faults = Vec<String>;

/// Whoever carries it out answers.
pub type ReloadRequest = oneshot::Sender<Result<Reloaded, Faults>>;

impl Control {
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        self.lines_dropped.load(Ordering::Relaxed)
    }
}

/// The control, once there is one. Clones are the same.
#[derive(Clone, Default)]
pub struct ControlCell(Arc<OnceLock<Control>>);

impl ControlCell {
    /// Once, when everything has started.
    pub fn set(&self, control: Control) {
        let _: Result<(), _> = self.0.set(control);
    }

    /// # Errors
    /// 503 while the gateway starts.
    pub fn get(&self) -> Result<&Control, Refusal> {
        self.0.get().ok_or_else(|| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The gateway is starting"))
    }
}
