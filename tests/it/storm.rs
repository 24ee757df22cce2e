//! Everybody logs in at once.

use crate::support::{Ask, DOMAIN, configured};

/// 500 logins at once, each with a hash that takes its time: those that are too many are told so at once and when to come
/// again, the others are answered, and checked requests go on meanwhile.
#[tokio::test]
async fn a_login_storm_is_shed_and_stalls_no_call() {
    let hash =
        "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$2dTMzdXw2yMS6TtpRkYGxYqjWTpE9U3tTUUTQ6w0XqY";
    let (_upstream, gateway) =
        configured(|s| s.user_with(&format!("slow@{DOMAIN}"), "user", "password", hash)).await;
    let session = gateway.login("admin").await;
    let gateway = std::sync::Arc::new(gateway);
    let mut logins = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let gateway = std::sync::Arc::clone(&gateway);
        logins.spawn(async move { gateway.ask(Ask::login(&format!("slow@{DOMAIN}"), "no")).await });
    }
    let mut client = gateway.client().await;
    for _ in 0..50 {
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    }
    let (mut refused, mut shed) = (0, 0);
    while let Some(answer) = logins.join_next().await {
        let answer = answer.unwrap();
        match answer.status {
            401 => refused += 1,
            503 => {
                assert!(answer.header("retry-after").is_some());
                shed += 1;
            }
            _ => panic!("{}", answer.brief()),
        }
    }
    assert!(refused >= 100 && shed >= 100, "{refused} were judged, {shed} were shed");
}
