//! Waiting for what will come, with a bound, instead of sleeping and hoping.

use std::future::Future;
use std::time::Duration;

/// How long anything is waited for before the test fails: far longer than it takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

const STEP: Duration = Duration::from_millis(10);

/// The future's output; fails the test, naming what was awaited, when it does not come.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}

/// Polls until the closure has a value.
pub async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(value) = ready() {
                return value;
            }
            tokio::time::sleep(STEP).await;
        }
    })
    .await
}

/// Polls until the async closure answers true.
pub async fn until_async<F: Future<Output = bool>>(what: &str, mut ready: impl FnMut() -> F) {
    within(what, async {
        while !ready().await {
            tokio::time::sleep(STEP).await;
        }
    })
    .await;
}
