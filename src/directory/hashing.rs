//! Password hashing is slow on purpose: it is done on threads of its own, and no more of it waits than they get done
//! in a few seconds. The rest is refused at once, so that a login storm stalls no call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::oneshot;
use tower::limit::ConcurrencyLimit;
use tower::load_shed::LoadShed;
use tower::{Service, ServiceBuilder, ServiceExt};

use super::Refusal;
use super::pace::{self, Pace};

/// Hashes that may be under way or waiting.
const MAX_WAITING: usize = 128;

/// One password to be compared.
type Job = Box<dyn FnOnce() -> bool + Send>;

/// The threads, behind a limit that sheds what is too much. Shared by all worker threads.
pub struct Hashing {
    limited: LoadShed<ConcurrencyLimit<Pool>>,
}

#[derive(Clone)]
struct Pool {
    jobs: Sender<(Job, oneshot::Sender<bool>)>,
}

impl Hashing {
    /// Starts half as many threads as there are cores, and at least one: the other half serves requests.
    pub fn start() -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::start_with((cores / 2).max(1), MAX_WAITING)
    }

    fn start_with(threads: usize, waiting: usize) -> std::io::Result<Self> {
        let (jobs, received) = channel();
        let (received, pace) = (Arc::new(Mutex::new(received)), Arc::new(Pace::start()?));
        for n in 0..threads {
            let (received, pace) = (Arc::clone(&received), Arc::clone(&pace));
            std::thread::Builder::new().name(format!("hashing-{n}")).spawn(move || work(&received, &pace))?;
        }
        let limited = ServiceBuilder::new().load_shed().concurrency_limit(waiting).service(Pool { jobs });
        Ok(Self { limited })
    }

    /// Runs `compare` on a hashing thread.
    ///
    /// # Errors
    /// [`Refusal::Overloaded`] when too much waits.
    pub async fn run(&self, compare: impl FnOnce() -> bool + Send + 'static) -> Result<bool, Refusal> {
        let answer = self.limited.clone().oneshot(Box::new(compare));
        // A task of its own, so that a client that goes away does not free its place before its hash is done.
        match tokio::spawn(answer).await {
            Ok(Ok(good)) => Ok(good),
            Ok(Err(_)) | Err(_) => Err(Refusal::Overloaded),
        }
    }
}

fn work(received: &Mutex<Receiver<(Job, oneshot::Sender<bool>)>>, pace: &Pace) {
    pace::gives_way();
    loop {
        let next = received.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((job, answer)) = next else { return };
        // A hash that panics proves nothing, and the next one finds its thread. Whoever asked may have gone.
        let good = pace.during(|| catch_unwind(AssertUnwindSafe(job)).unwrap_or(false));
        let _: Result<(), _> = answer.send(good);
    }
}

impl Service<Job> for Pool {
    type Response = bool;
    type Error = oneshot::error::RecvError;
    type Future = Pin<Box<dyn Future<Output = Result<bool, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, job: Job) -> Self::Future {
        let (answer, answered) = oneshot::channel();
        // Should the threads be gone, the answer's sender is dropped with the job, and the receiver tells.
        let _: Result<(), _> = self.jobs.send((job, answer));
        Box::pin(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_that_panics_is_no_proof_and_leaves_its_thread() {
        let hashing = Hashing::start_with(1, 2).unwrap();
        assert_eq!(hashing.run(|| panic!("as asked")).await, Ok(false));
        assert_eq!(hashing.run(|| true).await, Ok(true));
    }

    #[tokio::test]
    async fn past_the_limit_jobs_are_shed_and_places_are_kept_until_the_work_is_done() {
        let hashing = Arc::new(Hashing::start_with(1, 2).unwrap());
        let spawn = |job: Job| {
            let hashing = Arc::clone(&hashing);
            tokio::spawn(async move { hashing.run(job).await })
        };
        let (go, wait) = channel::<()>();
        let (started, has_started) = oneshot::channel();
        let first = spawn(Box::new(move || started.send(()).is_ok() && wait.recv().is_ok()));
        has_started.await.unwrap();
        let second = spawn(Box::new(|| false));
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.unwrap_err().is_cancelled());
        assert_eq!(hashing.run(|| true).await, Err(Refusal::Overloaded), "who went away keeps his place");
        go.send(()).unwrap();
        assert_eq!(first.await.unwrap(), Ok(true));
    }
}
