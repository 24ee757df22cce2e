//! Standard output and standard error as places that logs go to. Where the shell or the service manager has made one of
//! them a file, it can be opened again by its name: what log rotation asks for with SIGUSR1.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// One of the two.
pub struct Output {
    stream: Stream,
    /// The file that it was when the program started.
    path: Option<PathBuf>,
    reopened: Mutex<Option<File>>,
}

#[derive(Clone, Copy)]
enum Stream {
    Out,
    Err,
}

/// Standard output: the access log.
pub fn stdout() -> &'static Output {
    static OUT: OnceLock<Output> = OnceLock::new();
    OUT.get_or_init(|| Output::new(Stream::Out, Path::new("/proc/self/fd/1")))
}

/// Standard error: the operational and the audit log.
pub fn stderr() -> &'static Output {
    static ERR: OnceLock<Output> = OnceLock::new();
    ERR.get_or_init(|| Output::new(Stream::Err, Path::new("/proc/self/fd/2")))
}

impl Output {
    fn new(stream: Stream, link: &Path) -> Self {
        let path = std::fs::read_link(link).ok().filter(|path| path.is_file());
        Self { stream, path, reopened: Mutex::default() }
    }

    /// Writes to a file of the old name from here on, made where it is missing. Without effect on what is no file.
    pub fn reopen(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = File::options().append(true).create(true).open(path)?;
        *self.reopened.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    /// All of it, in one piece.
    pub fn put(&self, bytes: &[u8]) -> io::Result<()> {
        let mut reopened = self.reopened.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *reopened, self.stream) {
            (Some(file), _) => file.write_all(bytes),
            (None, Stream::Out) => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            (None, Stream::Err) => io::stderr().lock().write_all(bytes),
        }
    }
}

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (link, path) = (folder.path().join("link"), folder.path().join("log"));
        std::fs::write(&path, "").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let output = Output::new(Stream::Err, &link);
        output.reopen().unwrap();
        output.put(b"before\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        output.put(b"still\n").unwrap();
        output.reopen().unwrap();
        output.put(b"after\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "after\n");
        assert_eq!(std::fs::read_to_string(folder.path().join("log.1")).unwrap(), "before\nstill\n");
    }

    #[test]
    fn what_is_no_file_stays_as_it_is() {
        let output = Output::new(Stream::Err, Path::new("/proc/self/fd/none"));
        output.reopen().unwrap();
        assert!(output.reopened.lock().unwrap().is_none());
    }
}
