//! The one thread that writes the sessions file. All that waits goes into one transaction; nobody is answered
//! before it is on the disk.

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

use super::SessionRecord;
use super::file::{Unfit, fault};
use super::file_place::{Place, Whereabouts};
use super::file_rows as rows;
use super::store::{Barred, StoreError};
use super::token::DomainToken;
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// The largest number of changes in one transaction: bounds how long the first of them waits.
const BATCH: usize = 1024;

/// How long whoever asked waits for a disk that takes its time: a client would give up, and send the same again.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often it is looked whether the file is still there, while nothing is written.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// One change of the file.
pub(super) enum Write {
    Put(SessionRecord),
    Remove(Vec<KeyHash>),
    Bar(Vec<Barred>),
    RemoveExpired(UnixMillis),
    PutToken(DomainToken),
    RemoveToken(String),
    /// That the file is looked after once more.
    Nothing,
}

impl Write {
    /// At the start all that has expired is one change, and nobody waits for an answer yet.
    fn patience(&self) -> Duration {
        match self {
            Self::RemoveExpired(_) => Duration::MAX,
            Self::Put(_)
            | Self::Remove(_)
            | Self::Bar(_)
            | Self::PutToken(_)
            | Self::RemoveToken(_)
            | Self::Nothing => PATIENCE,
        }
    }
}

/// Sends changes to the thread. Dropping it waits until all of them are carried out.
pub(super) struct Writer {
    path: PathBuf,
    /// None only while it is dropped.
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Somebody was not waited for any longer.
    is_slow: Arc<AtomicBool>,
    #[cfg(test)]
    commits: Arc<AtomicU64>,
}

struct Job {
    write: Write,
    answer: oneshot::Sender<Result<(), StoreError>>,
}

impl Writer {
    pub(super) fn start(connection: Connection, path: &Path, lock: File) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let is_slow = Arc::<AtomicBool>::default();
        let slow = Arc::clone(&is_slow);
        let place = Place::of(path, lock);
        let mut work = Work { connection, place, is_taken: false, is_slow: slow, commits: Arc::default() };
        #[cfg(test)]
        let commits = Arc::clone(&work.commits);
        let thread =
            std::thread::Builder::new().name("sessions-file".into()).spawn(move || work.run(&queue))?;
        Ok(Self {
            path: path.to_owned(),
            jobs: Some(jobs),
            thread: Some(thread),
            is_slow,
            #[cfg(test)]
            commits,
        })
    }

    /// Asks for a change. It takes its place in the order of changes now, whether or not the future is polled. An error
    /// after [`PATIENCE`] leaves open whether it is carried out.
    pub(super) fn ask(&self, write: Write) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let (patience, is_slow) = (write.patience(), Arc::clone(&self.is_slow));
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job { write, answer }).is_ok());
        let path = self.path.clone();
        async move {
            let stopped = || fault(&path, "its writer has stopped");
            if !sent {
                return Err(stopped());
            }
            let Ok(answer) = tokio::time::timeout(patience, answered).await else {
                tell_slow(&path, &is_slow);
                return Err(fault(&path, "its disk takes too long"));
            };
            answer.unwrap_or_else(|_| Err(stopped()))
        }
    }

    /// How many transactions there were.
    #[cfg(test)]
    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // An error is a panic there, which has been printed.
            let _ = thread.join();
        }
    }
}

/// What an operator can do; none of it needs a restart unless it says so.
fn remedy(error: &Unfit) -> &'static str {
    let code = match error {
        Unfit::Sql(error) => error.sqlite_error_code(),
        Unfit::Io(_) => Some(ErrorCode::CannotOpen),
        Unfit::Replaced => {
            return "take the other file away, and this postern writes its own again; or restart, to go on with the other";
        }
        Unfit::Used => {
            return "end the other one: both are given out sessions, and neither hears of the other's";
        }
        Unfit::Journal(_) | Unfit::Damaged(_) | Unfit::Foreign | Unfit::Newer(_) => None,
    };
    match code {
        Some(ErrorCode::DiskFull) => "make room on its file system",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "let the gateway's user write the file and its folder"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "end the other program that has the file locked, an sqlite3 in a transaction perhaps"
        }
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "restart the gateway: it keeps the damaged file under another name and begins a new one"
        }
        _ => "look after the disk: its space, its quota, the system's log",
    }
}

/// Once until the disk is itself again.
fn tell_slow(path: &Path, is_slow: &AtomicBool) {
    if !is_slow.swap(true, Ordering::Relaxed) {
        tracing::error!(
            file = %path.display(), to_do = "look after the disk: what else writes to it, and the system's log",
            "the sessions file takes too long to be written: logins and logouts are answered 503 until it does not"
        );
    }
}

struct Work {
    // Before the lock in `place`: fields are dropped in this order, and the file must be left before it is free.
    connection: Connection,
    place: Place,
    /// Another file has the name, and this one's log was taken from beside it.
    is_taken: bool,
    is_slow: Arc<AtomicBool>,
    commits: Arc<AtomicU64>,
}

impl Work {
    fn run(&mut self, queue: &mpsc::Receiver<Job>) {
        let mut works = true;
        loop {
            let batch: Vec<Job> = match queue.recv_timeout(LOOK_EVERY) {
                Ok(first) => std::iter::once(first).chain(queue.try_iter().take(BATCH - 1)).collect(),
                Err(mpsc::RecvTimeoutError::Timeout) => Vec::new(),
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    let seen_to = self.see_to_the_file();
                    return self.tell(works, seen_to.as_ref().err());
                }
            };
            let seen_to = self.see_to_the_file();
            if batch.is_empty() && (seen_to.is_ok() || !works) {
                // That it can be written is told by writing.
                continue;
            }
            let result = seen_to.and_then(|()| self.commit(&batch));
            self.tell(works, result.as_ref().err());
            works = result.is_ok();
            if works && self.is_slow.swap(false, Ordering::Relaxed) {
                tracing::info!(file = %self.place.path().display(), "the sessions file has been written");
            }
            let result = result.map_err(|e| e.to_string());
            for job in batch {
                // Whoever asked may have gone away; the change is carried out all the same.
                let _ = job.answer.send(result.clone().map_err(|what| fault(self.place.path(), &what)));
            }
        }
    }

    /// Nothing is answered as stored that would be gone at the next start.
    fn see_to_the_file(&mut self) -> Result<(), Unfit> {
        self.place.keep_lock()?;
        let whereabouts = self.place.look();
        let file = self.place.path().display().to_string();
        match whereabouts {
            Whereabouts::Gone => {
                self.place.restore(&mut self.connection)?;
                tracing::warn!(
                    file,
                    "the sessions file was removed while it was in use; it was written again"
                );
            }
            Whereabouts::Taken => {
                if !self.is_taken {
                    self.place.let_go(&self.connection)?;
                    self.is_taken = true;
                }
                return Err(Unfit::Replaced);
            }
            Whereabouts::Unlinked => {
                self.place.link()?;
                tracing::warn!(file, "the symlink to the sessions file was removed; it was made again");
            }
            Whereabouts::Here => {}
        }
        self.is_taken = false;
        Ok(())
    }

    /// Once when it begins to fail and once when it works again, not for each login.
    fn tell(&self, worked: bool, error: Option<&Unfit>) {
        let file = self.place.path().display();
        match error {
            Some(error) if worked => tracing::error!(
                %file, %error, to_do = remedy(error),
                "the sessions file cannot be written: logins and logouts are answered 503 until it can"
            ),
            None if !worked => tracing::info!(%file, "the sessions file can be written again"),
            _ => {}
        }
    }

    /// All or nothing: a transaction that is dropped is rolled back.
    fn commit(&mut self, batch: &[Job]) -> Result<(), Unfit> {
        if batch.iter().all(|job| matches!(job.write, Write::Nothing)) {
            return Ok(());
        }
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        for job in batch {
            match &job.write {
                Write::Put(record) => rows::put(&transaction, record)?,
                Write::Remove(ids) => rows::remove(&transaction, ids)?,
                Write::Bar(ended) => rows::bar(&transaction, ended)?,
                Write::RemoveExpired(now) => rows::remove_expired(&transaction, *now)?,
                Write::PutToken(token) => rows::put_token(&transaction, token)?,
                Write::RemoveToken(id) => rows::remove_token(&transaction, id)?,
                Write::Nothing => {}
            }
        }
        transaction.commit()?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}
