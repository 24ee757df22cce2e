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

#[cfg(test)]
mod tests;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::SessionRecord;
use super::file_rows as rows;
use super::file_writer::{Write, Writer};
use super::store::{Barred, Each, EachBarred, EachToken, Pending, Store, StoreError};
use super::token::DomainToken;
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

pub(super) const NAME: &str = "file";

/// `PRAGMA user_version` of the tables below.
pub(super) const VERSION: i64 = 3;

/// `PRAGMA application_id`: "Post" in ASCII, so that another program's file is not taken for ours.
pub(super) const APPLICATION: i64 = 0x506f_7374;

/// Behind the file's name: whose it is. Stays when its holder has gone, and so tells that there was one.
pub(super) const LOCK: &str = ".lock";

/// How long a statement waits for another process on the file (`token mint`, an operator's `sqlite3`).
const BUSY: Duration = Duration::from_secs(5);

/// Sessions in an SQLite file. Closing it (drop) waits until all that was asked is written.
pub(super) struct FileStore {
    path: PathBuf,
    writer: Writer,
}

impl FileStore {
    /// Opens the file, or makes it, readable to its owner only. Fails, naming the file, when its folder is
    /// missing, when another process has it, and when it is damaged or not a sessions file.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let lock = lock(path)?.ok_or_else(|| taken(path))?;
        settled(path)?;
        let connection = opened(path).map_err(|unfit| refused(path, &unfit))?;
        Self::over(connection, path, lock)
    }

    pub(super) fn over(connection: Connection, path: &Path, lock: File) -> Result<Self, StoreError> {
        let writer = Writer::start(connection, path, lock).map_err(|e| fault(path, &e.to_string()))?;
        Ok(Self { path: path.to_owned(), writer })
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

    fn bar(&self, ended: Vec<Barred>) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::Bar(ended)))
    }

    fn load_barred<'a>(&'a self, each: EachBarred<'a>) -> Pending<'a, ()> {
        let loaded = load_barred(&self.path, each).map_err(|e| fault(&self.path, &e.to_string()));
        Box::pin(std::future::ready(loaded))
    }

    fn load_tokens<'a>(&'a self, each: EachToken<'a>) -> Pending<'a, ()> {
        let loaded = load_tokens(&self.path, each).map_err(|e| fault(&self.path, &e.to_string()));
        Box::pin(std::future::ready(loaded))
    }

    fn put_token(&self, token: DomainToken) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::PutToken(token)))
    }

    fn remove_token(&self, id: String) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::RemoveToken(id)))
    }

    fn close(&self) -> Pending<'_, ()> {
        Box::pin(self.writer.ask(Write::Nothing))
    }

    fn name(&self) -> &'static str {
        NAME
    }
}

pub(super) fn fault(path: &Path, what: &str) -> StoreError {
    StoreError { store: NAME, what: format!("sessions file {}: {what}", path.display()) }
}

/// See [`super::file_place::settle`].
pub(super) fn settled(path: &Path) -> Result<(), StoreError> {
    match super::file_place::settle(path) {
        Ok(false) => Ok(()),
        Ok(true) => {
            tracing::warn!(file = %path.display(), "the sessions file had gone while it was written again; that is used");
            Ok(())
        }
        Err(error) => {
            Err(fault(path, &format!("what was written again cannot be put in its place: {error}")))
        }
    }
}

pub(super) fn taken(path: &Path) -> StoreError {
    fault(path, "is used by another postern")
}

pub(super) fn refused(path: &Path, unfit: &Unfit) -> StoreError {
    fault(path, &format!("{unfit}; it is left as it is"))
}

/// The path with something behind its name.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// None: another process has it.
pub(super) fn lock(path: &Path) -> Result<Option<File>, StoreError> {
    try_lock(path).map_err(|e| fault(path, &format!("its lock file: {e}")))
}

pub(super) fn try_lock(path: &Path) -> std::io::Result<Option<File>> {
    let file = create_private(&beside(path, LOCK))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(e),
    }
}

/// An existing file keeps its mode. SQLite gives `-wal` and `-shm` the mode of the file beside them.
pub(super) fn create_private(path: &Path) -> std::io::Result<File> {
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

/// Opens the file, or makes it; checks what is there before anything is written, then sees to the tables.
pub(super) fn opened(path: &Path) -> Result<Connection, Unfit> {
    create_private(path)?;
    let mut connection = connect(path)?;
    check(&connection)?;
    let wal: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !wal.eq_ignore_ascii_case("wal") {
        return Err(Unfit::Journal(wal));
    }
    create_tables(&mut connection)?;
    Ok(connection)
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Sql(#[from] rusqlite::Error),
    #[error("cannot be kept with a write-ahead log (journal mode {0})")]
    Journal(String),
    #[error("is damaged: {0}")]
    Damaged(String),
    #[error("is not a sessions file of postern")]
    Foreign,
    #[error("another file was put in its place")]
    Replaced,
    #[error("another postern has taken it over, for its lock was removed")]
    Used,
    #[error("was made by a newer postern (version {0}, this one knows {VERSION})")]
    Newer(i64),
}

impl Unfit {
    /// What was a sessions file once, as far as can be told, and can be read no more.
    pub(super) fn is_damage(&self) -> bool {
        match self {
            Self::Damaged(_) => true,
            Self::Sql(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
            ),
            Self::Io(_) | Self::Journal(_) | Self::Foreign | Self::Replaced | Self::Used | Self::Newer(_) => {
                false
            }
        }
    }
}

fn check(connection: &Connection) -> Result<(), Unfit> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, version, tables) {
        (0, 0, 0) => return Ok(()),
        (APPLICATION, 1..=VERSION, 1..) => {}
        (APPLICATION, newer, _) if newer > VERSION => return Err(Unfit::Newer(newer)),
        _ => return Err(Unfit::Foreign),
    }
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(Unfit::Damaged(verdict)) }
}

fn create_tables(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    let version: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        transaction.execute_batch(rows::SESSIONS)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    }
    if version < 2 {
        transaction.execute_batch(rows::DOMAIN_TOKENS)?;
    }
    if version < VERSION {
        transaction.execute_batch(rows::ADOPTED)?;
        transaction.pragma_update(None, "user_version", VERSION)?;
    }
    transaction.commit()
}

fn load(path: &Path, each: Each<'_>) -> Result<(), String> {
    let connection = connect(path).map_err(|e| e.to_string())?;
    let query = "SELECT id, token, user, role, created, expires, last_used, client, adopted FROM sessions";
    let mut statement = connection.prepare(query).map_err(|e| e.to_string())?;
    let mut rows = statement.query([]).map_err(|e| e.to_string())?;
    let mut unreadable = 0;
    while let Some(row) = rows.next().map_err(|e| e.to_string())? {
        // One bad row must not keep all the others out.
        rows::record_of(row).map_or_else(|_| unreadable += 1, &mut *each);
    }
    if unreadable > 0 {
        tracing::error!(file = %path.display(), rows = unreadable, "sessions that cannot be read are passed over");
    }
    Ok(())
}

fn load_barred(path: &Path, each: EachBarred<'_>) -> rusqlite::Result<()> {
    let connection = connect(path)?;
    let mut statement = connection.prepare("SELECT id, expires FROM barred")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        each(rows::barred_of(row)?);
    }
    Ok(())
}

fn load_tokens(path: &Path, each: EachToken<'_>) -> rusqlite::Result<()> {
    let connection = connect(path)?;
    let mut statement = connection.prepare("SELECT id, domain, role, expires, enabled FROM domain_tokens")?;
    let mut rows = statement.query([])?;
    let mut unreadable = 0;
    while let Some(row) = rows.next()? {
        // As with sessions; a token that is not known is no good.
        rows::token_of(row).map_or_else(|_| unreadable += 1, &mut *each);
    }
    if unreadable > 0 {
        tracing::error!(file = %path.display(), rows = unreadable, "domain tokens that cannot be read are passed over");
    }
    Ok(())
}
