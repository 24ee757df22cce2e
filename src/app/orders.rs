//! What the running program is told: by signals, by files that change, by an operator.

use std::io;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};

use super::notify;
use super::reload::{Reloader, Trigger};
use super::watch::FileWatch;
use crate::admin::control::ReloadRequest;
use crate::telemetry::output;

/// What the system tells the program (contract section 1).
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
    usr1: Signal,
}

impl Signals {
    /// From here on none of them kills the program.
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
            usr1: signal(SignalKind::user_defined1())?,
        })
    }

    /// The program is to end.
    pub(super) async fn end(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }

    /// Somebody at a terminal does not want to wait any longer. SIGTERM says no such thing: what runs before a
    /// container's end may send it as well as the end itself.
    pub(super) async fn again(&mut self) {
        self.int.recv().await;
    }
}

/// What operators tell it while it runs.
pub(super) struct Orders {
    files: FileWatch,
    reloads: mpsc::Receiver<ReloadRequest>,
    drain: Arc<Notify>,
}

impl Orders {
    pub(super) fn new(files: FileWatch) -> (Self, mpsc::Sender<ReloadRequest>, Arc<Notify>) {
        let (ask, reloads) = mpsc::channel(16);
        let drain = Arc::new(Notify::new());
        (Self { files, reloads, drain: Arc::clone(&drain) }, ask, drain)
    }

    /// One after the other; returns when the program is to end.
    pub(super) async fn obey_until_the_end(&mut self, signals: &mut Signals, reloader: &Reloader) {
        loop {
            let (trigger, asked) = tokio::select! {
                _ = signals.term.recv() => return,
                _ = signals.int.recv() => return,
                () = self.drain.notified() => return,
                _ = signals.usr1.recv() => {
                    reopen_logs();
                    continue;
                }
                _ = signals.hup.recv() => (Trigger::Signal, None),
                () = self.files.changed() => (Trigger::Files, None),
                Some(request) = self.reloads.recv() => (Trigger::Operator, Some(request)),
            };
            if let Ok(now) = sd_notify::NotifyState::monotonic_usec_now() {
                notify(&[sd_notify::NotifyState::Reloading, now]);
            }
            // A file that does not answer keeps the program neither from ending nor from other log files.
            let mut reload = std::pin::pin!(reloader.reload(trigger));
            let (outcome, files) = loop {
                tokio::select! {
                    reloaded = &mut reload => break reloaded,
                    _ = signals.usr1.recv() => reopen_logs(),
                    _ = signals.term.recv() => return,
                    _ = signals.int.recv() => return,
                    () = self.drain.notified() => return,
                }
            };
            self.files.look_at(files);
            notify(&[sd_notify::NotifyState::Ready]);
            if let Some(asked) = asked {
                // Whoever asked may have gone away.
                let _: Result<(), _> = asked.send(outcome);
            }
        }
    }
}

/// Beside all else: a log that nobody reads is not exchanged before its reader goes on.
fn reopen_logs() {
    tokio::task::spawn_blocking(reopen_all);
}

fn reopen_all() {
    for (name, out) in [("standard output", output::stdout()), ("standard error", output::stderr())] {
        if let Err(error) = out.reopen() {
            tracing::error!(%error, "{name}'s file cannot be opened again; the old one is used");
        }
    }
    tracing::info!("log files were opened again");
}
