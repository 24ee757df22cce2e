//! Whether the sessions file still has its name. One that was removed while it is open would take all sessions along at the
//! next start; what is open is whole, and is written again under the name.

use rusqlite::Connection;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::file::{Unfit, beside, create_private, opened};

/// Behind the name of what is being written again.
const AGAIN: &str = ".again";

/// The file that was opened.
pub(super) struct Place {
    path: PathBuf,
    id: Option<Id>,
    stage: Stage,
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
    Gone,
    /// Another file has its name.
    Taken,
}

impl Place {
    pub(super) fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), id: id(path).ok(), stage: Stage::Open }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What cannot be looked at counts as here: writing will tell.
    pub(super) fn look(&self) -> Whereabouts {
        match id(&self.path) {
            _ if self.stage != Stage::Open => Whereabouts::Gone,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Whereabouts::Gone,
            Ok(now) if self.id.is_some_and(|then| then != now) => Whereabouts::Taken,
            Ok(_) | Err(_) => Whereabouts::Here,
        }
    }

    /// Writes the whole of what is open under the name that it had, and goes on with that. To be called again when it has
    /// failed.
    pub(super) fn restore(&mut self, connection: &mut Connection) -> Result<(), Unfit> {
        let again = beside(&self.path, AGAIN);
        if self.stage == Stage::Open {
            remove(&again)?;
            create_private(&again)?;
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

/// What was being written again when the process before was killed, if it is whole.
pub(super) fn left_behind(path: &Path) -> Option<PathBuf> {
    let again = beside(path, AGAIN);
    let is_whole = again.metadata().is_ok_and(|metadata| metadata.len() > 0) && opened(&again).is_ok();
    is_whole.then_some(again)
}

pub(super) fn put_in_place(path: &Path) -> io::Result<()> {
    for part in ["-wal", "-shm"] {
        remove(&beside(path, part))?;
    }
    std::fs::rename(beside(path, AGAIN), path)?;
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
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
