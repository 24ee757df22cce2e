//! Nothing that was secret in a run is found in anything that the run left or showed.

use std::fmt::Write as _;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::h2::{Frames, H2Client, request};
use crate::support::wait::{until, within};
use crate::support::{
    Answer, Ask, Collector, DOMAIN, PASSWORD, SECRET, Session, TestGateway, configured, jwt,
};

/// Logs in and out, fails, is refused, mints, reloads, all at the most talkative level; then looks for every secret in
/// the logs, the answers of the admin listener and every file of the store.
#[tokio::test]
async fn no_secret_of_a_run_is_in_logs_metrics_admin_answers_or_the_store() {
    let totp = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    let (_upstream, mut gateway) = configured(|s| {
        s.set("log.level", "'trace'");
        s.file("totp.secret", totp.as_bytes());
        s.user_key(&format!("200@{DOMAIN}"), "totp_secret_file", "'totp.secret'");
        s.file("admin.token", b"admin-canary-4711\n");
        s.set("admin.token_file", "'admin.token'");
    })
    .await;
    let admin = |ask: Ask| ask.header("Authorization", "Bearer admin-canary-4711");
    let session = gateway.login("100").await;
    let ended = gateway.login("100").await;
    gateway.ask(Ask::get("/api/v2/cdr/1").with(&session)).await.assert_ok();
    gateway.ask(Ask::get(format!("/api/v2/cdr/1?{}", session.query()))).await.assert_ok();
    gateway.ask(Ask::get(format!("/api/v2/vault/1?{}", session.query()))).await.assert_error(403);
    gateway
        .ask(Ask::get(format!("/api/v2/cdr/1?{}", session.query())).with(&session))
        .await
        .assert_error(400);
    gateway.ask(Ask::post("/logout").with(&ended)).await.assert_ok();
    gateway.ask(Ask::get("/me/x").with(&ended)).await.assert_error(401);
    gateway.ask(Ask::login(&format!("100@{DOMAIN}"), "wrong-canary-4712")).await.assert_error(401);
    // A password that was typed into the wrong field.
    gateway.ask(Ask::login("name-canary-4713", "x")).await.assert_error(404);
    gateway.ask(Ask::login(&format!("200@{DOMAIN}"), PASSWORD)).await;
    let code = Ask::post("/login?code=987654")
        .json(&json!({"username": format!("200@{DOMAIN}"), "password": PASSWORD}));
    gateway.ask(code).await.assert_error(401);
    let wanted = json!({ "role": "user", "expires": "2100-01-01T00:00:00Z" });
    let minted = gateway.admin_ask(admin(Ask::post("/domains/d/tokens").json(&wanted))).await;
    let token = minted.json()["token"].as_str().unwrap().to_owned();
    gateway.ask(Ask::get("/api/v2/cdr/1").header("X-Access-Token", &token)).await.assert_ok();
    gateway.admin_ask(admin(Ask::post("/reload"))).await.assert_ok();
    gateway.admin_ask(admin(Ask::new("DELETE", format!("/sessions/{}", session.key)))).await;
    gateway.admin_ask(admin(Ask::new("DELETE", format!("/domains/d/tokens/{token}")))).await;

    let mut found = Vec::new();
    for path in [
        "/sessions",
        "/config",
        "/metrics",
        "/domains/d/tokens",
        "/explain?role=user&method=GET&path=/x",
        "/readyz",
        "/",
    ] {
        found.push((path.to_owned(), gateway.admin_ask(admin(Ask::get(path))).await.text().into_bytes()));
    }
    gateway.terminate().await;
    found.push(("the logs".to_owned(), gateway.output().into_bytes()));
    let store = std::fs::read_dir(gateway.folder()).unwrap().map(|entry| entry.unwrap().path());
    for file in store.filter(|path| path.to_string_lossy().contains("sessions.db")) {
        found.push((file.display().to_string(), std::fs::read(&file).unwrap()));
    }
    assert!(found.iter().any(|(name, bytes)| name.ends_with("sessions.db") && !bytes.is_empty()));
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        session.key.clone(),
        session.token.clone(),
        signature(&session.token),
        ended.key.clone(),
        signature(&ended.token),
        token.clone(),
        signature(&token),
        PASSWORD.to_owned(),
        "wrong-canary-4712".to_owned(),
        "name-canary-4713".to_owned(),
        "987654".to_owned(),
        totp.to_owned(),
        "admin-canary-4711".to_owned(),
    ];
    for (name, bytes) in &found {
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for secret in &secrets {
            assert!(!has(secret.as_bytes()), "{secret} is in {name}");
        }
        assert!(!has(&SECRET[..20]), "the signing key is in {name}");
    }
    assert!(gateway.output().contains("\"target\":\"audit\""), "{}", gateway.output());
}

/// As it is, and as it would look in a URL, in base64, in hex, in JSON or as a list of bytes.
fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let escaped = |all: bool, upper: bool| {
        bytes.iter().fold(String::new(), |mut out, b| {
            let _ = match b {
                b if !all && (b.is_ascii_alphanumeric() || b"-._~".contains(b)) => {
                    write!(out, "{}", char::from(*b))
                }
                b if upper => write!(out, "%{b:02X}"),
                b => write!(out, "%{b:02x}"),
            };
            out
        })
    };
    let url_safe = jwt::encode(bytes);
    let standard = url_safe.replace('-', "+").replace('_', "/");
    let hex = bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    });
    let json = json!(secret).to_string().trim_matches('"').to_owned();
    let list = format!("{bytes:?}").trim_matches(['[', ']']).to_owned();
    let mut all = vec![secret.to_owned(), url_safe, standard, hex, json, list];
    all.extend(
        [(false, true), (false, false), (true, true), (true, false)].map(|(all, upper)| escaped(all, upper)),
    );
    all
}

/// What was found where: answers that are no login, logs, metrics, spans, files.
#[derive(Default)]
struct Found(Vec<(String, Vec<u8>)>);

impl Found {
    fn add(&mut self, place: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.0.push((place.into(), bytes.into()));
    }

    /// The body of a 200 may be the upstream's, which was given the credentials.
    fn add_answer(&mut self, place: &str, answer: &Answer) {
        let body = if answer.status == 200 && answer.text().contains("\"fields\"") {
            &[]
        } else {
            answer.body.as_slice()
        };
        self.add(format!("the answer to {place}"), [answer.head.raw.as_slice(), body].concat());
    }

    /// Asks, and keeps the answer.
    async fn ask(&mut self, gateway: &TestGateway, place: &str, ask: Ask) -> u16 {
        let answer = gateway.try_raw(ask.bytes()).await;
        answer.map_or(0, |answer| {
            self.add_answer(place, &answer);
            answer.status
        })
    }

    #[track_caller]
    fn holds_none_of(&self, secrets: &[String]) {
        for secret in secrets {
            for form in forms(secret) {
                let holds = |bytes: &[u8]| bytes.windows(form.len()).any(|window| window == form.as_bytes());
                for (place, bytes) in &self.0 {
                    assert!(!holds(bytes), "{secret} is in {place}, as {form}");
                }
            }
        }
    }
}

/// Credentials where a client puts them by mistake or on purpose.
async fn misplaced(found: &mut Found, gateway: &TestGateway, session: &Session, wrong: &str) {
    let (token, key) = (&session.token, &session.key);
    for (place, target) in [
        ("another session's", format!("/me/x?access_token={token}&x_key={wrong}")),
        ("twice", format!("/me/x?access_token={token}&access_token={token}&x_key={key}")),
        ("in brackets", format!("/me/x?access_token[]={token}&x_key[$in]={key}")),
        ("encoded", format!("/me/x?%61ccess_token={token}&x%5Fkey={key}")),
        ("refused", format!("/api/v2/vault/x?{}", session.query())),
        ("a bad path", format!("/me/%2e%2e?{}", session.query())),
        ("no route", format!("/nothing?{}", session.query())),
        ("a login's code", format!("/login?code={wrong}&{}", session.query())),
        ("a login's code of another service", format!("/login/example.org?code={wrong}&state=x")),
        ("a logout", format!("/logout?access_token={wrong}&x_key={key}")),
        ("an authority", format!("http://user:{wrong}@localhost/me/x?{}", session.query())),
        ("a fragment", format!("/me/x?a=1#access_token={token}&x_key={key}")),
        ("a public route", format!("/public/x?{}", session.query())),
        ("an encoded question mark", format!("/me/x%3Faccess_token={token}&x_key={key}")),
        ("an ampersand for it", format!("/me/x&access_token={token}&x_key={key}")),
        ("semicolons", format!("/me/x;access_token={token};x_key={key}")),
        ("other letter case", format!("/me/x?Access_Token={token}&X_Key={key}")),
        ("names of headers", format!("/me/x?X-Access-Token={token}&X-Key={key}")),
        ("escaped twice", format!("/me/x?a=1%26access_token={token}%26x_key={key}")),
        ("an escaped equals sign", format!("/me/x?access_token%3D{token}&x_key%3D{key}")),
        ("inside of another", format!("/me/x?url=/y%3Faccess_token%3D{token}%26x_key%3D{key}")),
        ("a segment", format!("/me/{token}/x")),
    ] {
        found.ask(gateway, place, Ask::get(target)).await;
    }
    for (place, ask) in [
        (
            "odd values",
            Ask::get("/me/x").header("X-Access-Token", format!("{token}\t{wrong}")).header("X-Key", key),
        ),
        ("a bad host", Ask::get("/me/x").host(&format!("{wrong}@localhost")).with(session)),
        ("a bad name", Ask::get("/me/x").header(format!("X {wrong}"), key).with(session)),
        ("a bad length", Ask::post("/me/x").header("Content-Length", wrong).with(session)),
        ("another coding", Ask::post("/me/x").header("Transfer-Encoding", wrong).with(session)),
        ("an expectation", Ask::post("/me/x").header("Expect", wrong).with(session)),
        ("a long head", Ask::get("/me/x").header("X-Long", wrong.repeat(4000)).with(session)),
        (
            "a websocket of none",
            Ask::get("/me/x").header("Upgrade", "websocket").header("Connection", "Upgrade").with(session),
        ),
    ] {
        found.ask(gateway, place, ask).await;
    }
    for bytes in [
        format!("GET /me/x?{} HTTP/1.1 {wrong}\r\n\r\n", session.query()),
        format!("{wrong}\r\n\r\n"),
        format!("GET /me/x HTTP/1.1\r\nX-Key: {key}\nX-Access-Token: {token}\r\n\r\n"),
    ] {
        if let Some(answer) = gateway.try_raw(bytes).await {
            found.add_answer("what cannot be parsed", &answer);
        }
    }
    let mut client = H2Client::connect(gateway).await;
    for path in [
        format!("/me/x?{}", session.query()),
        format!("/me/x?x_key={wrong}"),
        format!("/api/v2/vault?{}", session.query()),
    ] {
        let with = path.contains("vault").then_some(session);
        let answer = client.ask(request("GET", &path, with, Frames::empty())).await;
        if answer.status != 200 {
            found.add("an answer over HTTP/2", answer.body);
        }
    }
}

/// Logins that fail in every way, with secrets in every field.
async fn failed_logins(found: &mut Found, gateway: &TestGateway, wrong: &str) {
    let user = format!("100@{DOMAIN}");
    for body in [
        json!({"username": user, "password": wrong}).to_string(),
        json!({"username": wrong, "password": PASSWORD}).to_string(),
        json!({"username": [wrong], "password": {"$ne": wrong}}).to_string(),
        json!(wrong).to_string(),
        format!(r#"{{"username":"{user}","password":"{wrong}","password":"{wrong}"}}"#),
        format!(r#"{{"username":"{user}","password":{wrong}}}"#),
        format!("username={user}&password={wrong}"),
    ] {
        for media_type in ["application/json", "text/plain"] {
            let ask = Ask::post("/login").header("Content-Type", media_type).body(&body);
            found.ask(gateway, "a login", ask).await;
        }
    }
}

async fn first_frames(gateway: &TestGateway, session: &Session, wrong: &str) {
    for args in [
        json!({"exec-func": "auth", "exec-args": {"key": session.key, "token": wrong}}),
        json!({"exec-func": "auth", "exec-args": {"account": format!("100@{DOMAIN}"), "secret": wrong, "code": wrong}}),
        json!({"exec-func": wrong, "exec-args": {"token": session.token}}),
        json!({"exec-func": "auth", "exec-args": {"key": session.key, "token": session.token}}),
    ] {
        let asked = format!("ws://localhost/up/ws?{}", session.query()).into_client_request().unwrap();
        let stream = TcpStream::connect(gateway.http()).await.unwrap();
        let (mut socket, _) = within("the handshake", client_async(asked, stream)).await.unwrap();
        let _ = socket.send(Message::text(args.to_string())).await;
        let _ = socket.close(None).await;
        while let Some(Ok(_)) = within("the close", socket.next()).await {}
    }
}

/// Configurations that hold a secret where none may stand: the fault says so without saying it.
async fn faulty_reloads(found: &mut Found, gateway: &mut TestGateway, admin: &str, secret: &str) {
    type Change = fn(&mut crate::support::settings::Settings, &str);
    let changes: [Change; 7] = [
        |s, secret| s.set("token.secret", &format!("'{secret}'")),
        |s, secret| s.set("admin.token", &format!("'{secret}'")),
        |s, secret| s.user_key(&format!("100@{DOMAIN}"), "password", &format!("'{secret}'")),
        |s, secret| s.user_with(&format!("100@{DOMAIN}"), "user", "a1", secret),
        |s, secret| s.file("totp.secret", format!("{secret}!").as_bytes()),
        |s, secret| s.file("gateway.key", format!("-----BEGIN PRIVATE KEY-----\n{secret}\n").as_bytes()),
        |s, secret| s.set("token.secret_file", &format!("'{secret}")),
    ];
    for change in changes {
        let before = gateway.settings().clone();
        gateway.change(|settings| change(settings, secret));
        let ask = Ask::post("/reload").header("Authorization", format!("Bearer {admin}"));
        let answer = gateway.admin_ask(ask).await;
        assert_eq!(answer.status, 409, "{}", answer.brief());
        found.add_answer("a reload", &answer);
        let output = gateway.call(&["check"]);
        found.add("what check says", [output.stdout, output.stderr].concat());
        gateway.change(|settings| *settings = before);
    }
}

/// More ways to fail than above, over more doors, and every form that a secret may take.
#[tokio::test]
async fn no_secret_is_anywhere_however_a_request_fails() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let (totp, admin) = ("MFRGGZDFMZTWQ2LKNNWG23TPOBYXE43U", "admin+canary/4714=");
    let wrong = "wr0ng+canary/4715=\u{e9}";
    // Without what no header or target may hold.
    let plain = "wr0ng+canary-4716";
    let (_upstream, mut gateway) = configured(|s| {
        s.set("log.level", "'trace'");
        s.set("telemetry.otlp_endpoint", &endpoint);
        s.file("totp.secret", totp.as_bytes());
        s.user_key(&format!("200@{DOMAIN}"), "totp_secret_file", "'totp.secret'");
        s.file("admin.token", format!("{admin}\n").as_bytes());
        s.set("admin.token_file", "'admin.token'");
        s.route("path = '/up/ws'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'first_frame'");
        s.route("path = '/json'\naccess = 'authenticated'\nupstream = 'engine'\nbody_credentials = 'reject'");
    })
    .await;
    let mut found = Found::default();
    let session = gateway.login("100").await;
    let bearer = |ask: Ask| ask.header("Authorization", format!("Bearer {admin}"));
    misplaced(&mut found, &gateway, &session, plain).await;
    failed_logins(&mut found, &gateway, wrong).await;
    first_frames(&gateway, &session, wrong).await;
    let body = json!({"access_token": session.token, "x_key": session.key, "password": wrong});
    found.ask(&gateway, "a body with credentials", Ask::post("/json/x").with(&session).json(&body)).await;
    let code = Ask::post(format!("/login?code={plain}"))
        .json(&json!({"username": format!("200@{DOMAIN}"), "password": PASSWORD}));
    found.ask(&gateway, "a wrong code", code).await;

    let expires = "2100-01-01T00:00:00Z";
    let minted = gateway
        .admin_ask(bearer(Ask::post("/domains/d/tokens").json(&json!({"role": "user", "expires": expires}))))
        .await;
    let token = minted.json()["token"].as_str().unwrap().to_owned();
    found.ask(&gateway, "a domain token", Ask::get(format!("/api/v2/vault/x?access_token={token}"))).await;
    for (ask, status) in [
        (Ask::get("/sessions").header("Authorization", format!("Bearer {plain}")), 401),
        (bearer(Ask::get(format!("/sessions?user={plain}"))), 200),
        (bearer(Ask::new("DELETE", format!("/sessions?before={plain}"))), 400),
        (bearer(Ask::post("/domains/d/tokens").json(&json!({"role": plain, "expires": plain}))), 400),
        (bearer(Ask::get(format!("/explain?role=user&method=GET&path=/me/x?access_token={token}"))), 200),
    ] {
        let answer = gateway.admin_ask(ask).await;
        assert_eq!(answer.status, status, "{}", answer.brief());
        // It may say again what it was asked; the secrets are others.
        found.add("an admin answer", answer.text().replace(plain, "").into_bytes());
    }
    faulty_reloads(&mut found, &mut gateway, admin, "c0nfig-canary-4717").await;
    for path in ["/sessions", "/config", "/metrics", "/domains/d/tokens", "/readyz", "/healthz", "/"] {
        let answer = gateway.admin_ask(bearer(Ask::get(path))).await;
        found.add_answer(path, &answer);
    }
    until("spans", || collector.text().contains("/api/v2/vault").then_some(())).await;
    gateway.terminate().await;
    found.add("the spans", collector.text());
    found.add("the logs", gateway.output());
    for file in std::fs::read_dir(gateway.folder()).unwrap().map(|entry| entry.unwrap().path()) {
        if file.to_string_lossy().contains("sessions.db") {
            found.add(file.display().to_string(), std::fs::read(&file).unwrap());
        }
    }
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        session.key.clone(),
        session.token.clone(),
        signature(&session.token),
        token.clone(),
        signature(&token),
    ];
    let others = [PASSWORD, wrong, plain, totp, admin, "c0nfig-canary-4717"].map(str::to_owned);
    found.holds_none_of(&[secrets.as_slice(), &others].concat());
    assert!(found.0.len() > 50 && gateway.output().len() > 100_000, "{}", found.0.len());
}
