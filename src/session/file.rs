//! The durable store of one gateway: an SQLite file.
//!
//! Why SQLite: what it answered survives `kill -9` and power loss (WAL, `synchronous=FULL`), a damaged file is
//! refused and never opened as an empty one, a million rows load in a fraction of a second, and an operator
//! can look into the file, copy it (`VACUUM INTO`) and repair it with tools he has. Of the others redb is one
//! process only, young, and was seen to open a damaged file as an empty one; fjall reads its logs at start.
//!
//! One thread writes. It takes all that waits into one transaction (group commit), so a hundred logins at once
//! cost one sync of the disk. The file belongs to one process at a time: a second gateway would keep serving
//! sessions that the first has ended. A lock on `FILE.lock` says so and dies with its holder.

use rusqlite::{Connection, OpenFlags, Row, params};
use std::fs::{File, OpenOptions, TryLockError};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SessionRecord;
use super::file_writer::{Write, Writer};
use super::store::{Each, Pending, Store, StoreError};
use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

pub(super) const NAME: &str = "file";

/// `PRAGMA user_version` of the tables below.
const VERSION: i64 = 1;

/// `PRAGMA application_id`: "Post" in ASCII, so that another program's file is not taken for ours.
const APPLICATION: i64 = 0x506f_7374;

/// How long a statement waits for another process on the file (`token mint`, an operator's `sqlite3`).
const BUSY: Duration = Duration::from_secs(5);

const TABLES: &str = "
    CREATE TABLE sessions (
        id        BLOB NOT NULL PRIMARY KEY,  -- SHA-256 of the key
        token     BLOB NOT NULL,              -- SHA-256 of the token
        user      TEXT NOT NULL,
        role      TEXT NOT NULL,
        created   INTEGER NOT NULL,           -- all times in ms since 1970
        expires   INTEGER NOT NULL,
        last_used INTEGER NOT NULL,
        client    BLOB NOT NULL               -- 4 or 16 bytes
    ) STRICT, WITHOUT ROWID;";

/// Sessions in an SQLite file. Closing it (drop) waits until all that was asked is written.
pub(super) struct FileStore {
    path: PathBuf,
    // Before the lock: fields are dropped in this order, and the file must be left before it is free.
    writer: Writer,
    _lock: File,
}

impl FileStore {
    /// Opens the file, or makes it, readable to its owner only. Fails, naming the file, when its folder is
    /// missing, when another process has it, and when it is damaged or not a sessions file.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |what: String| fault(path, &what);
        let lock = lock(path)?;
        create_private(path).map_err(|e| failed(e.to_string()))?;
        let mut connection = connect(path).map_err(|e| failed(e.to_string()))?;
        prepare(&mut connection).map_err(failed)?;
        let writer = Writer::start(connection, path).map_err(|e| failed(e.to_string()))?;
        Ok(Self { path: path.to_owned(), writer, _lock: lock })
    }
}

impl Store for FileStore {
    fn load<'a>(&'a self, now: UnixMillis, each: Each<'a>) -> Pending<'a, ()> {
        Box::pin(async move {
            // Behind everything asked so far; reads on a connection of its own, beside the writer.
            self.writer.ask(Write::RemoveExpired(now)).await?;
            load(&self.path, each).map_err(|what| fault(&self.path, &what))
        })
    }

    fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::Put(record)))
    }

    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::Remove(ids)))
    }

    fn name(&self) -> &'static str {
        NAME
    }
}

pub(super) fn fault(path: &Path, what: &str) -> StoreError {
    StoreError { store: NAME, what: format!("sessions file {}: {what}", path.display()) }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = create_private(Path::new(&name)).map_err(|e| fault(path, &format!("its lock file: {e}")))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(fault(path, "is used by another postern")),
        Err(TryLockError::Error(e)) => Err(fault(path, &format!("its lock file: {e}"))),
    }
}

/// An existing file keeps its mode. SQLite gives `-wal` and `-shm` the mode of the file beside them.
fn create_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    // NORMAL, often advised with WAL, loses the last commits when the power goes.
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Checks what is there before anything is written, then sees to the tables.
fn prepare(connection: &mut Connection) -> Result<(), String> {
    check(connection).map_err(|e| format!("{e}; it is left as it is"))?;
    let wal: String = connection
        .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))
        .map_err(|e| e.to_string())?;
    if !wal.eq_ignore_ascii_case("wal") {
        return Err(format!("cannot be kept with a write-ahead log (journal mode {wal})"));
    }
    create_tables(connection).map_err(|e| e.to_string())
}

#[derive(Debug, thiserror::Error)]
enum Unfit {
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("is damaged: {0}")]
    Damaged(String),
    #[error("is not a sessions file of postern")]
    Foreign,
    #[error("was made by a newer postern (version {0}, this one knows {VERSION})")]
    Newer(i64),
}

fn check(connection: &Connection) -> Result<(), Unfit> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => return Ok(()),
        (APPLICATION, VERSION, 1..) => {}
        (APPLICATION, newer, _) if newer > VERSION => return Err(Unfit::Newer(newer)),
        _ => return Err(Unfit::Foreign),
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Unfit::Damaged(verdict)) }
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let there: i64 = transaction.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if there == 0 {
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

fn load(path: &Path, each: Each<'_>) -> Result<(), String> {
    let connection = connect(path).map_err(|e| e.to_string())?;
    let query = "SELECT id, token, user, role, created, expires, last_used, client FROM sessions";
    let mut statement = connection.prepare(query).map_err(|e| e.to_string())?;
    let mut rows = statement.query([]).map_err(|e| e.to_string())?;
    while let Some(row) = rows.next().map_err(|e| e.to_string())? {
        each(record_of(row).map_err(|e| format!("a row cannot be read: {e}"))?);
    }
    Ok(())
}

fn record_of(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let time = |column| row.get::<_, i64>(column).map(|ms| UnixMillis(ms.cast_unsigned()));
    Ok(SessionRecord {
        id: KeyHash::from_bytes(row.get(0)?),
        token: TokenHash::from_bytes(row.get(1)?),
        user: UserName::new(text(2)?),
        role: RoleName::new(text(3)?),
        created: time(4)?,
        expires: time(5)?,
        last_used: time(6)?,
        client: client_of(row)?,
    })
}

fn client_of(row: &Row<'_>) -> rusqlite::Result<IpAddr> {
    match row.get::<_, [u8; 4]>(7) {
        Ok(v4) => Ok(v4.into()),
        Err(_) => row.get::<_, [u8; 16]>(7).map(IpAddr::from),
    }
}

pub(super) fn put(connection: &Connection, record: &SessionRecord) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)")?;
    let client: &[u8] = match &record.client {
        IpAddr::V4(v4) => &v4.octets(),
        IpAddr::V6(v6) => &v6.octets(),
    };
    statement.execute(params![
        record.id.as_bytes(),
        record.token.as_bytes(),
        record.user.as_str(),
        record.role.as_str(),
        as_stored(record.created),
        as_stored(record.expires),
        as_stored(record.last_used),
        client,
    ])?;
    Ok(())
}

pub(super) fn remove(connection: &Connection, ids: &[KeyHash]) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
    ids.iter().try_for_each(|id| statement.execute([id.as_bytes()]).map(drop))
}

pub(super) fn remove_expired(connection: &Connection, now: UnixMillis) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached("DELETE FROM sessions WHERE expires <= ?1")?;
    statement.execute([as_stored(now)]).map(drop)
}

/// SQLite's integers are signed; a time past the year 292,000,000 stays at the largest.
fn as_stored(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::contract::{self, all, record};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sessions.db");
        (folder, path)
    }

    fn refusal(path: &Path) -> String {
        let refusal = FileStore::open(path).err().unwrap().to_string();
        assert!(refusal.contains(&path.display().to_string()), "{refusal}");
        refusal
    }

    #[tokio::test]
    async fn it_keeps_the_contract() {
        let (_folder, path) = folder();
        let reopen = |store| {
            drop(store);
            FileStore::open(&path).unwrap()
        };
        contract::holds_for(FileStore::open(&path).unwrap(), reopen).await;
    }

    #[tokio::test]
    async fn what_was_answered_is_in_the_files_that_a_kill_would_leave() {
        let (folder, path) = folder();
        let store = FileStore::open(&path).unwrap();
        store.put(record("a", "low@example.org", 100)).await.unwrap();
        store.put(record("b", "low@example.org", 100)).await.unwrap();
        store.remove(vec![KeyHash::of("a")]).await.unwrap();
        // A kill leaves the file and its log as they stand now, and frees the lock.
        let left = folder.path().join("left.db");
        std::fs::copy(&path, &left).unwrap();
        std::fs::copy(folder.path().join("sessions.db-wal"), folder.path().join("left.db-wal")).unwrap();
        let found = all(&FileStore::open(&left).unwrap(), 0).await;
        assert_eq!(found.into_keys().collect::<Vec<_>>(), [KeyHash::of("b")]);
    }

    #[tokio::test]
    async fn all_that_waits_is_committed_at_once() {
        let (_folder, path) = folder();
        let store = FileStore::open(&path).unwrap();
        let other = connect(&path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let waiting: Vec<_> = (0..50).map(|n| store.put(record(&n.to_string(), "u", 100))).collect();
        other.execute_batch("COMMIT").unwrap();
        for answer in waiting {
            answer.await.unwrap();
        }
        assert!(store.writer.commits() <= 2, "{} commits", store.writer.commits());
        assert_eq!(all(&store, 0).await.len(), 50);
    }

    #[test]
    fn a_second_process_is_refused_until_the_first_has_closed() {
        let (_folder, path) = folder();
        let first = FileStore::open(&path).unwrap();
        assert!(refusal(&path).contains("is used by another postern"));
        drop(first);
        FileStore::open(&path).unwrap();
    }

    #[test]
    fn its_files_are_the_owners_alone() {
        let (folder, path) = folder();
        let _store = FileStore::open(&path).unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let file = file.unwrap();
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
    }

    #[test]
    fn a_missing_folder_is_named() {
        let (folder, _) = folder();
        refusal(&folder.path().join("nowhere").join("sessions.db"));
    }

    #[test]
    fn a_file_that_is_no_sessions_file_is_refused_and_left_as_it_is() {
        let (_folder, path) = folder();
        std::fs::write(&path, "users = 5\n".repeat(300)).unwrap();
        refusal(&path);
        assert_eq!(std::fs::read(&path).unwrap().len(), 3000);
        std::fs::remove_file(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
        assert!(refusal(&path).contains("not a sessions file"));
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_and_left_as_it_is() {
        let (_folder, path) = folder();
        let store = FileStore::open(&path).unwrap();
        for n in 0..200 {
            store.put(record(&n.to_string(), "low@example.org", 100)).await.unwrap();
        }
        drop(store);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 2000].fill(0xa5);
        std::fs::write(&path, &bytes).unwrap();
        refusal(&path);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }

    #[test]
    fn a_newer_file_is_refused() {
        let (_folder, path) = folder();
        drop(FileStore::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
        assert!(refusal(&path).contains("newer postern"));
    }

    #[tokio::test]
    async fn a_failed_write_is_an_error_and_the_next_one_works() {
        let (_folder, path) = folder();
        let store = FileStore::open(&path).unwrap();
        let other = connect(&path).unwrap();
        other
            .execute_batch(
                "CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN SELECT RAISE(FAIL, 'full'); END",
            )
            .unwrap();
        assert!(store.put(record("a", "u", 100)).await.is_err());
        other.execute_batch("DROP TRIGGER full").unwrap();
        store.put(record("a", "u", 100)).await.unwrap();
        assert_eq!(all(&store, 0).await.len(), 1);
    }
}
