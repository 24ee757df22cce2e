//! The end of the program: no new traffic, what is in flight waited for, the last lines written.

use std::thread::JoinHandle;
use std::time::Duration;

use super::notify;
use super::orders::Signals;
use crate::drain::Drain;
use crate::server::Limits;
use crate::telemetry::access_log::Writer;

/// How long the end waits for what cannot be cut off, after the drain.
pub(super) const LAST_WORK: Duration = Duration::from_secs(1);

/// How long it waits for workers and for the access log to be written.
const LAST_LINES: Duration = Duration::from_secs(5);

/// How long the end waits for the collector of traces.
pub(super) const LAST_TRACES: Duration = Duration::from_secs(2);

/// Waits for what is in flight, at most `drain_timeout`, and not when SIGINT comes once more; what is left is cut off, and
/// has its access lines all the same.
pub(super) async fn finish(
    drain: &Drain,
    limits: &Limits,
    signals: &mut Signals,
    (writer, workers): (Writer, Vec<JoinHandle<()>>),
) {
    tracing::info!("draining");
    notify(&[sd_notify::NotifyState::Stopping]);
    drain.announce();
    let draining = async {
        tokio::time::sleep(limits.drain_delay).await;
        drain.start();
        tokio::time::timeout(limits.drain_timeout, drain.finished()).await
    };
    let why = tokio::select! {
        drained = draining => drained.err().map(|_| "the drain took too long"),
        () = signals.again() => Some("asked to end at once"),
    };
    if let Some(why) = why {
        tracing::warn!(in_flight = drain.in_flight(), "{why}; what is in flight is cut off");
        drain.cut();
    }
    // With the last worker goes the last line buffer, and the writer ends.
    let ended = tokio::task::spawn_blocking(move || {
        let joined = workers.into_iter().map(JoinHandle::join).filter(Result::is_err).count();
        writer.finish();
        joined
    });
    match tokio::time::timeout(LAST_LINES, ended).await {
        Ok(Ok(0)) => {}
        Ok(_) => tracing::error!("a worker ended by a panic"),
        Err(_) => {
            tracing::warn!("nobody reads the access log on standard output; what is left of it is lost")
        }
    }
}
