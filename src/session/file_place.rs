//! Whether the sessions file still has its name. One that was removed while it is open would take all sessions along at the
//! next start; what is open is whole, and is written again under the name.

use rusqlite::Connection;
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::file::{self, LOCK, Unfit, beside, create_private, opened};

/// Behind the name of what is being written again.
const AGAIN: &str = ".again";

/// The file that was opened, and its lock.
pub(super) struct Place {
    /// As it was configured.
    name: PathBuf,
    /// Where its symlinks lead: its log stands there.
    path: PathBuf,
    id: Option<Id>,
    /// Of its log, when both were last here.
    log: Option<Id>,
    mode: u32,
    stage: Stage,
    lock: File,
}

/// How far the writing again has come: what is done is not done twice, for the connection has gone by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Open,
    /// The whole is in the other file.
    Written,
    Renamed,
}

type Id = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whereabouts {
    Here,
    /// It, or its log, without which what is written is lost at the next start.
    Gone,
    /// Here, but the symlink that led to it has gone.
    Unlinked,
    /// Another file has its name.
    Taken,
}

impl Place {
    pub(super) fn of(name: &Path, lock: File) -> Self {
        let path = real(name);
        let mode = std::fs::metadata(&path).map_or(0o600, |metadata| metadata.mode() & 0o777);
        let id = id(&path).ok();
        Self { name: name.to_owned(), path, id, log: None, mode, stage: Stage::Open, lock }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A lock whose name was removed keeps nobody out: it is made again, unless another postern was faster.
    pub(super) fn keep_lock(&mut self) -> Result<(), Unfit> {
        let held = self.lock.metadata().map(|metadata| (metadata.dev(), metadata.ino())).ok();
        match id(&beside(&self.name, LOCK)) {
            Ok(named) if Some(named) == held => return Ok(()),
            // It cannot be looked at: writing will tell.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Ok(()),
            Ok(_) | Err(_) => {}
        }
        self.lock = file::try_lock(&self.name)?.ok_or(Unfit::Used)?;
        Ok(())
    }

    /// What cannot be looked at counts as here: writing will tell.
    pub(super) fn look(&mut self) -> Whereabouts {
        let is_missing = |found: &io::Result<Id>| {
            found.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let is_other = |found: &io::Result<Id>| found.as_ref().is_ok_and(|now| Some(*now) != self.id);
        let (found, named, log) = (id(&self.path), id(&self.name), id(&beside(&self.path, "-wal")));
        if self.stage != Stage::Open || is_missing(&found) {
            return Whereabouts::Gone;
        }
        if self.id.is_some() && (is_other(&found) || is_other(&named)) {
            return Whereabouts::Taken;
        }
        if is_missing(&log) {
            return Whereabouts::Gone;
        }
        self.log = log.ok();
        if is_missing(&named) { Whereabouts::Unlinked } else { Whereabouts::Here }
    }

    /// Has the configured name lead to the file again.
    pub(super) fn link(&self) -> Result<(), Unfit> {
        Ok(std::os::unix::fs::symlink(&self.path, &self.name)?)
    }

    /// Takes the log's name away from beside another file, unless that has brought its own: whoever opens it next would
    /// read the one into the other. The log of a file that has its own name still is left.
    pub(super) fn let_go(&self, connection: &Connection) -> Result<(), Unfit> {
        if id(&self.path).ok() == self.id {
            return Ok(());
        }
        let is_busy =
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))?;
        if is_busy {
            // What is in the log alone would be lost, and the file made of two halves.
            return Err(io::Error::other("another program reads what was replaced").into());
        }
        let is_ours = self.log.is_some() && id(&beside(&self.path, "-wal")).ok() == self.log;
        if is_ours { Ok(take_log(&self.path)?) } else { Ok(()) }
    }

    /// Writes the whole of what is open under the name that it had, and goes on with that. To be called again when it has
    /// failed.
    pub(super) fn restore(&mut self, connection: &mut Connection) -> Result<(), Unfit> {
        let again = beside(&self.path, AGAIN);
        if self.stage == Stage::Open {
            remove(&again)?;
            create_private(&again)?;
            std::fs::set_permissions(&again, Permissions::from_mode(self.mode))?;
            connection.execute("VACUUM INTO ?1", [again.to_string_lossy()])?;
            File::open(&again)?.sync_all()?;
            let nothing = Connection::open_in_memory()?;
            // Closed before its log is taken away: SQLite knows both by their names.
            drop(std::mem::replace(connection, nothing));
            self.stage = Stage::Written;
        }
        if self.stage == Stage::Written {
            put_in_place(&self.path)?;
            self.stage = Stage::Renamed;
        }
        *connection = opened(&self.path)?;
        (self.id, self.stage) = (id(&self.path).ok(), Stage::Open);
        Ok(())
    }
}

/// What was being written again when the process before was killed is put in place, if it is whole and nothing else has
/// the name. Whether it was. To be called before the file is opened, with its lock.
pub(super) fn settle(path: &Path) -> io::Result<bool> {
    let path = real(path);
    let again = beside(&path, AGAIN);
    match path.metadata() {
        // Not needed any more; later it would bring back sessions that have ended.
        Ok(metadata) if metadata.len() > 0 => remove(&again).map(|()| false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let is_whole =
                again.metadata().is_ok_and(|metadata| metadata.len() > 0) && opened(&again).is_ok();
            if is_whole {
                put_in_place(&path)?;
            }
            Ok(is_whole)
        }
        _ => Ok(false),
    }
}

/// Where a symlink leads, also if nothing is there.
fn real(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| match std::fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new("")).join(target),
        Err(_) => path.to_owned(),
    })
}

fn put_in_place(path: &Path) -> io::Result<()> {
    take_log(path)?;
    std::fs::rename(beside(path, AGAIN), path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn take_log(path: &Path) -> io::Result<()> {
    ["-wal", "-shm"].iter().try_for_each(|part| remove(&beside(path, part)))
}

fn id(path: &Path) -> io::Result<Id> {
    std::fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
