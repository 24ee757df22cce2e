//! Redis away: killed, frozen, cut off, emptied, with another password (contract sections 2, 3 and 6).

use std::time::{Duration, Instant};

use crate::replicas::{Pair, pair, pair_over, refused_for_good, status, upgrade_of};
use crate::support::answer::status_of;
use crate::support::settings::Settings;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, PASSWORD, Redis, SECRET, Session, TestGateway, jwt};

/// Longer than it takes to notice, shorter than the scenes' patience.
const MAX_STALE: &str = "'4s'";

/// How long any answer may take, and how long what is back may take to be used again.
const BOUND: Duration = Duration::from_secs(5);

async fn short(redis: Redis) -> Option<Pair> {
    pair_over(redis, |settings| settings.set("sessions.redis.max_stale", MAX_STALE)).await
}

/// The status, which came within the bound.
#[expect(clippy::disallowed_methods, reason = "the time of an answer is what is judged")]
async fn prompt(gateway: &TestGateway, ask: Ask) -> u16 {
    let began = Instant::now();
    let answer = gateway.ask(ask).await;
    assert!(began.elapsed() < BOUND, "an answer took {:?}", began.elapsed());
    answer.status
}

async fn login_is(gateway: &TestGateway, expected: u16) {
    assert_eq!(prompt(gateway, Ask::login("100@example.org", PASSWORD)).await, expected);
}

async fn ready(gateway: &TestGateway) -> u16 {
    gateway.admin_ask(Ask::get("/readyz")).await.status
}

/// What every outage must look like from outside, whatever it is. `away` and `back` make it and end it.
async fn outage(mut pair: Pair, away: impl FnOnce(&mut Redis), back: impl AsyncFnOnce(&mut Redis)) {
    let (held, unseen, leaving) =
        (pair.a.login("100").await, pair.a.login("200").await, pair.a.login("idle").await);
    let gone = pair.a.login("100").await;
    assert_eq!(status(&pair.b, &held).await, 200);
    pair.b.ask(Ask::post("/logout").with(&gone)).await.assert_ok();
    refused_for_good(&pair.a, &gone).await;

    away(&mut pair.redis);
    // Known on b: goes on. Known on a alone: b cannot tell, which is 503 and never 401.
    let until_stale = async {
        loop {
            match prompt(&pair.b, Ask::get("/me/x").with(&held)).await {
                200 => {}
                503 => break,
                other => panic!("a good session was answered {other}"),
            }
            let unseen = prompt(&pair.b, Ask::get("/me/x").with(&unseen)).await;
            assert!(unseen == 503 || unseen == 200, "{unseen}");
            assert_ne!(prompt(&pair.a, Ask::get("/me/x").with(&gone)).await, 200);
            assert_ne!(prompt(&pair.b, Ask::get("/me/x").with(&gone)).await, 200);
        }
    };
    let logout = async {
        assert_eq!(prompt(&pair.a, Ask::post("/logout").with(&leaving)).await, 503);
        // Here it has ended.
        assert_ne!(prompt(&pair.a, Ask::get("/me/x").with(&leaving)).await, 200);
        login_is(&pair.a, 503).await;
    };
    tokio::join!(until_stale, logout);
    for gateway in [&pair.a, &pair.b] {
        until_async("the gateway to be stale", || async { ready(gateway).await == 503 }).await;
    }
    let refused = pair.b.ask(Ask::get("/me/x").with(&held)).await;
    refused.assert_error(503);
    assert!(refused.header("retry-after").is_some());

    back(&mut pair.redis).await;
    let returned = async |gateway: &TestGateway| {
        until_async("the gateway to be back", || async { ready(gateway).await == 200 }).await;
    };
    tokio::time::timeout(BOUND, async { tokio::join!(returned(&pair.a), returned(&pair.b)) })
        .await
        .expect("back within the bound");
    for gateway in [&pair.a, &pair.b] {
        assert_eq!(status(gateway, &held).await, 200, "a good session was lost");
        assert_eq!(status(gateway, &unseen).await, 200, "a good session was lost");
        // The logout that was answered 503 has come through.
        refused_for_good(gateway, &leaving).await;
        refused_for_good(gateway, &gone).await;
    }
    let again = pair.b.login("100").await;
    assert_eq!(status(&pair.a, &again).await, 200);
}

#[tokio::test]
async fn frozen() {
    let Some(redis) = Redis::start().await else { return };
    let Some(pair) = short(redis).await else { return };
    outage(pair, |redis| redis.freeze(), async |redis| redis.thaw()).await;
}

#[tokio::test]
async fn killed_and_started_again_from_its_own_disk() {
    let args = ["--appendonly", "yes", "--appendfsync", "always", "--dir", "FOLDER"];
    let Some(redis) = Redis::with(&args).await else { return };
    let Some(pair) = short(redis).await else { return };
    outage(pair, Redis::kill, async |redis| redis.run().await).await;
}

#[tokio::test]
async fn cut_off_in_either_direction() {
    for (to_redis, from_redis) in [(true, false), (false, true)] {
        let Some(redis) = Redis::start().await else { return };
        let redis = redis.behind_a_wire().await;
        let Some(pair) = short(redis).await else { return };
        outage(pair, |redis| redis.cut(to_redis, from_redis), async |redis| redis.cut(false, false)).await;
    }
}

#[tokio::test]
async fn what_is_open_goes_on_no_longer_than_new_requests_do() {
    let change = |settings: &mut Settings| settings.set("sessions.redis.max_stale", "'2s'");
    let Some(pair) = pair(change).await else { return };
    let session = pair.a.login("admin").await;
    let mut socket = pair.b.client().await;
    socket.send(upgrade_of(&session).bytes()).await;
    assert_eq!(status_of(&socket.answer_head().await), 101);
    pair.redis.freeze();
    until("it to be noticed", || pair.b.output().contains("Redis is away").then_some(())).await;
    assert_eq!(status(&pair.b, &session).await, 200, "known, for max_stale");
    socket.closed().await;
    assert_eq!(status(&pair.b, &session).await, 503);
    pair.redis.thaw();
    until_async("the gateway to be back", || async { status(&pair.b, &session).await == 200 }).await;
}

#[tokio::test]
async fn data_that_is_lost_ends_the_sessions_it_held() {
    let Some(pair) = pair(|_| {}).await else { return };
    let held = pair.a.login("100").await;
    assert_eq!(status(&pair.b, &held).await, 200);
    pair.redis.cli(&["FLUSHALL"]);
    refused_for_good(&pair.a, &held).await;
    refused_for_good(&pair.b, &held).await;
    let again = pair.a.login("100").await;
    assert_eq!(status(&pair.b, &again).await, 200);
    pair.a.ask(Ask::post("/logout").with(&again)).await.assert_ok();
    refused_for_good(&pair.b, &again).await;
}

#[tokio::test]
async fn one_that_comes_back_empty_ends_them_too() {
    let Some(mut pair) = pair(|_| {}).await else { return };
    let held = pair.a.login("100").await;
    pair.redis.kill();
    pair.redis.run().await;
    until_async("the end", || async { status(&pair.a, &held).await == 401 }).await;
    refused_for_good(&pair.a, &held).await;
    for gateway in [&pair.a, &pair.b] {
        until_async("the gateway to be current", || async {
            prompt(gateway, Ask::login("100@example.org", PASSWORD)).await == 200
        })
        .await;
    }
    assert_eq!(status(&pair.b, &pair.a.login("100").await).await, 200);
}

#[tokio::test]
async fn changes_that_were_missed_are_noticed() {
    let Some(pair) = pair(|_| {}).await else { return };
    let held = pair.a.login("100").await;
    let key = pair.redis.cli(&[
        "--raw",
        "EVAL",
        "for _, k in ipairs(redis.call('KEYS', 'postern:s:*')) do redis.call('DEL', k) end return 'done'",
        "0",
    ]);
    assert_eq!(key, "done");
    assert_eq!(status(&pair.a, &held).await, 200, "nobody told it");
    // A gap in the numbers: what is held is compared with what is there.
    pair.redis.cli(&["XADD", "postern:changes", "1-1000", "by", "somebody", "at", "0"]);
    refused_for_good(&pair.a, &held).await;
}

#[tokio::test]
async fn the_wrong_password_is_told_and_mended_without_a_restart() {
    let Some(redis) = Redis::start().await else { return };
    redis.cli(&["ACL", "SETUSER", "postern", "on", ">another", "~*", "&*", "+@all"]);
    let upstream = crate::support::TestUpstream::start().await;
    let url = upstream.url();
    let gateway = TestGateway::run_unready(crate::support::Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        redis.in_use(settings);
        settings.set("sessions.redis.username", "'postern'");
        settings.set("sessions.redis.password_file", "'redis.password'");
        settings.file("redis.password", b"s3cret-of-redis");
    }))
    .await;
    until("the fault to be told", || gateway.output().contains("password_file").then_some(())).await;
    until_async("the store to be what is missing", || async {
        let unready = gateway.admin_ask(Ask::get("/readyz")).await;
        assert_eq!(unready.status, 503);
        unready.info().contains("store")
    })
    .await;
    login_is(&gateway, 503).await;
    let claims = format!(r#"{{"exp":{},"acl":{{}}}}"#, jwt::now() + 60_000);
    let token = jwt::sign(jwt::HEADER, &claims, SECRET);
    let unknown = Session { token, key: "k".to_owned(), answer: serde_json::Value::Null };
    assert_eq!(prompt(&gateway, Ask::get("/me/x").with(&unknown)).await, 503);
    assert_eq!(prompt(&gateway, Ask::get("/public/x")).await, 200);
    redis.cli(&["ACL", "SETUSER", "postern", ">s3cret-of-redis"]);
    until_async("the gateway to be ready", || async { ready(&gateway).await == 200 }).await;
    login_is(&gateway, 200).await;
    assert!(!gateway.output().contains("s3cret-of-redis"));
}

#[tokio::test]
async fn local_logins_go_on_and_are_delivered_later() {
    let change = |settings: &mut Settings| {
        settings.set("sessions.redis.max_stale", "'1s'");
        settings.set("sessions.redis.local_logins", "true");
    };
    let Some(pair) = pair(change).await else { return };
    pair.redis.freeze();
    until("it to be noticed", || pair.a.output().contains("Redis is away").then_some(())).await;
    let (kept, ended) = (pair.a.login("100").await, pair.a.login("100").await);
    until("it to be stale", || pair.a.output().contains("longer than max_stale").then_some(())).await;
    assert_eq!(status(&pair.a, &kept).await, 200, "nobody else can have ended it");
    assert_eq!(status(&pair.b, &kept).await, 503);
    let logout = prompt(&pair.a, Ask::post("/logout").with(&ended)).await;
    assert!(logout == 503 || logout == 200, "{logout}");
    assert_ne!(status(&pair.a, &ended).await, 200);
    pair.redis.thaw();
    until_async("the other to know", || async { status(&pair.b, &kept).await == 200 }).await;
    assert_eq!(status(&pair.a, &kept).await, 200);
    for gateway in [&pair.a, &pair.b] {
        until_async("the gateway to be back", || async { ready(gateway).await == 200 }).await;
        refused_for_good(gateway, &ended).await;
    }
}

#[tokio::test]
async fn a_logout_where_the_session_was_never_seen_comes_through_too() {
    let Some(redis) = Redis::start().await else { return };
    let Some(pair) = short(redis).await else { return };
    let (session, other) = (pair.a.login("100").await, pair.a.login("200").await);
    pair.redis.freeze();
    until("it to be noticed", || pair.b.output().contains("Redis is away").then_some(())).await;
    assert_eq!(prompt(&pair.b, Ask::post("/logout").with(&session)).await, 503);
    // Somebody else's key with a token of one's own ends nothing.
    let mixed = Session { key: other.key.clone(), ..session.clone() };
    assert_eq!(prompt(&pair.b, Ask::post("/logout").with(&mixed)).await, 503);
    pair.redis.thaw();
    refused_for_good(&pair.b, &session).await;
    refused_for_good(&pair.a, &session).await;
    assert_eq!(status(&pair.a, &other).await, 200);
    assert_eq!(status(&pair.b, &other).await, 200);
}
