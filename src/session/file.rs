//! The durable store in one file: SQLite.
//!
//! Why SQLite: an acknowledged login must survive `kill -9` and power loss, sessions live 100 days, and operators can
//! look into it, copy it and repair it with tools they have. WAL with `synchronous=FULL` makes each commit durable; one
//! writer thread puts all that waits into one transaction, so that a login storm costs few flushes.
//!
//! Holds hashes of keys and tokens only. Needs a local disk (WAL). One process at a time: a second one is told so.

use rusqlite::{Connection, Transaction, params};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

use super::SessionRecord;
use super::store::{Pending, Store, StoreError};
use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

/// "post": tells a session file from any other SQLite file.
const APPLICATION_ID: i32 = 0x706f_7374;
const SCHEMA_VERSION: i32 = 1;
const SCHEMA: &str = "
    CREATE TABLE sessions (
        id BLOB PRIMARY KEY, token BLOB NOT NULL, user TEXT NOT NULL, role TEXT NOT NULL, created INTEGER NOT NULL,
        expires INTEGER NOT NULL, client TEXT NOT NULL, last_used INTEGER NOT NULL
    ) WITHOUT ROWID, STRICT;
    CREATE INDEX sessions_by_expiry ON sessions (expires);";
/// Changes in one transaction at most.
const BATCH: usize = 1024;

/// See the module.
pub struct FileStore {
    work: Option<Sender<Work>>,
    writer: Option<JoinHandle<()>>,
    /// Holds the lock while it lives; the operating system gives it back should the process die.
    _lock: File,
}

enum Work {
    Load(UnixMillis, oneshot::Sender<Result<Vec<SessionRecord>, StoreError>>),
    Change(Change, oneshot::Sender<Result<(), StoreError>>),
}

enum Change {
    Put(SessionRecord),
    Remove(Vec<KeyHash>),
}

impl FileStore {
    /// Opens the file, or makes it with access for its owner alone.
    ///
    /// # Errors
    /// The file is used by another process, is damaged, is something else, or cannot be written.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?;
        let connection = connect(path).map_err(|error| failed(&format!("{}: {error}", path.display())))?;
        check(&connection, path)?;
        let (work, received) = channel();
        let writer = std::thread::Builder::new()
            .name("session-store".into())
            .spawn(move || write_all(connection, &received))
            .map_err(|error| failed(&error))?;
        Ok(Self { work: Some(work), writer: Some(writer), _lock: lock })
    }

    fn change(&self, change: Change) -> Pending<'_, ()> {
        let (answer, answered) = oneshot::channel();
        self.ask(Work::Change(change, answer), answered)
    }

    fn ask<T: Send + 'static>(
        &self,
        work: Work,
        answered: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Pending<'_, T> {
        let sent = self.work.as_ref().is_some_and(|sender| sender.send(work).is_ok());
        Box::pin(async move {
            if !sent {
                return Err(failed(&"its writer has ended"));
            }
            answered.await.unwrap_or_else(|_| Err(failed(&"its writer has ended")))
        })
    }
}

impl Store for FileStore {
    fn load(&self, now: UnixMillis) -> Pending<'_, Vec<SessionRecord>> {
        let (answer, answered) = oneshot::channel();
        self.ask(Work::Load(now, answer), answered)
    }

    fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.change(Change::Put(record))
    }

    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
        self.change(Change::Remove(ids))
    }

    fn name(&self) -> &'static str {
        "file"
    }
}

impl Drop for FileStore {
    /// Waits for what was handed over.
    fn drop(&mut self) {
        self.work = None;
        if self.writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the session store's writer ended by a panic");
        }
    }
}

fn failed(what: &dyn std::fmt::Display) -> StoreError {
    StoreError { store: "file", what: what.to_string() }
}

/// A file beside the store, since locking the store's own file would disturb SQLite's locks.
fn lock(path: &Path) -> Result<File, StoreError> {
    let name = beside(path, ".lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&name);
    let file = file.map_err(|error| failed(&format!("{}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(failed(&format!("{}: the sessions file is used by another process", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(failed(&format!("{}: {error}", name.display()))),
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    // Made here, so that it is its owner's alone from its first byte; SQLite gives its side files the same mode.
    let made = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    made.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "cache_size", -8192)?;
    Ok(connection)
}

/// A damaged file, or a foreign one, is refused and left as it is.
fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let told = |what: &str| failed(&format!("{}: {what}", path.display()));
    let broken = |error: rusqlite::Error| told(&error.to_string());
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    let sound: String =
        connection.pragma_query_value(None, "quick_check", |row| row.get(0)).map_err(broken)?;
    if sound != "ok" {
        return Err(told(&format!(
            "the sessions file is damaged ({sound}); set it aside or repair it with sqlite3 .recover"
        )));
    }
    match (number("application_id").map_err(broken)?, number("user_version").map_err(broken)?) {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(()),
        (APPLICATION_ID, version) => {
            Err(told(&format!("the sessions file is of version {version}, which this program does not know")))
        }
        (0, 0) => make_schema(connection).map_err(broken),
        _ => Err(told("this is no sessions file")),
    }
}

fn make_schema(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
    ))
}

fn write_all(mut connection: Connection, received: &Receiver<Work>) {
    while let Ok(first) = received.recv() {
        let mut changes = Vec::new();
        for work in std::iter::once(first).chain(received.try_iter()).take(BATCH) {
            match work {
                Work::Load(now, answer) => {
                    // Whoever asked may have gone.
                    let _: Result<(), _> =
                        answer.send(load(&connection, now).map_err(|error| failed(&error)));
                }
                Work::Change(change, answer) => changes.push((change, answer)),
            }
        }
        let done =
            commit(&mut connection, changes.iter().map(|(change, _)| change)).map_err(|error| failed(&error));
        if let Err(error) = &done {
            tracing::error!(%error, "logins and logouts are not stored");
        }
        for (_, answer) in changes {
            let _: Result<(), _> = answer.send(done.clone());
        }
    }
}

/// All changes in one transaction: they are durable together, or none is.
fn commit<'a>(
    connection: &mut Connection,
    changes: impl Iterator<Item = &'a Change>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    changes.into_iter().try_for_each(|change| apply(&transaction, change))?;
    transaction.commit()
}

fn apply(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Put(r) => {
            let mut put = transaction.prepare_cached(
                "INSERT OR REPLACE INTO sessions (id, token, user, role, created, expires, client, last_used)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?;
            put.execute(params![
                r.id.as_bytes(),
                r.token.as_bytes(),
                r.user.as_str(),
                r.role.as_str(),
                millis(r.created),
                millis(r.expires),
                r.client.to_string(),
                millis(r.last_used),
            ])?;
        }
        Change::Remove(ids) => {
            let mut remove = transaction.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
            for id in ids {
                remove.execute(params![id.as_bytes()])?;
            }
        }
    }
    Ok(())
}

fn load(connection: &Connection, now: UnixMillis) -> rusqlite::Result<Vec<SessionRecord>> {
    connection.execute("DELETE FROM sessions WHERE expires <= ?1", params![millis(now)])?;
    let mut all = connection.prepare(
        "SELECT id, token, user, role, created, expires, client, last_used FROM sessions ORDER BY expires",
    )?;
    let rows = all.query_map([], |row| {
        let at = |column| row.get::<_, i64>(column).map(|n| UnixMillis(u64::try_from(n).unwrap_or(0)));
        let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
        Ok(SessionRecord {
            id: KeyHash::from_bytes(row.get(0)?),
            token: TokenHash::from_bytes(row.get(1)?),
            user: UserName::new(text(2)?),
            role: RoleName::new(text(3)?),
            created: at(4)?,
            expires: at(5)?,
            client: text(6)?.parse().unwrap_or(std::net::IpAddr::from([0, 0, 0, 0])),
            last_used: at(7)?,
        })
    })?;
    rows.collect()
}

fn millis(at: UnixMillis) -> i64 {
    i64::try_from(at.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::store::contract::{keeps, record};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let folder = folder();
        let path = folder.path().join("sessions.db");
        keeps(|| FileStore::open(&path).unwrap(), true).await;
    }

    #[tokio::test]
    async fn what_was_answered_is_in_the_file_without_closing_it() {
        let folder = folder();
        let (path, copy) = (folder.path().join("a.db"), folder.path().join("b.db"));
        let store = FileStore::open(&path).unwrap();
        let puts: Vec<_> = (0..50).map(|n| store.put(record(&n.to_string(), 100 + n))).collect();
        for put in puts {
            put.await.unwrap();
        }
        for ending in ["", "-wal"] {
            std::fs::copy(beside(&path, ending), beside(&copy, ending)).unwrap();
        }
        let kept = FileStore::open(&copy).unwrap().load(UnixMillis(0)).await.unwrap();
        assert_eq!(kept.len(), 50);
    }

    #[test]
    fn files_are_their_owners_alone_and_used_by_one_process() {
        let folder = folder();
        let path = folder.path().join("sessions.db");
        let store = FileStore::open(&path).unwrap();
        for ending in ["", "-wal", "-shm", ".lock"] {
            let mode = std::fs::metadata(beside(&path, ending)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{ending}");
        }
        let second = FileStore::open(&path).err().unwrap().to_string();
        assert!(second.contains("used by another process") && second.contains("sessions.db"), "{second}");
        drop(store);
        assert!(FileStore::open(&path).is_ok());
    }

    #[test]
    fn a_damaged_or_foreign_file_is_refused_and_left_as_it_is() {
        let folder = folder();
        let path = folder.path().join("sessions.db");
        let text = "this is no database, but someone's notes".repeat(40);
        std::fs::write(&path, &text).unwrap();
        assert!(FileStore::open(&path).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        let other = folder.path().join("other.db");
        Connection::open(&other)
            .unwrap()
            .execute_batch("PRAGMA application_id = 7; CREATE TABLE a (b);")
            .unwrap();
        assert!(FileStore::open(&other).err().unwrap().to_string().contains("no sessions file"));
        assert!(FileStore::open(&folder.path().join("missing/sessions.db")).is_err());
    }
}
