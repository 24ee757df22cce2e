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
        Self { path: path.to_owned(), id: id(path).ok() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What cannot be looked at counts as here: writing will tell.
    pub(super) fn look(&self) -> Whereabouts {
        match id(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Whereabouts::Gone,
            Ok(now) if self.id.is_some_and(|then| then != now) => Whereabouts::Taken,
            Ok(_) | Err(_) => Whereabouts::Here,
        }
    }

    /// Writes the whole of what is open under the name that it had, and goes on with that.
    pub(super) fn restore(&mut self, connection: &mut Connection) -> Result<(), Unfit> {
        let again = beside(&self.path, AGAIN);
        remove(&again)?;
        create_private(&again)?;
        connection.execute("VACUUM INTO ?1", [again.to_string_lossy()])?;
        File::open(&again)?.sync_all()?;
        // Closed first, and its log taken away: SQLite knows both by their names.
        drop(std::mem::replace(connection, Connection::open_in_memory()?));
        for part in ["-wal", "-shm"] {
            remove(&beside(&self.path, part))?;
        }
        std::fs::rename(&again, &self.path)?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        *connection = opened(&self.path)?;
        self.id = id(&self.path).ok();
        Ok(())
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
