//! How a gateway that starts comes to its sessions file: it waits for the one before it, and sets a damaged file aside.

use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::file::{self, APPLICATION, FileStore, LOCK, Unfit, VERSION, beside};
use super::store::StoreError;
use crate::clock::{UnixMillis, monotonic};

/// How often a file that another has is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// SQLite's, beside its file and of one life with it.
const PARTS: [&str; 3] = ["", "-wal", "-shm"];

/// Opens the file for serving, or makes it. Another gateway that has it is waited for, for it may be draining. A file that
/// is damaged is never emptied: it is kept under another name, and a new one begun, if a postern has used it before; another
/// program's file, named by mistake, is refused and left.
pub(super) async fn open(path: &Path, patience: Duration, now: UnixMillis) -> Result<FileStore, StoreError> {
    let used_before = beside(path, LOCK).exists();
    let lock = turn(path, patience).await?;
    file::settled(path)?;
    let length = std::fs::metadata(path).map(|metadata| metadata.len()).ok();
    let connection = match (used_before, length) {
        (true, Some(0)) => anew(path, "is empty, although a postern has used it", now)?,
        (true, None) if beside(path, "-wal").exists() => anew(path, "is missing beside its -wal", now)?,
        (true, None) => {
            tracing::warn!(file = %path.display(), "the sessions file has gone; another is begun, without sessions");
            file::opened(path).map_err(|unfit| file::refused(path, &unfit))?
        }
        _ => match file::opened(path) {
            Ok(connection) => connection,
            Err(unfit) if used_before && unfit.is_damage() => anew(path, &unfit.to_string(), now)?,
            Err(unfit) => return Err(file::refused(path, &unfit)),
        },
    };
    FileStore::over(connection, path, lock)
}

async fn turn(path: &Path, patience: Duration) -> Result<std::fs::File, StoreError> {
    let began = monotonic();
    let mut told = false;
    loop {
        if let Some(lock) = file::lock(path)? {
            return Ok(lock);
        }
        if monotonic().saturating_duration_since(began) >= patience {
            return Err(file::taken(path));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!(file = %path.display(), "another postern has the sessions file; waiting for its end");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Sets aside what is there and begins another.
fn anew(path: &Path, why: &str, now: UnixMillis) -> Result<rusqlite::Connection, StoreError> {
    let kept = set_aside(path, now)
        .map_err(|e| file::fault(path, &format!("{why}; it cannot be set aside: {e}")))?;
    tracing::error!(
        file = %path.display(),
        kept = %kept.display(),
        salvage = %salvage(&kept),
        "the sessions file {why}; it was set aside and another begun, without sessions and minted tokens. Salvage what it \
         held, then stop the gateway and put salvaged.db in the file's place"
    );
    file::opened(path).map_err(|unfit: Unfit| file::refused(path, &unfit))
}

/// What takes the rows that can still be read into `salvaged.db`. `.recover` would be the word for it, but fails on tables
/// without row ids in the SQLite that Debian 12 has; and neither keeps whose file it is.
fn salvage(kept: &Path) -> String {
    format!(
        "(sqlite3 '{}' .dump | sed 's/^ROLLBACK.*/COMMIT;/'; echo 'PRAGMA application_id = {APPLICATION}; \
         PRAGMA user_version = {VERSION};') | sqlite3 salvaged.db",
        kept.display()
    )
}

/// Under a name that nothing has.
fn set_aside(path: &Path, now: UnixMillis) -> std::io::Result<PathBuf> {
    let time =
        i64::try_from(now.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    let stamp = format!(".corrupt-{}", time.strftime("%Y%m%dT%H%M%SZ"));
    let names = std::iter::once(stamp.clone()).chain((2..).map(|n| format!("{stamp}-{n}")));
    let free = |kept: &PathBuf| PARTS.iter().all(|part| !beside(kept, part).exists());
    let kept = names.map(|name| beside(path, &name)).find(free).ok_or(std::io::ErrorKind::AlreadyExists)?;
    for part in PARTS {
        match std::fs::rename(beside(path, part), beside(&kept, part)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
}
