//! Tells when a file of the configuration has changed. Folders are watched, not files: a Kubernetes ConfigMap is
//! exchanged by a symlink beside them, and an editor writes another file of the same name. Events only say when to
//! look; whether anything has changed is told by the contents.

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

use crate::config::{NamedFile, hash_of};

/// Several files are seldom written at once: how long nothing must have happened.
const QUIET: Duration = Duration::from_millis(100);
/// And how long that is waited for: in some folders something always happens.
const RESTLESS: Duration = Duration::from_secs(1);
/// Some file systems tell nothing (NFS), and watches may fail: looked at all the same.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// The files and what they held when they were read.
pub(super) struct FileWatch {
    watcher: Option<RecommendedWatcher>,
    folders: BTreeSet<PathBuf>,
    read: Contents,
    interesting: Arc<Mutex<BTreeSet<PathBuf>>>,
    touched: Arc<Notify>,
    /// Something has happened that was not looked into yet: kept here, for whoever waits may be called away.
    pending: bool,
}

/// A hash of each file; none where it cannot be read.
type Contents = BTreeMap<PathBuf, Option<[u8; 32]>>;

impl FileWatch {
    pub(super) fn start(files: Vec<NamedFile>) -> Self {
        let (interesting, touched) = (Arc::<Mutex<BTreeSet<PathBuf>>>::default(), Arc::new(Notify::new()));
        let (known, tell) = (Arc::clone(&interesting), Arc::clone(&touched));
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| concerns(&event, &known)) {
                tell.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "files cannot be watched; they are looked at every 30 s");
        }
        let mut watch = Self {
            watcher: watcher.ok(),
            folders: BTreeSet::new(),
            read: Contents::new(),
            interesting,
            touched,
            pending: false,
        };
        watch.look_at(files);
        watch
    }

    /// Watches these instead. What has changed since they were read is told as a change.
    pub(super) fn look_at(&mut self, files: Vec<NamedFile>) {
        if !files.is_empty() {
            self.read = files.into_iter().map(|file| (file.path, file.hash)).collect();
        }
        self.pending = true;
        let paths: BTreeSet<PathBuf> = self.read.keys().flat_map(|file| places(file)).collect();
        let folders: BTreeSet<PathBuf> = paths.iter().filter_map(|p| p.parent()).map(folder).collect();
        if let Some(watcher) = &mut self.watcher {
            for gone in self.folders.difference(&folders) {
                // It may be gone for good.
                let _: notify::Result<()> = watcher.unwatch(gone);
            }
            // Anew, for a folder may have been exchanged for another of its name.
            for folder in &folders {
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                    tracing::warn!(%error, folder = %folder.display(), "cannot be watched; it is looked at every 30 s");
                }
            }
        }
        self.folders = folders;
        *self.interesting.lock().unwrap_or_else(PoisonError::into_inner) = paths;
    }

    /// Waits until a file's content has changed. May be dropped and called again: nothing is missed.
    pub(super) async fn changed(&mut self) {
        loop {
            if !self.pending {
                // Looked into as well when nothing was told for so long.
                let _: Result<(), _> = tokio::time::timeout(LOOK_EVERY, self.touched.notified()).await;
                self.pending = true;
            }
            let _: Result<(), _> = tokio::time::timeout(RESTLESS, self.quiet()).await;
            let files: Vec<PathBuf> = self.read.keys().cloned().collect();
            let Ok(now) = tokio::task::spawn_blocking(move || contents(&files)).await else { continue };
            self.pending = false;
            if now != self.read {
                self.read = now;
                return;
            }
        }
    }

    async fn quiet(&self) {
        while tokio::time::timeout(QUIET, self.touched.notified()).await.is_ok() {}
    }
}

/// A file's own path, and where its symlinks lead.
fn places(file: &Path) -> Vec<PathBuf> {
    let own = folder(file.parent().unwrap_or(Path::new(""))).join(file.file_name().unwrap_or_default());
    let leads_to = std::fs::canonicalize(file).ok();
    std::iter::once(own).chain(leads_to).collect()
}

fn folder(path: &Path) -> PathBuf {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Writes count only for our files (the sessions file may lie beside them); whatever appears, goes or is renamed may
/// be a folder or symlink on the way to one.
fn concerns(event: &notify::Event, interesting: &Mutex<BTreeSet<PathBuf>>) -> bool {
    match event.kind {
        EventKind::Access(_) => false,
        EventKind::Modify(notify::event::ModifyKind::Data(_) | notify::event::ModifyKind::Metadata(_)) => {
            let known = interesting.lock().unwrap_or_else(PoisonError::into_inner);
            event.paths.iter().any(|path| known.contains(path))
        }
        EventKind::Any
        | EventKind::Create(_)
        | EventKind::Modify(_)
        | EventKind::Remove(_)
        | EventKind::Other => true,
    }
}

fn contents(files: &[PathBuf]) -> Contents {
    files.iter().map(|file| (file.clone(), hash_of(file))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::sha256;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn named(path: &Path) -> Vec<NamedFile> {
        vec![NamedFile { path: path.to_owned(), hash: fs::read(path).ok().map(|bytes| sha256(&bytes)) }]
    }

    async fn notices(watch: &mut FileWatch, change: impl FnOnce()) -> bool {
        change();
        tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.is_ok()
    }

    #[tokio::test]
    async fn a_write_a_replacement_and_a_removal_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::start(named(&file));
        assert!(notices(&mut watch, || fs::write(&file, "2").unwrap()).await);
        let other = folder.path().join(".a.swp");
        fs::write(&other, "3").unwrap();
        assert!(notices(&mut watch, || fs::rename(&other, &file).unwrap()).await);
        assert!(notices(&mut watch, || fs::remove_file(&file).unwrap()).await);
        assert!(notices(&mut watch, || fs::write(&file, "3").unwrap()).await);
    }

    /// As the kubelet does it: `..data` is exchanged, the names before it stay.
    #[tokio::test]
    async fn an_exchanged_config_map_is_noticed_every_time() {
        let volume = tempfile::tempdir().unwrap();
        let path = |name: &str| volume.path().join(name);
        let publish = |n: u32| {
            let data = format!("..2026_{n}");
            fs::create_dir(path(&data)).unwrap();
            fs::write(path(&data).join("a.toml"), n.to_string()).unwrap();
            symlink(&data, path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
            if n > 0 {
                fs::remove_dir_all(path(&format!("..2026_{}", n - 1))).unwrap();
            }
        };
        publish(0);
        symlink("..data/a.toml", path("a.toml")).unwrap();
        let mut watch = FileWatch::start(named(&path("a.toml")));
        for n in 1..4 {
            assert!(notices(&mut watch, || publish(n)).await, "{n}");
            watch.look_at(named(&path("a.toml")));
        }
    }

    #[tokio::test]
    async fn what_leaves_the_contents_as_they_are_is_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::start(named(&file));
        fs::write(&file, "1").unwrap();
        fs::write(folder.path().join("sessions.db"), "x").unwrap();
        let quiet = tokio::time::timeout(Duration::from_millis(500), watch.changed()).await;
        assert!(quiet.is_err());
    }

    /// A fault is told once; and what would wait for a writer is not opened.
    #[tokio::test]
    async fn a_file_that_is_not_taken_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        let refused = || vec![NamedFile { path: file.clone(), hash: Some(sha256(b"")) }];
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::start(named(&file));
        assert!(notices(&mut watch, || fs::write(&file, "").unwrap()).await);
        watch.look_at(refused());
        assert!(tokio::time::timeout(QUIET * 5, watch.changed()).await.is_err());
        let pipe = || {
            fs::remove_file(&file).unwrap();
            assert!(std::process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        };
        assert!(notices(&mut watch, pipe).await);
        watch.look_at(vec![NamedFile { path: file.clone(), hash: None }]);
        assert!(tokio::time::timeout(QUIET * 5, watch.changed()).await.is_err());
        assert!(
            notices(&mut watch, || {
                fs::remove_file(&file).unwrap();
                fs::write(&file, "2").unwrap();
            })
            .await
        );
    }

    #[tokio::test]
    async fn what_changed_between_the_reading_and_the_watching_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let read = named(&file);
        fs::write(&file, "2").unwrap();
        let mut watch = FileWatch::start(read);
        assert!(notices(&mut watch, || {}).await);
    }

    #[tokio::test]
    async fn a_change_in_a_folder_that_is_never_quiet_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::start(named(&file));
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let other = folder.path().join("other");
        let busy = std::thread::spawn(move || {
            while stopped.recv_timeout(QUIET / 5) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                fs::write(&other, "").unwrap();
                fs::remove_file(&other).unwrap();
            }
        });
        assert!(notices(&mut watch, || fs::write(&file, "2").unwrap()).await);
        drop(stop);
        busy.join().unwrap();
    }

    /// A signal that comes in between calls the waiting one away.
    #[tokio::test]
    async fn a_change_outlives_the_one_who_waited_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.toml");
        fs::write(&file, "1").unwrap();
        let mut watch = FileWatch::start(named(&file));
        // Nothing has changed yet: looked into, and waiting.
        assert!(tokio::time::timeout(QUIET * 3, watch.changed()).await.is_err());
        fs::write(&file, "2").unwrap();
        // Away again while it waits for more to happen.
        assert!(tokio::time::timeout(QUIET / 2, watch.changed()).await.is_err());
        assert!(notices(&mut watch, || {}).await);
    }
}
