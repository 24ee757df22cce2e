//! `POST /logout` (contract section 3).

use serde_json::json;

use crate::support::{Answer, Ask, h2, usual};

#[track_caller]
fn assert_logged_out(answer: &Answer) {
    answer.assert_ok();
    assert_eq!(answer.json(), json!({"status": "OK", "info": "Successful logout."}));
    assert!(answer.header("content-type").unwrap().starts_with("application/json"));
}

#[tokio::test]
async fn a_good_logout_ends_the_session_at_once() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    assert!(gateway.knows(&session).await);
    assert_logged_out(&gateway.ask(Ask::post("/logout").with(&session)).await);
    assert!(!gateway.knows(&session).await);
    assert_eq!(upstream.requests().len(), 1, "only the request made under the session");
}

#[tokio::test]
async fn credentials_in_the_query_log_out_too() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    assert_logged_out(&gateway.ask(Ask::post(format!("/logout?{}", session.query()))).await);
    assert!(!gateway.knows(&session).await);
}

#[tokio::test]
async fn a_body_does_no_harm() {
    let (_upstream, gateway) = usual().await;
    for body in ["{}", "", "not json at all"] {
        let session = gateway.login("100").await;
        assert_logged_out(&gateway.ask(Ask::post("/logout").with(&session).body(body)).await);
        let session = gateway.login("100").await;
        assert_logged_out(
            &gateway.ask(Ask::post("/logout").with(&session).chunked(format!("{body}."))).await,
        );
    }
}

#[tokio::test]
async fn the_second_of_two_logouts_is_a_bad_caller() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    assert_logged_out(&gateway.ask(Ask::post("/logout").with(&session)).await);
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_refusal(401, "Bad caller");
}

#[tokio::test]
async fn logouts_at_the_same_time_leave_nothing_behind() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let asks = (0..8).map(|_| gateway.ask(Ask::post("/logout").with(&session)));
    let statuses: Vec<u16> =
        futures_util::future::join_all(asks).await.iter().map(|answer| answer.status).collect();
    assert!(
        statuses.contains(&200) && statuses.iter().all(|status| matches!(status, 200 | 401)),
        "{statuses:?}"
    );
    assert!(!gateway.knows(&session).await);
}

#[tokio::test]
async fn it_ends_that_session_alone() {
    let (_upstream, gateway) = usual().await;
    let (ended, same_user, other_user) =
        (gateway.login("100").await, gateway.login("100").await, gateway.login("200").await);
    assert_logged_out(&gateway.ask(Ask::post("/logout").with(&ended)).await);
    assert!(!gateway.knows(&ended).await);
    assert!(gateway.knows(&same_user).await);
    assert!(gateway.knows(&other_user).await);
}

#[tokio::test]
async fn missing_unknown_or_not_matching_credentials_are_a_bad_caller_and_end_nothing() {
    let (_upstream, gateway) = usual().await;
    let (one, other) = (gateway.login("100").await, gateway.login("200").await);
    let stranger = uuid::Uuid::new_v4().to_string();
    let asks = [
        Ask::post("/logout"),
        Ask::post("/logout").header("X-Access-Token", &one.token),
        Ask::post("/logout").header("X-Key", &one.key),
        Ask::post("/logout").header("X-Access-Token", &one.token).header("X-Key", &stranger),
        Ask::post("/logout").header("X-Access-Token", &other.token).header("X-Key", &one.key),
        Ask::post("/logout").header("X-Access-Token", "a.b.c").header("X-Key", &one.key),
        Ask::post("/logout").header("X-Access-Token", "").header("X-Key", ""),
    ];
    for ask in asks {
        gateway.ask(ask).await.assert_refusal(401, "Bad caller");
    }
    assert!(gateway.knows(&one).await && gateway.knows(&other).await);
}

#[tokio::test]
async fn ambiguous_credentials_are_400_and_end_nothing() {
    let (_upstream, gateway) = usual().await;
    let (one, other) = (gateway.login("100").await, gateway.login("200").await);
    let asks = [
        Ask::post("/logout").with(&one).with(&other),
        Ask::post(format!("/logout?{}", other.query())).with(&one),
        Ask::post(format!("/logout?{}&x_key[$in]={}", one.query(), other.key)),
    ];
    for ask in asks {
        gateway.ask(ask).await.assert_refusal(400, "Ambiguous credentials");
    }
    assert!(gateway.knows(&one).await && gateway.knows(&other).await);
}

#[tokio::test]
async fn it_works_over_http2() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let mut client = h2::H2Client::connect(&gateway).await;
    let answer = client.ask(h2::request("POST", "/logout", Some(&session), h2::Frames::empty())).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"status": "OK", "info": "Successful logout."})));
    assert!(!gateway.knows(&session).await);
}
