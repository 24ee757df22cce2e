//! The operational log, on standard error.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::{LogFormat, LogSettings, audit};

/// Sends what the program says to standard error from here on. A second call has no effect.
pub fn start(settings: &LogSettings) {
    let wanted = Targets::new().with_default(settings.level).with_target(audit::TARGET, tracing::Level::INFO);
    let layer = fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    let layer = match settings.format {
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).boxed(),
        LogFormat::Text => layer.boxed(),
    };
    // Only tests start twice in one process.
    let _: Result<(), _> = tracing_subscriber::registry().with(layer.with_filter(wanted)).try_init();
}
