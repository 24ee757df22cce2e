//! What holds of the map whichever store is behind it: memory, a file, Redis. One test, over each of them.

use super::*;
use crate::session::adopted::Rights;
use crate::session::file::FileStore;
use crate::session::filter::Filter;
use crate::session::memory::MemoryOnly;
use crate::session::redis::tests::Server;
use crate::session::replica::Found;
use crate::session::store::contract::{FAR, record};
use crate::session::token::DomainToken;

fn of(user: &str) -> Filter {
    Filter { user: Some(UserName::new(user)), ..Filter::default() }
}

/// The keys of all sessions, one page of two after another.
async fn listed(sessions: &Sessions, filter: &Filter) -> Vec<KeyHash> {
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let page = sessions.page(filter, after.as_deref(), 2).await.unwrap();
        assert!(page.sessions.len() <= 2);
        seen.extend(page.sessions.iter().map(|session| session.id));
        after = page.next;
        if after.is_none() {
            seen.sort();
            return seen;
        }
    }
}

async fn is_gone(sessions: &Sessions, id: &KeyHash) -> bool {
    sessions.get(id).is_none() && !matches!(sessions.find(id).await.unwrap(), Found::Session(_))
}

async fn keeps_its_promises(sessions: &Sessions) {
    logs_in_and_out(sessions).await;
    ends_the_oldest(sessions).await;
    lists_and_ends_what_fits(sessions).await;
    follows_the_directory(sessions).await;
    bars_an_engines(sessions).await;
    keeps_domain_tokens(sessions).await;
}

async fn logs_in_and_out(sessions: &Sessions) {
    let (one, two) = (sessions.reserve_expiry(UnixMillis(FAR)), sessions.reserve_expiry(UnixMillis(FAR)));
    assert_ne!(one.await.unwrap(), two.await.unwrap(), "no two tokens are the same");
    let made = sessions.create(record("a", "u@x", FAR), 0).await.unwrap();
    assert!(Arc::ptr_eq(&sessions.get(&made.id).unwrap(), &made) && !made.is_ended());
    assert!(is_gone(sessions, &KeyHash::of("never there")).await);
    assert!(sessions.end(&made.id, Cause::Logout).await.unwrap());
    assert!(made.is_ended() && is_gone(sessions, &made.id).await);
    assert!(!sessions.end(&made.id, Cause::Logout).await.unwrap(), "of two logouts one did");
}

async fn ends_the_oldest(sessions: &Sessions) {
    for n in 0..3 {
        sessions.create(record(&format!("old {n}"), "many@x", FAR + n), 2).await.unwrap();
    }
    let left: Vec<_> = sessions.of_user(&UserName::new("many@x")).iter().map(|one| one.id).collect();
    assert_eq!(left, [KeyHash::of("old 1"), KeyHash::of("old 2")]);
    assert!(is_gone(sessions, &KeyHash::of("old 0")).await);
}

async fn lists_and_ends_what_fits(sessions: &Sessions) {
    for (key, user) in [("1", "v@x"), ("2", "v@x"), ("3", "w@y")] {
        sessions.create(record(key, user, FAR), 0).await.unwrap();
    }
    assert_eq!(listed(sessions, &Filter::default()).await.len(), 5);
    assert_eq!(listed(sessions, &of("v@x")).await.len(), 2);
    let domain = Filter { domain: Some("y".into()), ..Filter::default() };
    assert_eq!(listed(sessions, &domain).await, [KeyHash::of("3")]);
    assert_eq!(sessions.end_fitting(&domain).await.unwrap(), 1);
    assert_eq!(sessions.end_fitting(&of("v@x")).await.unwrap(), 2);
    let before = Filter { before: Some(UnixMillis(FAR)), ..Filter::default() };
    assert_eq!(sessions.end_fitting(&before).await.unwrap(), 2);
    assert!(listed(sessions, &Filter::default()).await.is_empty() && sessions.is_empty());
}

async fn follows_the_directory(sessions: &Sessions) {
    let [gone, moved, same] = ["gone", "moved", "same"];
    for user in [gone, moved, same] {
        sessions.create(record(user, user, FAR), 0).await.unwrap();
    }
    let before = sessions.get(&KeyHash::of(moved)).unwrap();
    let role_of = |session: &Session| match session.user.as_str() {
        "gone" => None,
        "moved" => Some(RoleName::new("high")),
        _ => Some(session.role.clone()),
    };
    let done = sessions.reconcile(role_of).await.unwrap();
    assert_eq!(done, Reconciled { ended: 1, new_role: 1 });
    assert!(before.is_ended() && is_gone(sessions, &KeyHash::of(gone)).await);
    assert_eq!(sessions.get(&before.id).unwrap().role.as_str(), "high");
    assert!(!sessions.get(&KeyHash::of(same)).unwrap().is_ended());
    assert_eq!(sessions.end_fitting(&of(moved)).await.unwrap(), 1);
    assert_eq!(sessions.end_fitting(&of(same)).await.unwrap(), 1);
}

async fn bars_an_engines(sessions: &Sessions) {
    let engines = SessionRecord { adopted: Some(Rights::OfRole), ..record("e", "u@x", FAR) };
    let made = sessions.create(engines, 0).await.unwrap();
    assert!(sessions.end(&made.id, Cause::Logout).await.unwrap());
    assert!(
        is_gone(sessions, &made.id).await && sessions.is_barred(&made.id),
        "its engine may know it still"
    );
}

async fn keeps_domain_tokens(sessions: &Sessions) {
    let tokens = sessions.domain_tokens();
    let (id, domain) = ("t".to_owned(), "x".to_owned());
    let minted =
        DomainToken { id, domain, role: RoleName::new("low"), expires: UnixMillis(FAR), enabled: true };
    tokens.mint(minted).await.unwrap();
    let held = tokens.get("t").unwrap();
    tokens.set_enabled("x", "t", false).await.unwrap();
    assert!(held.is_over(UnixMillis(0)) && !tokens.get("t").unwrap().record.enabled);
    tokens.remove("x", "t").await.unwrap();
    assert!(tokens.get("t").is_none() && tokens.of_domain("x").is_empty());
}

#[tokio::test]
async fn memory() {
    keeps_its_promises(&Sessions::open(Arc::new(MemoryOnly), &Clock::system()).await.unwrap()).await;
}

#[tokio::test]
async fn a_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(&folder.path().join("sessions.db")).unwrap();
    keeps_its_promises(&Sessions::open(Arc::new(store), &Clock::system()).await.unwrap()).await;
}

#[tokio::test]
async fn redis() {
    let Some(server) = Server::start() else { return };
    keeps_its_promises(&*server.replica().await).await;
}
