//! A sessions file that cannot be written, or is damaged: checks go on, nothing acknowledged is lost, nothing is emptied in
//! silence, and nobody has to restart anything (contract section 3).

use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use rustix::process::{Resource, Rlimit, prlimit};

use crate::support::wait::{until, until_async};
use crate::support::{Ask, PASSWORD, Prepared, Session, TestGateway, TestUpstream, configured};

/// Signal 25 (SIGXFSZ) is ignored, so that a write past the limit is an error as on a disk that is full.
const BEFORE: &str = "trap '' XFSZ";

async fn gateway(change: impl FnOnce(&mut Prepared)) -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start().await;
    let url = upstream.url();
    let mut prepared =
        Prepared::new(|settings| settings.set("upstreams.engine.servers", &format!("['{url}']")));
    change(&mut prepared);
    prepared.settings.write(prepared.folder.path());
    (upstream, TestGateway::run(prepared).await)
}

fn store(gateway: &TestGateway) -> PathBuf {
    gateway.folder().join("sessions.db")
}

/// Logins and logouts are 503, checks are not; once it is mended all is as it should be, also for the next process.
async fn writes_fail(
    gateway: &mut TestGateway,
    broken: impl FnOnce(&TestGateway),
    mended: impl FnOnce(&TestGateway),
) {
    let (stays, leaves) = (gateway.login("100").await, gateway.login("100").await);
    broken(gateway);
    // What fitted still may have been kept; from the first 503 on none is.
    let mut made = Vec::new();
    let refused = loop {
        let answer = gateway.ask(Ask::login("200@example.org", PASSWORD)).await;
        match answer.status {
            200 => made.push(Session::of(answer.json())),
            _ => break answer,
        }
        assert!(made.len() < 5000, "the disk is never full");
    };
    refused.assert_error(503);
    assert!(refused.header("retry-after").is_some(), "{}", refused.brief());
    let logout = gateway.ask(Ask::post("/logout").with(&leaves)).await;
    logout.assert_error(503);
    assert!(logout.header("retry-after").is_some(), "{}", logout.brief());
    assert!(gateway.knows(&stays).await && !gateway.knows(&leaves).await, "a logout acts here at once");
    let told = || gateway.output().contains("the sessions file cannot be written").then_some(());
    until("the log to tell what to do", told).await;
    assert!(gateway.output().contains("\"to_do\""), "{}", gateway.output());
    assert!(gateway.metric("postern_store_operations_total", &["failed"]).await >= 2.0);

    mended(gateway);
    until_async("logins to work again", || async {
        gateway.ask(Ask::login("200@example.org", PASSWORD)).await.status == 200
    })
    .await;
    made.push(gateway.login("200").await);
    until("the log to tell so", || gateway.output().contains("can be written again").then_some(())).await;
    // The sweep tells the store of the logout that it could not be told.
    until_async("the end to be stored", || async {
        let rows = Connection::open(stored_at(gateway)).unwrap();
        let count =
            rows.query_row("SELECT count(*) FROM sessions WHERE user = '100@example.org'", [], |row| {
                row.get(0)
            });
        count == Ok(1)
    })
    .await;
    gateway.kill9();
    gateway.restart().await;
    assert!(gateway.knows(&stays).await && !gateway.knows(&leaves).await);
    for session in &made {
        assert!(gateway.knows(session).await, "an acknowledged login was lost");
    }
}

fn stored_at(gateway: &TestGateway) -> PathBuf {
    let on_disk = gateway.folder().join("disk/sessions.db");
    if on_disk.exists() { on_disk } else { store(gateway) }
}

#[tokio::test]
async fn files_that_may_not_grow_any_more_are_borne() {
    let (_upstream, mut gateway) = gateway(|prepared| prepared.before = Some(BEFORE)).await;
    let limit = |gateway: &TestGateway, current| {
        let maximum = None;
        prlimit(Some(gateway.pid()), Resource::Fsize, Rlimit { current, maximum }).unwrap();
    };
    let now =
        |gateway: &TestGateway| std::fs::metadata(gateway.folder().join("sessions.db-wal")).unwrap().len();
    writes_fail(&mut gateway, |g| limit(g, Some(now(g))), |g| limit(g, None)).await;
}

/// A file system of its own; only root may have one.
struct Disk(PathBuf);

impl Disk {
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=600k,mode=700", "none"]).arg(path);
        mount.status().is_ok_and(|status| status.success()).then(|| Self(path.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_borne() {
    let mut disk = None;
    let (_upstream, mut gateway) = gateway(|prepared| {
        disk = Disk::mount(&prepared.folder.path().join("disk"));
        prepared.settings.set("sessions.file", "'disk/sessions.db'");
    })
    .await;
    if disk.is_none() {
        println!("nothing can be mounted here: this scene was left out");
        return;
    }
    let filler = gateway.folder().join("disk/filler");
    let fill = |_: &TestGateway| drop(std::fs::write(&filler, vec![0; 700 << 10]));
    writes_fail(&mut gateway, fill, |_| std::fs::remove_file(&filler).unwrap()).await;
    assert!(gateway.output().contains("make room on its file system"), "{}", gateway.output());
}

/// `strace` between the gateway and the system, for the calls that the sessions file alone is written by.
struct Meddler(std::process::Child);

impl Meddler {
    /// Whether it is installed, and may trace.
    fn is_there() -> bool {
        let tried = Command::new("strace").args(["-qq", "-o", "/dev/null", "true"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    }

    fn attach(gateway: &TestGateway, calls: &str, injected: &str) -> Self {
        let log = gateway.folder().join("strace.log");
        let mut strace = Command::new("strace");
        strace.args([
            "-f",
            "-qq",
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={calls}:{injected}"),
        ]);
        strace.arg("-p").arg(gateway.pid().as_raw_nonzero().to_string()).arg("-o").arg(&log);
        Self(strace.stderr(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        // It lets go of what it traces; killed outright it would leave it stopped for a moment more.
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

const LEFT_OUT: &str = "strace is not installed or may not trace: this scene was left out";

#[tokio::test]
async fn a_file_system_that_has_become_read_only_is_borne() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    if !Meddler::is_there() {
        println!("{LEFT_OUT}");
        return;
    }
    let meddler = std::cell::Cell::new(None);
    let break_it = |g: &TestGateway| meddler.set(Some(Meddler::attach(g, "pwrite64", "error=EROFS")));
    writes_fail(&mut gateway, break_it, |_| drop(meddler.take())).await;
}

/// Who waits is told so in time, who is known goes on at once, and what was acknowledged before is there.
#[tokio::test]
async fn a_disk_that_takes_too_long_is_borne() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let (stays, leaves) = (gateway.login("100").await, gateway.login("100").await);
    if !Meddler::is_there() {
        println!("{LEFT_OUT}");
        return;
    }
    let meddler = Meddler::attach(&gateway, "fdatasync,fsync", "delay_enter=20000000");
    let is_traced = || !gateway.proc_file("status").contains("TracerPid:\t0\n");
    until("the gateway to be traced", || is_traced().then_some(())).await;
    let began = std::time::Instant::now();
    let login = gateway.ask(Ask::login("200@example.org", PASSWORD));
    let others = async {
        let mut slowest = std::time::Duration::ZERO;
        for _ in 0..50 {
            let asked = std::time::Instant::now();
            assert!(gateway.knows(&stays).await);
            slowest = slowest.max(asked.elapsed());
        }
        slowest
    };
    let (login, slowest) = tokio::join!(login, others);
    login.assert_error(503);
    assert!(login.header("retry-after").is_some(), "{}", login.brief());
    assert!(began.elapsed() < std::time::Duration::from_secs(15), "{:?}", began.elapsed());
    assert!(slowest < std::time::Duration::from_secs(2), "a check waited for the disk: {slowest:?}");
    gateway.ask(Ask::post("/logout").with(&leaves)).await.assert_error(503);
    assert!(gateway.knows(&stays).await && !gateway.knows(&leaves).await, "a logout acts here at once");
    assert!(gateway.output().contains("takes too long to be written"), "{}", gateway.output());
    drop(meddler);
    until_async("logins to work again", || async {
        gateway.ask(Ask::login("200@example.org", PASSWORD)).await.status == 200
    })
    .await;
    let new = gateway.login("200").await;
    until_async("the end to be stored", || async {
        let rows = Connection::open(stored_at(&gateway)).unwrap();
        let of_user = "SELECT count(*) FROM sessions WHERE user = '100@example.org'";
        rows.query_row(of_user, [], |row| row.get(0)) == Ok(1)
    })
    .await;
    gateway.kill9();
    gateway.restart().await;
    assert!(gateway.knows(&stays).await && gateway.knows(&new).await && !gateway.knows(&leaves).await);
}

#[tokio::test]
async fn a_folder_that_is_read_only_is_told_at_the_start() {
    let mut disk = None;
    let (_upstream, mut gateway) = gateway(|prepared| {
        disk = Disk::mount(&prepared.folder.path().join("disk"));
        prepared.settings.set("sessions.file", "'disk/sessions.db'");
    })
    .await;
    let Some(disk) = disk else {
        println!("nothing can be mounted here: this scene was left out");
        return;
    };
    let session = gateway.login("100").await;
    assert_eq!(gateway.terminate().await, 0);
    let remount = |how: &str| {
        let options = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&disk.0).status().unwrap().success());
    };
    remount("ro");
    let (code, said) = gateway.refuses_to_start().await;
    assert!(code == 1 && said.contains("sessions.db"), "{code}: {said}");
    remount("rw");
    gateway.restart().await;
    assert!(gateway.knows(&session).await);
}

#[tokio::test]
async fn a_lock_of_another_program_is_borne() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let other = Connection::open(store(&gateway)).unwrap();
    let lock = |_: &TestGateway| other.execute_batch("BEGIN IMMEDIATE").unwrap();
    writes_fail(&mut gateway, lock, |_| other.execute_batch("COMMIT").unwrap()).await;
    assert!(gateway.output().contains("has the file locked"), "{}", gateway.output());
}

fn kept_aside(gateway: &TestGateway) -> Vec<PathBuf> {
    let files = std::fs::read_dir(gateway.folder()).unwrap().map(|entry| entry.unwrap().path());
    let is_kept = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("sessions.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
    };
    files.filter(is_kept).collect()
}

#[tokio::test]
async fn a_damaged_file_is_kept_under_another_name_and_the_gateway_starts() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 5] = [
        ("header", |bytes| bytes[..100].fill(0xa5)),
        ("middle", |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle..middle + 2000].fill(0xa5);
        }),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("emptied", Vec::clear),
        ("text", |bytes| *bytes = b"users = 5\n".repeat(300)),
    ];
    let (_upstream, mut gateway) = configured(|_| {}).await;
    for (name, damage) in damages {
        let mut sessions = Vec::new();
        for _ in 0..60 {
            sessions.push(gateway.login("100").await);
        }
        assert_eq!(gateway.terminate().await, 0);
        // All of it in the file: a log beside it would heal the damage.
        Connection::open(store(&gateway)).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut bytes = std::fs::read(store(&gateway)).unwrap();
        damage(&mut bytes);
        std::fs::write(store(&gateway), &bytes).unwrap();
        let before = kept_aside(&gateway);
        gateway.restart().await;
        let kept: Vec<_> = kept_aside(&gateway).into_iter().filter(|path| !before.contains(path)).collect();
        assert_eq!(kept.len(), 1, "{name}: {}", gateway.output());
        assert_eq!(std::fs::read(&kept[0]).unwrap(), bytes, "{name}: it is kept as it was");
        let kept = kept[0].file_name().unwrap().to_string_lossy().into_owned();
        let tells = |line: &&str| [r#""ERROR""#, &kept, "salvage"].iter().all(|part| line.contains(part));
        let told = || gateway.output().lines().find(tells).map(str::to_owned);
        let told = until("the log to tell", told).await;
        if name == "middle" {
            salvages(&gateway, &told);
        }
        assert!(!gateway.knows(&sessions[0]).await, "{name}");
        let new = gateway.login("100").await;
        gateway.restart().await;
        assert!(gateway.knows(&new).await, "{name}: the new file is kept too");
    }
}

/// What the log says is to be done does it.
fn salvages(gateway: &TestGateway, line: &str) {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        println!("sqlite3 is not installed: the salvage was left out");
        return;
    }
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let command = line["salvage"].as_str().unwrap();
    let done = Command::new("sh").args(["-c", command]).current_dir(gateway.folder()).output().unwrap();
    let salvaged = Connection::open(gateway.folder().join("salvaged.db")).unwrap();
    let number = |query| salvaged.query_row(query, [], |row| row.get::<_, i64>(0));
    let rows = number("SELECT count(*) FROM sessions").unwrap_or_default();
    assert!(rows > 0, "{command}: {}", String::from_utf8_lossy(&done.stderr));
    let original = Connection::open(store(gateway)).unwrap();
    for query in ["PRAGMA application_id", "PRAGMA user_version"] {
        let wanted = original.query_row(query, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(number(query).unwrap(), wanted, "{query}: a gateway would not take it");
    }
}

#[tokio::test]
async fn another_programs_file_is_refused_and_left() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    gateway.kill9();
    for part in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(gateway.folder().join(format!("sessions.db{part}")));
    }
    Connection::open(store(&gateway)).unwrap().execute_batch("CREATE TABLE t (a)").unwrap();
    let bytes = std::fs::read(store(&gateway)).unwrap();
    let (code, said) = gateway.refuses_to_start().await;
    assert!(
        code == 1 && said.contains("not a sessions file") && said.contains("sessions.db"),
        "{code} {said}"
    );
    assert_eq!(std::fs::read(store(&gateway)).unwrap(), bytes);
    // A file that no postern has used, whatever it is, is a mistake in the configuration.
    std::fs::remove_file(gateway.folder().join("sessions.db.lock")).unwrap();
    std::fs::write(store(&gateway), "users = 5\n".repeat(300)).unwrap();
    let (code, said) = gateway.refuses_to_start().await;
    assert!(code == 1 && said.contains("left as it is"), "{code} {said}");
    assert!(kept_aside(&gateway).is_empty());
}
