//! The store over a real redis-server: left out, with a line that says so, where there is none.

use super::*;
use crate::clock::Clock;
use crate::session::ends::Cause;
use crate::session::map::Sessions;
use crate::session::replica::Found;
use crate::session::store::contract::{self, FAR, record};
use std::process::{Child, Command, Stdio};

pub(in crate::session) struct Server {
    child: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    pub(in crate::session) fn start() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let started = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(child) => Some(Self { child, port, _folder: folder }),
            Err(error) => {
                assert!(
                    std::env::var_os("POSTERN_REQUIRE_PEERS").is_none(),
                    "redis-server is required: {error}"
                );
                println!("redis-server is not installed: this test was left out");
                None
            }
        }
    }

    async fn store(&self) -> RedisStore {
        let store = RedisStore::open(self.settings()).unwrap();
        store.connected().await.unwrap();
        store
    }

    /// A map that follows, as a replica's does.
    pub(in crate::session) async fn replica(&self) -> Arc<Sessions> {
        let store = RedisStore::open(self.settings()).unwrap();
        let sessions = Arc::new(Sessions::open(Arc::new(store), &Clock::system()).await.unwrap());
        sessions.follow(Box::new(|_, role, _| Some(role.clone())));
        let freshness = Arc::clone(sessions.freshness().unwrap());
        timeout(FIRST, async {
            while !freshness.is_current() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the replica to be current");
        sessions
    }

    fn settings(&self) -> RedisSettings {
        RedisSettings {
            place: Place::One { is_tls: false, host: "127.0.0.1".into(), port: self.port, database: 0 },
            username: None,
            password: None,
            ca: None,
            max_stale: Duration::from_secs(60),
            local_logins: false,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let reopen = |store| {
        drop(store);
        let settings = server.settings();
        // Another thread: the runtime of this one waits here.
        std::thread::spawn(move || {
            let store = RedisStore::open(settings).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(store.connected()).unwrap();
            store
        })
        .join()
        .unwrap()
    };
    contract::holds_for(store, reopen).await;
}

#[tokio::test]
async fn one_that_was_barred_is_not_adopted_and_one_that_is_gone_is_not_changed() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let (a, b) = (record("a", "u", FAR), record("b", "u", FAR));
    assert!(store.adopt(a.clone()).await.unwrap());
    assert!(store.adopt(a.clone()).await.unwrap(), "by another replica too");
    store.bar(vec![Barred { id: a.id, expires: a.expires }]).await.unwrap();
    assert!(!store.adopt(a.clone()).await.unwrap());
    assert!(matches!(store.find(a.id).await.unwrap(), Kept::Barred));
    store.change(b.clone()).await.unwrap();
    assert!(matches!(store.find(b.id).await.unwrap(), Kept::Nothing));
    assert!(store.of_user(UserName::new("u")).await.unwrap().is_empty());
}

#[tokio::test]
async fn names_are_taken_once_and_failures_are_counted_in_their_window() {
    let Some(server) = Server::start() else { return };
    let (store, other) = (server.store().await, server.store().await);
    assert!(store.claim("x".into(), Duration::from_secs(9)).await.unwrap());
    assert!(!other.claim("x".into(), Duration::from_secs(9)).await.unwrap());
    assert!(other.claim("y".into(), Duration::from_millis(1)).await.unwrap());
    timeout(FIRST, async { while !store.claim("y".into(), Duration::from_millis(1)).await.unwrap() {} })
        .await
        .unwrap();
    let of = ["pair".to_owned(), "address".to_owned()];
    let window = Duration::from_secs(300);
    assert_eq!(store.failures(of.clone()).await.unwrap().map(|f| f.count), [0, 0]);
    store.count_failure(of.clone(), window).await.unwrap();
    let counted = other.count_failure([of[0].clone(), "another".to_owned()], window).await.unwrap();
    assert_eq!(counted.map(|f| f.count), [2, 1]);
    let found = store.failures(of).await.unwrap();
    assert_eq!(found.map(|f| f.count), [2, 1]);
    assert!(found.iter().all(|f| f.left <= window && f.left > window / 2));
}

#[tokio::test]
async fn what_one_replica_makes_and_ends_the_others_know_at_once() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (server.replica().await, server.replica().await);
    let made = a.create(record("k", "u", FAR), 0).await.unwrap();
    let Found::Session(found) = b.find(&made.id).await.unwrap() else { panic!("b does not find it") };
    assert!(found.token.matches(&made.token) && Arc::ptr_eq(&b.get(&made.id).unwrap(), &found));
    assert!(a.end(&made.id, Cause::Logout).await.unwrap());
    timeout(FIRST, async {
        while !found.is_ended() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("b to hear of it");
    assert!(b.get(&made.id).is_none() && matches!(b.find(&made.id).await.unwrap(), Found::Ended));
    // One that neither has seen.
    let third = server.store().await;
    third.put(record("z", "u", FAR)).await.unwrap();
    assert!(b.end(&KeyHash::of("z"), Cause::Operator).await.unwrap());
    assert!(!a.end(&KeyHash::of("z"), Cause::Operator).await.unwrap());
}

#[tokio::test]
async fn the_oldest_of_a_users_sessions_end_wherever_they_were_made() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (server.replica().await, server.replica().await);
    for (n, key) in ["1", "2", "3"].into_iter().enumerate() {
        let sessions = if n % 2 == 0 { &a } else { &b };
        sessions.create(record(key, "u", FAR + n as u64), 2).await.unwrap();
    }
    assert!(matches!(b.find(&KeyHash::of("1")).await.unwrap(), Found::Ended | Found::Unknown));
    assert!(matches!(a.find(&KeyHash::of("2")).await.unwrap(), Found::Session(_)));
    assert!(matches!(b.find(&KeyHash::of("3")).await.unwrap(), Found::Session(_)));
    let filter = crate::session::filter::Filter { user: Some(UserName::new("u")), ..Default::default() };
    assert_eq!(a.page(&filter, None, 10).await.unwrap().sessions.len(), 2);
    assert_eq!(
        b.page(&Default::default(), None, 10).await.unwrap().sessions.len(),
        2,
        "all of them, wherever they are"
    );
    assert_eq!(a.end_fitting(&filter).await.unwrap(), 2);
    // The other lists what it holds until it has heard, a moment later.
    timeout(FIRST, async {
        while !b.page(&filter, None, 10).await.unwrap().sessions.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the other replica to hear of the ends");
}

#[tokio::test]
async fn many_who_ask_for_one_unknown_key_ask_redis_once() {
    let Some(server) = Server::start() else { return };
    let sessions = server.replica().await;
    let id = KeyHash::of("nobody's");
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let sessions = Arc::clone(&sessions);
            tokio::spawn(async move { sessions.find(&id).await })
        })
        .collect();
    for one in asked {
        assert!(matches!(one.await.unwrap().unwrap(), Found::Unknown));
    }
    let finds = sessions.store_operations().1.counts().find(|(operation, _, _)| operation.as_str() == "find");
    assert_eq!(finds.map(|(_, good, bad)| (good, bad)), Some((1, 0)));
}

#[tokio::test]
async fn pages_of_all_sessions_hold_each_once_and_those_that_redis_does_not_have_too() {
    let Some(server) = Server::start() else { return };
    let (a, b) = (server.replica().await, server.replica().await);
    for n in 0..40 {
        a.create(record(&format!("k{n}"), &format!("u{}@d", n % 7), FAR), 0).await.unwrap();
    }
    let _socket = b.create_unstored(record("socket", "u3@d", FAR));
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = b.page(&Default::default(), after.as_deref(), 9).await.unwrap();
        seen.extend(page.sessions.iter().map(|session| session.id));
        // What comes meanwhile or goes moves nothing else.
        a.create(record(&format!("late {}", seen.len()), "u5@d", FAR), 0).await.unwrap();
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let count = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), count, "each once");
    assert!((0..40).all(|n| seen.contains(&KeyHash::of(&format!("k{n}")))));
    assert!(seen.contains(&KeyHash::of("socket")));
    assert!(a.page(&Default::default(), Some("7"), 9).await.is_err());
}

#[tokio::test]
async fn sessions_are_found_in_whatever_set_they_were_written_to() {
    let Some(server) = Server::start() else { return };
    let keys_of_sets = async |store: &RedisStore| {
        let keys = async |calls: &mut Connection| Ok(calls.ask(cmd("KEYS").arg("postern:u:*")).await?);
        let mut keys: Vec<String> = store.call(keys).await.unwrap();
        keys.sort();
        keys
    };
    let (few, first) = (server.store().await, record("first", "u@d", FAR));
    few.put(first.clone()).await.unwrap();
    // As many keys as thousands of sessions have: now there are more sets.
    let fill = async |calls: &mut Connection| {
        let sets = (0..4000).map(|n| cmd("SET").arg(format!("filler {n}")).arg(1).clone()).collect();
        calls.all(sets).await.map(drop).map_err(Fault::from)
    };
    few.call(fill).await.unwrap();
    let many = server.store().await;
    many.put(record("second", "u@d", FAR)).await.unwrap();
    let group = sets::group(&first.user);
    let of_user: Vec<_> = sets::keys(&(group..group + 1)).collect();
    assert_eq!(keys_of_sets(&many).await, of_user[..2]);
    many.put(first.clone()).await.unwrap();
    for store in [&few, &many] {
        assert_eq!(
            store.of_user(first.user.clone()).await.unwrap().len(),
            2,
            "each once, wherever it stands"
        );
        let all = async |calls: &mut Connection| listing::some(calls, None, 9, &|_| true, 0).await;
        assert_eq!(store.call(all).await.unwrap().len(), 2);
    }
    few.remove(vec![first.id, KeyHash::of("second")]).await.unwrap();
    assert!(keys_of_sets(&many).await.is_empty(), "nothing of them is left");
}

/// As where a node of a cluster is away: what goes to another one is no worse for it.
#[tokio::test]
async fn sessions_that_cannot_be_counted_are_written_all_the_same() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    let forbid = async |calls: &mut Connection| {
        Ok(calls.ask::<String>(cmd("ACL").arg(&["SETUSER", "default", "-dbsize"])).await?)
    };
    store.call(forbid).await.unwrap();
    let record = record("a", "u@d", FAR);
    store.put(record.clone()).await.unwrap();
    assert_eq!(store.of_user(record.user.clone()).await.unwrap().len(), 1);
    store.remove(vec![record.id]).await.unwrap();
    assert!(store.of_user(record.user).await.unwrap().is_empty());
}

/// In either way of listing, one page of seven behind the other.
#[tokio::test]
async fn all_sessions_stand_in_one_order_however_many_there_are() {
    let Some(server) = Server::start() else { return };
    let store = server.store().await;
    for n in 0..60 {
        store.put(record(&format!("k{n}"), &format!("u{}@d", n % 9), FAR)).await.unwrap();
    }
    let pages = async |few_keys| {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let fits = |record: &SessionRecord| record.user.as_str() != "u4@d";
            let some = async |calls: &mut Connection| listing::some(calls, after, 7, &fits, few_keys).await;
            let found = store.call(some).await.unwrap();
            if found.is_empty() {
                return all;
            }
            all.extend(found.iter().take(7).map(|(position, _)| *position));
            after = all.last().copied();
        }
    };
    let (by_sets, by_keys) = (pages(0).await, pages(u64::MAX).await);
    assert!(by_sets.is_sorted() && by_sets.len() > 50, "{}", by_sets.len());
    assert_eq!(by_sets, by_keys);
}
