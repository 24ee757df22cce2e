//! The store's file: what a kill leaves, who may read it, what is refused.

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
    Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
    assert!(refusal(&path).contains("newer postern"));
}

#[tokio::test]
async fn a_failed_write_is_an_error_and_the_next_one_works() {
    let (_folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    let other = connect(&path).unwrap();
    other
        .execute_batch("CREATE TRIGGER full BEFORE INSERT ON sessions BEGIN SELECT RAISE(FAIL, 'full'); END")
        .unwrap();
    assert!(store.put(record("a", "u", 100)).await.is_err());
    other.execute_batch("DROP TRIGGER full").unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    assert_eq!(all(&store, 0).await.len(), 1);
}

#[tokio::test]
async fn a_file_of_the_version_before_is_brought_up_to_date_and_keeps_its_sessions() {
    let (_folder, path) = folder();
    let old = Connection::open(&path).unwrap();
    old.execute_batch(rows::SESSIONS).unwrap();
    old.pragma_update(None, "application_id", APPLICATION).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute("INSERT INTO sessions VALUES (?1, ?1, 'u', 'low', 1, 100, 2, x'7f000001')", [[7u8; 32]])
        .unwrap();
    drop(old);
    for _ in 0..2 {
        let store = FileStore::open(&path).unwrap();
        assert_eq!(all(&store, 0).await.len(), 1);
        let mut tokens = 0;
        store.load_tokens(&mut |_| tokens += 1).await.unwrap();
        assert_eq!(tokens, 0);
    }
}

#[tokio::test]
async fn a_file_that_is_removed_while_it_is_open_is_written_again() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    let sets =
        [&["sessions.db"][..], &["sessions.db", "sessions.db-wal", "sessions.db-shm"], &["sessions.db-wal"]];
    for (n, removed) in sets.into_iter().enumerate() {
        for name in removed {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        store.put(record(&n.to_string(), "u", 100)).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        // As a kill would leave it.
        let left = folder.path().join(format!("left{n}.db"));
        std::fs::copy(&path, &left).unwrap();
        std::fs::copy(folder.path().join("sessions.db-wal"), beside(&left, "-wal")).unwrap();
        let found = all(&FileStore::open(&left).unwrap(), 0).await;
        assert!(found.contains_key(&KeyHash::of("a")) && found.contains_key(&KeyHash::of(&n.to_string())));
    }
    // With nothing to be written but the last word.
    std::fs::remove_file(&path).unwrap();
    drop(store);
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 4);
}

#[tokio::test]
async fn a_file_behind_a_symlink_is_written_again_where_it_was() {
    let (folder, path) = folder();
    let volume = folder.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    let file = volume.join("s.db");
    std::os::unix::fs::symlink("volume/s.db", &path).unwrap();
    let store = FileStore::open(&path).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    drop(store);
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    std::fs::remove_file(&file).unwrap();
    store.put(record("b", "u", 100)).await.unwrap();
    assert!(path.is_symlink());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    drop(store);
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 2);
}

#[tokio::test]
async fn a_symlink_that_is_removed_is_made_again() {
    let (folder, path) = folder();
    std::os::unix::fs::symlink("s.db", &path).unwrap();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    store.put(record("b", "u", 100)).await.unwrap();
    assert!(path.is_symlink());
    // One that leads elsewhere would bring another file at the next start.
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("other"), "not ours").unwrap();
    std::os::unix::fs::symlink("other", &path).unwrap();
    assert!(store.put(record("c", "u", 100)).await.is_err());
    std::fs::remove_file(&path).unwrap();
    store.put(record("d", "u", 100)).await.unwrap();
    drop(store);
    let found = all(&FileStore::open(&path).unwrap(), 0).await;
    assert_eq!(found.len(), 3);
}

/// A log that is taken away while a reader keeps it from being written back would leave a file of two halves.
#[tokio::test]
async fn a_symlink_that_leads_elsewhere_costs_nothing_while_somebody_reads() {
    let (folder, path) = folder();
    let real = folder.path().join("s.db");
    std::os::unix::fs::symlink("s.db", &path).unwrap();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    let reader = connect(&real).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sessions").unwrap();
    store.put(record("b", "u", 100)).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("other"), "not ours").unwrap();
    std::os::unix::fs::symlink("other", &path).unwrap();
    assert!(store.put(record("c", "u", 100)).await.is_err());
    // As a kill leaves it.
    let left = folder.path().join("left.db");
    std::fs::copy(&real, &left).unwrap();
    std::fs::copy(beside(&real, "-wal"), beside(&left, "-wal")).unwrap();
    drop(store);
    drop(reader);
    for file in [&left, &real] {
        assert_eq!(all(&FileStore::open(file).unwrap(), 0).await.len(), 2);
    }
}

#[tokio::test]
async fn the_log_of_a_replaced_file_stays_while_somebody_reads() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    let reader = connect(&path).unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM sessions").unwrap();
    store.put(record("b", "u", 100)).await.unwrap();
    std::fs::rename(&path, folder.path().join("kept.db")).unwrap();
    std::fs::write(&path, "not ours").unwrap();
    assert!(store.put(record("c", "u", 100)).await.is_err());
    assert!(beside(&path, "-wal").exists());
    drop(reader);
    assert!(store.put(record("c", "u", 100)).await.is_err());
    assert!(!beside(&path, "-wal").exists(), "it would be read into the other file");
    drop(store);
    std::fs::rename(folder.path().join("kept.db"), &path).unwrap();
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 2);
}

/// Else a second gateway would serve sessions that the first has ended.
#[tokio::test]
async fn a_lock_that_is_removed_is_made_again() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    for all_of_it in [false, true] {
        let names = ["sessions.db.lock", "sessions.db", "sessions.db-wal", "sessions.db-shm"];
        for name in &names[..if all_of_it { 4 } else { 1 }] {
            std::fs::remove_file(folder.path().join(name)).unwrap();
        }
        store.close().await.unwrap();
        assert!(refusal(&path).contains("used by another postern"));
    }
    // Another one was faster: this one answers nothing as stored before that has gone.
    std::fs::remove_file(beside(&path, LOCK)).unwrap();
    let other = lock(&path).unwrap().unwrap();
    assert!(store.put(record("b", "u", 100)).await.is_err());
    drop(other);
    store.put(record("c", "u", 100)).await.unwrap();
    drop(store);
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 2);
}

#[tokio::test]
async fn another_file_in_its_place_is_left_as_it_is() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    let other = folder.path().join("other");
    std::fs::write(&other, "not ours").unwrap();
    std::fs::rename(&other, &path).unwrap();
    assert!(store.put(record("b", "u", 100)).await.is_err(), "it would be gone at the next start");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not ours");
    assert!(!folder.path().join("sessions.db-wal").exists(), "it would be read into the other file");
    std::fs::remove_file(&path).unwrap();
    store.put(record("c", "u", 100)).await.unwrap();
    drop(store);
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 2);
}

#[tokio::test]
async fn the_log_of_another_file_in_its_place_is_left_to_it() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    for name in ["sessions.db", "sessions.db-wal"] {
        std::fs::write(folder.path().join("other"), name).unwrap();
        std::fs::rename(folder.path().join("other"), folder.path().join(name)).unwrap();
    }
    assert!(store.put(record("b", "u", 100)).await.is_err());
    drop(store);
    for name in ["sessions.db", "sessions.db-wal"] {
        assert_eq!(std::fs::read_to_string(folder.path().join(name)).unwrap(), name);
    }
}

#[tokio::test]
async fn a_domain_token_that_cannot_be_read_keeps_no_other_out() {
    let (_folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    let good = DomainToken {
        id: "good".into(),
        domain: "d".into(),
        role: crate::identity::RoleName::new("user"),
        expires: UnixMillis(9),
        enabled: true,
    };
    store.put_token(good.clone()).await.unwrap();
    let other = connect(&path).unwrap();
    other.execute("INSERT INTO domain_tokens VALUES ('bad', CAST(x'ff' AS TEXT), 'user', 9, 1)", []).unwrap();
    let mut found = Vec::new();
    store.load_tokens(&mut |token| found.push(token)).await.unwrap();
    assert_eq!(found.iter().map(|token| token.id.as_str()).collect::<Vec<_>>(), ["good"]);
}

/// Each step of the writing again fails once: what was stored is there all the same.
#[tokio::test]
async fn a_file_that_cannot_be_written_again_at_once_is_later() {
    let (folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::remove_file(&path).unwrap();
    // Where the copy goes there is a folder, then where the log was.
    for blocked in ["sessions.db.again", "sessions.db-wal"] {
        let _ = std::fs::remove_file(at(blocked));
        std::fs::create_dir(at(blocked)).unwrap();
        assert!(store.put(record("b", "u", 100)).await.is_err(), "{blocked}");
        assert!(store.put(record("b", "u", 100)).await.is_err(), "{blocked}");
        std::fs::remove_dir(at(blocked)).unwrap();
    }
    store.put(record("c", "u", 100)).await.unwrap();
    drop(store);
    let found = all(&FileStore::open(&path).unwrap(), 0).await;
    assert!(found.contains_key(&KeyHash::of("a")) && found.contains_key(&KeyHash::of("c")));
}

#[tokio::test]
async fn what_a_kill_left_half_done_is_finished_at_the_start() {
    let (_folder, path) = folder();
    let store = FileStore::open(&path).unwrap();
    store.put(record("a", "u", 100)).await.unwrap();
    drop(store);
    std::fs::rename(&path, beside(&path, ".again")).unwrap();
    let store = super::super::file_start::open(&path, Duration::ZERO, UnixMillis(0)).await.unwrap();
    assert_eq!(all(&store, 0).await.len(), 1);
    drop(store);
    std::fs::rename(&path, beside(&path, ".again")).unwrap();
    assert_eq!(all(&FileStore::open(&path).unwrap(), 0).await.len(), 1, "nor does a command begin another");
    // One that was overtaken does not come back.
    std::fs::copy(&path, beside(&path, ".again")).unwrap();
    drop(FileStore::open(&path).unwrap());
    assert!(!beside(&path, ".again").exists());
}
