//! The map and its store: what changes one changes the other, in the order that fails safe.

mod every_store;

use super::*;
use crate::session::memory::double::KeepsInMemory;
use crate::session::store::contract::record;
use std::sync::atomic::Ordering;

async fn opened() -> (Sessions, Arc<KeepsInMemory>) {
    let store = Arc::new(KeepsInMemory::default());
    let sessions = Sessions::open(Arc::clone(&store) as _, &Clock::manual(UnixMillis(0))).await.unwrap();
    (sessions, store)
}

/// Polls a future once and drops it, as a client does who goes away.
async fn abandon<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
}

fn ids(sessions: &Sessions, user: &str) -> Vec<KeyHash> {
    sessions.of_user(&UserName::new(user)).iter().map(|s| s.id).collect()
}

#[tokio::test]
async fn a_session_is_found_by_its_key_until_it_ends() {
    let (sessions, store) = opened().await;
    let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
    assert!(Arc::ptr_eq(&sessions.get(&KeyHash::of("a")).unwrap(), &made));
    assert!(sessions.get(&KeyHash::of("A")).is_none());
    assert!(store.holds(&made.id));
    assert!(sessions.end(&made.id, Cause::Logout).await.unwrap());
    assert!(made.is_ended() && !store.holds(&made.id) && sessions.is_empty());
    assert!(!sessions.end(&made.id, Cause::Logout).await.unwrap());
    assert!(ids(&sessions, "u").is_empty());
}

#[tokio::test]
async fn what_the_store_holds_is_there_after_opening() {
    let (sessions, store) = opened().await;
    sessions.create(record("a", "u", 100), 0).await.unwrap();
    sessions.create(record("b", "u", 200), 0).await.unwrap();
    let again = Sessions::open(store as _, &Clock::manual(UnixMillis(100))).await.unwrap();
    assert_eq!(ids(&again, "u"), [KeyHash::of("b")]);
    assert_eq!(again.reserve_expiry(UnixMillis(200)).await.unwrap(), UnixMillis(201));
}

#[tokio::test]
async fn a_session_that_could_not_be_stored_is_not_there() {
    let (sessions, store) = opened().await;
    store.fails.store(true, Ordering::Relaxed);
    assert!(sessions.create(record("a", "u", 100), 0).await.is_err());
    assert!(sessions.is_empty() && ids(&sessions, "u").is_empty());
}

#[tokio::test]
async fn a_login_that_is_abandoned_leaves_nothing_in_the_store() {
    let (sessions, store) = opened().await;
    store.is_silent.store(true, Ordering::Relaxed);
    abandon(sessions.create(record("a", "u", 100), 0)).await;
    assert!(store.holds(&KeyHash::of("a")) && sessions.is_empty());
    store.is_silent.store(false, Ordering::Relaxed);
    sessions.settle().await.unwrap();
    assert!(!store.holds(&KeyHash::of("a")));
}

#[tokio::test]
async fn when_the_store_fails_a_session_ends_here_and_there_later() {
    let (sessions, store) = opened().await;
    let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
    store.fails.store(true, Ordering::Relaxed);
    assert!(sessions.end(&made.id, Cause::Logout).await.is_err());
    assert!(made.is_ended() && sessions.is_empty() && store.holds(&made.id));
    assert!(sessions.settle().await.is_err());
    store.fails.store(false, Ordering::Relaxed);
    assert_eq!(sessions.sweep(UnixMillis(0)).await, 0);
    assert!(!store.holds(&made.id));
}

#[tokio::test]
async fn a_sweep_ends_what_has_expired() {
    let (sessions, store) = opened().await;
    let old = sessions.create(record("a", "u", 100), 0).await.unwrap();
    sessions.create(record("b", "u", 101), 0).await.unwrap();
    assert_eq!(sessions.sweep(UnixMillis(100)).await, 1);
    assert!(old.is_ended() && sessions.get(&old.id).is_none());
    assert_eq!((sessions.len(), sessions.sweep(UnixMillis(100)).await), (1, 0));
    assert!(!store.holds(&old.id) && store.holds(&KeyHash::of("b")));
    // The clock set back is no second life.
    let again = Sessions::open(store as _, &Clock::manual(UnixMillis(50))).await.unwrap();
    assert!(again.get(&old.id).is_none());
}

#[tokio::test]
async fn the_oldest_sessions_of_a_user_end_beyond_his_number() {
    let (sessions, store) = opened().await;
    for (key, user, expires) in [("b", "u", 5002), ("a", "u", 5001), ("x", "v", 1), ("c", "u", 5003)] {
        sessions.create(record(key, user, expires), 2).await.unwrap();
    }
    assert_eq!(ids(&sessions, "u"), [KeyHash::of("b"), KeyHash::of("c")]);
    assert!(!store.holds(&KeyHash::of("a")));
    assert_eq!(sessions.len(), 3);
}

#[tokio::test]
async fn a_changed_directory_ends_and_changes_sessions() {
    let (sessions, store) = opened().await;
    let gone = sessions.create(record("a", "gone", 100), 0).await.unwrap();
    let moved = sessions.create(record("b", "moved", 100), 0).await.unwrap();
    let same = sessions.create(record("c", "same", 100), 0).await.unwrap();
    let role_of = |session: &Session| match session.user.as_str() {
        "gone" => None,
        "moved" => Some(RoleName::new("high")),
        _ => Some(RoleName::new("low")),
    };
    let done = sessions.reconcile(role_of).await.unwrap();
    assert_eq!(done, Reconciled { ended: 1, new_role: 1 });
    assert!(gone.is_ended() && moved.is_ended() && !same.is_ended());
    let now = sessions.get(&moved.id).unwrap();
    assert_eq!((now.role.as_str(), now.is_ended()), ("high", false));
    assert_eq!(sessions.reconcile(role_of).await.unwrap(), Reconciled::default());
    let again = Sessions::open(store as _, &Clock::manual(UnixMillis(0))).await.unwrap();
    assert_eq!(again.get(&moved.id).unwrap().role.as_str(), "high");
    assert!(again.get(&gone.id).is_none());
}

#[tokio::test]
async fn of_many_who_end_a_session_at_once_one_did() {
    let (sessions, _) = opened().await;
    let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
    let ended = std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..8).map(|_| scope.spawn(|| sessions.end_here(&made.id, Cause::Logout))).collect();
        all.into_iter().map(|t| usize::from(t.join().unwrap().is_some())).sum::<usize>()
    });
    assert_eq!(ended, 1);
}
