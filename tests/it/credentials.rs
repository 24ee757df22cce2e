//! Which credentials a request presents, and what the upstream is given of them (contract section 4, Credentials).

use crate::support::wait::until_async;
use crate::support::{Ask, Session, TestUpstream, configured, usual};

/// What the upstream holds of credentials: the headers' values and the query.
fn credentials_at(upstream: &TestUpstream) -> (Vec<String>, Vec<String>, Option<String>) {
    let seen = upstream.last();
    let all = |name: &str| seen.head.all(name).into_iter().map(str::to_owned).collect();
    (all("x-access-token"), all("x-key"), seen.query().map(str::to_owned))
}

fn set_of(session: &Session) -> (Vec<String>, Vec<String>) {
    (vec![session.token.clone()], vec![session.key.clone()])
}

#[tokio::test]
async fn no_token_is_401_invalid_token() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for ask in [
        Ask::get("/me/x"),
        Ask::get("/me/x").header("X-Key", &session.key),
        Ask::get("/me/x").header("Authorization", format!("Bearer {}", session.token)),
        Ask::get("/me/x")
            .header("Cookie", format!("X-Access-Token={}; X-Key={}", session.token, session.key)),
    ] {
        gateway.ask(ask).await.assert_refusal(401, "Invalid token");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_token_without_a_key_is_401_invalid_token_or_key() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for token in [session.token.as_str(), "garbage", "a.b.c"] {
        let answer = gateway.ask(Ask::get("/me/x").header("X-Access-Token", token)).await;
        answer.assert_refusal(401, "Invalid Token or Key");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_unknown_key_or_another_sessions_token_is_401_invalid_user() {
    let (upstream, gateway) = usual().await;
    let (one, other) = (gateway.login("100").await, gateway.login("100").await);
    let stranger = uuid::Uuid::new_v4().to_string();
    let (cut, longer) = (&one.token[..one.token.len() - 1], format!("{}A", one.token));
    for (token, key) in [
        (one.token.as_str(), stranger.as_str()),
        (&one.token, &other.key),
        (&other.token, &one.key),
        ("garbage", &one.key),
        (cut, &one.key),
        (&longer, &one.key),
        (&one.token, "not-a-uuid"),
    ] {
        let answer =
            gateway.ask(Ask::get("/me/x").header("X-Access-Token", token).header("X-Key", key)).await;
        answer.assert_refusal(401, "Invalid User");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_key_is_compared_as_text() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for key in [session.key.to_uppercase(), session.key.replace('-', ""), format!("{{{}}}", session.key)] {
        let ask = Ask::get("/me/x").header("X-Access-Token", &session.token).header("X-Key", key);
        gateway.ask(ask).await.assert_refusal(401, "Invalid User");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_expired_session_is_401_token_expired() {
    let (_upstream, gateway) = configured(|settings| settings.set("token.ttl", "'2s'")).await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_ok();
    until_async("the session to expire", || async {
        gateway.ask(Ask::get("/me/x").with(&session)).await.status == 401
    })
    .await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_refusal(401, "Token Expired");
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_refusal(401, "Bad caller");
}

#[tokio::test]
async fn the_query_serves_where_headers_cannot_be_set_and_is_taken_out() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for (sent, forwarded) in [
        (format!("?{}", session.query()), ""),
        (format!("?a=1&{}&b=%2e&&c", session.query()), "a=1&b=%2e&&c"),
        (format!("?access_token={}&a=+%20&x_key={}", session.token, session.key), "a=+%20"),
        (format!("?%61ccess_token={}&x%5Fkey={}&z=0", session.token, session.key), "z=0"),
    ] {
        gateway.ask(Ask::get(format!("/me/x{sent}"))).await.assert_ok();
        let (tokens, keys, query) = credentials_at(&upstream);
        assert_eq!((tokens, keys), set_of(&session), "{sent}");
        assert_eq!(query.unwrap_or_default(), forwarded, "{sent}");
    }
}

#[tokio::test]
async fn token_and_key_are_looked_for_each_by_itself() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for ask in [
        Ask::get(format!("/me/x?x_key={}&q=1", session.key)).header("X-Access-Token", &session.token),
        Ask::get(format!("/me/x?access_token={}&q=1", session.token)).header("X-Key", &session.key),
    ] {
        gateway.ask(ask).await.assert_ok();
        let (tokens, keys, query) = credentials_at(&upstream);
        assert_eq!(((tokens, keys), query.as_deref()), (set_of(&session), Some("q=1")));
    }
}

#[tokio::test]
async fn header_names_are_read_in_any_case_and_an_empty_value_is_absent() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let ask = Ask::get("/me/x").header("x-access-TOKEN", &session.token).header("x-kEy", &session.key);
    gateway.ask(ask).await.assert_ok();

    let ask = Ask::get(format!("/me/x?{}", session.query())).header("X-Access-Token", "").header("X-Key", "");
    gateway.ask(ask).await.assert_ok();
    let (tokens, keys, _) = credentials_at(&upstream);
    assert_eq!((tokens, keys), set_of(&session));

    gateway.ask(Ask::get("/me/x?access_token=&x_key=").with(&session)).await.assert_ok();
    let ask = Ask::get("/me/x").header("X-Access-Token", "").header("X-Key", &session.key);
    gateway.ask(ask).await.assert_refusal(401, "Invalid token");
}

#[tokio::test]
async fn a_value_given_twice_or_in_both_places_is_ambiguous() {
    let (upstream, gateway) = usual().await;
    let (one, other) = (gateway.login("100").await, gateway.login("admin").await);
    for ask in [
        Ask::get("/me/x").with(&one).with(&other),
        Ask::get("/me/x").with(&one).header("X-Key", &one.key),
        Ask::get("/me/x").with(&one).header("X-Access-Token", &one.token),
        Ask::get(format!("/me/x?x_key={}", other.key)).with(&one),
        Ask::get(format!("/me/x?access_token={}", one.token)).with(&one),
        Ask::get(format!("/me/x?{}&x_key={}", one.query(), other.key)),
        Ask::get(format!("/me/x?{}&%78_key={}", one.query(), other.key)),
    ] {
        gateway.ask(ask).await.assert_refusal(400, "Ambiguous credentials");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_name_that_a_bracket_reading_parser_folds_into_one_of_them_is_ambiguous() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for name in [
        "x_key[]",
        "x_key[$in]",
        "x_key[0]",
        "[x_key]",
        "access_token[]",
        "access_token[$ne]",
        "[access_token]",
        "x_key%5B%5D",
        "x_key%5b$in%5d",
        "%78_key[]",
        "%5Baccess_token%5D",
    ] {
        for ask in
            [Ask::get(format!("/me/x?{name}=a")).with(&session), Ask::get(format!("/public/x?{name}=a"))]
        {
            let answer = gateway.ask(ask).await;
            assert_eq!((answer.status, answer.info().as_str()), (400, "Ambiguous credentials"), "{name}");
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn names_that_only_look_alike_are_the_upstreams_business() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let query = "my_x_key=1&x_keys=2&access_token_type=3&filter[owner]=4";
    gateway.ask(Ask::get(format!("/me/x?{query}")).with(&session)).await.assert_ok();
    assert_eq!(upstream.last().query(), Some(query));
}

#[tokio::test]
async fn the_upstream_gets_the_set_that_was_judged_and_no_look_alike_header() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for name in ["X_Access_Token", "X_Key", "x.key", "x~access-token"] {
        gateway.ask(Ask::get("/me/x").with(&session).header(name, "forged")).await.assert_ok();
        let head = upstream.last().head;
        assert!(!head.text().contains("forged"), "{name}: {}", head.text());
        let (tokens, keys, _) = credentials_at(&upstream);
        assert_eq!((tokens, keys), set_of(&session), "{name}");
    }
}

#[tokio::test]
async fn an_upstream_may_be_kept_from_the_credentials() {
    let (upstream, gateway) =
        configured(|settings| settings.set("upstreams.engine.forward_credentials", "false")).await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_ok();
    gateway.ask(Ask::get(format!("/me/x?a=1&{}", session.query()))).await.assert_ok();
    assert_eq!(upstream.requests().len(), 2);
    for seen in upstream.requests() {
        let text = seen.head.text();
        assert!(!text.contains(&session.token) && !text.contains(&session.key), "{text}");
        assert_eq!(seen.header("x-webitel-user"), Some("100@example.org"));
    }
    assert_eq!(upstream.last().query(), Some("a=1"));
}

#[tokio::test]
async fn the_names_can_be_chosen() {
    let (upstream, gateway) = configured(|settings| {
        settings.set("credentials.token_headers", "['X-Session-Token']");
        settings.set("credentials.key_headers", "['X-Session-Key']");
        settings.set("credentials.token_query", "['st']");
        settings.set("credentials.key_query", "['sk']");
    })
    .await;
    let session = gateway.login("100").await;
    let ask =
        Ask::get("/me/x").header("X-Session-Token", &session.token).header("X-Session-Key", &session.key);
    gateway.ask(ask).await.assert_ok();
    gateway.ask(Ask::get(format!("/me/x?st={}&q=1&sk={}", session.token, session.key))).await.assert_ok();
    assert_eq!(upstream.last().query(), Some("q=1"));
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_refusal(401, "Invalid token");
}

/// An engine reads its own names, and the query before headers.
#[tokio::test]
async fn no_second_set_goes_on_by_names_that_are_not_configured() {
    for query in ["[]", "['st']"] {
        let (upstream, gateway) = configured(|settings| {
            settings.set("credentials.token_query", query);
            settings.set("credentials.key_query", "[]");
        })
        .await;
        let (session, other) = (gateway.login("100").await, gateway.login("admin").await);
        for disguise in [
            other.query(),
            "x_key[$ne]=1".to_owned(),
            "x_key=a&x_key=b".to_owned(),
            "%61ccess_token[]=a".to_owned(),
        ] {
            let ask = Ask::get(format!("/me/x?a=1&{disguise}&b=2")).with(&session);
            gateway.ask(ask).await.assert_ok();
            assert_eq!(upstream.last().query(), Some("a=1&b=2"), "{disguise}");
        }
    }
}
