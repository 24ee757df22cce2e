//! What is asked of every door: paths, methods, callers and the ways to present a credential, right and wrong.

use crate::support::{Ask, Session, TestGateway};

const PATHS: [&str; 40] = [
    "/me",
    "/ME/",
    "/me/x?a=%2F&b",
    "/%6de",
    "/me//x",
    "/me/./x",
    "/x/../me",
    "/me/..",
    "/me/../nowhere",
    "/me/%2e%2e/public",
    "/me%2fx",
    "/me%5cx",
    "/me;x=1/y",
    "/me%3bx",
    "/me%00",
    "/me%0a",
    "/me%252fx",
    "/me%25z",
    "/me/%C3%BC",
    "/me/%c0%af",
    "/public",
    "/public/../me",
    "/PUBLIC/../api/v2/vault",
    "/publicly",
    "/closed",
    "/closed/x",
    "/nowhere",
    "/api/v2/cdr",
    "/API/v2/Cdr/1/",
    "/api/v2//cdr/1",
    "/api/v2/cdrs",
    "/api/v2/vault/1",
    "/api/v2/cdr/../vault",
    "/api/v2/cdr/../../../closed",
    "/api/v2/%63dr/%31",
    "/me/a%20b/%7Ec",
    "/me/%E2%82%AC?q=%2e%2e&x=a/../b",
    "/me//////x/./././y",
    "/api/v2/cdr%3F/x",
    "/",
];

/// Paths for which all methods are tried.
const ROUTES: [&str; 4] = ["/me", "/public", "/api/v2/cdr/1", "/api/v2/vault"];

const METHODS: [&str; 8] = ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE", "PROPFIND"];

/// Callers: what they present, by name.
pub struct Callers {
    admin: Session,
    user: Session,
    idle: Session,
    ended: Session,
    domain_token: String,
}

impl Callers {
    pub async fn of(gateway: &TestGateway) -> Self {
        let mint = Ask::post("/domains/example.org/tokens")
            .json(&serde_json::json!({"role": "user", "expires": "2100-01-01T00:00:00Z"}));
        let minted = gateway.admin_ask(mint).await.json();
        let callers = Self {
            admin: gateway.login("admin").await,
            user: gateway.login("100").await,
            idle: gateway.login("idle").await,
            ended: gateway.login("200").await,
            domain_token: minted["token"].as_str().unwrap().to_owned(),
        };
        gateway.ask(Ask::post("/logout").with(&callers.ended)).await.assert_ok();
        callers
    }

    fn usual(&self) -> Vec<Vec<(&'static str, String)>> {
        let both =
            |token: &str, key: &str| vec![("X-Access-Token", token.to_owned()), ("X-Key", key.to_owned())];
        vec![
            vec![],
            both(&self.admin.token, &self.admin.key),
            both(&self.user.token, &self.user.key),
            both(&self.idle.token, &self.idle.key),
            vec![("X-Access-Token", self.domain_token.clone())],
        ]
    }

    /// What is presented wrongly, in doubt, or twice.
    fn odd(&self) -> Vec<Vec<(&'static str, String)>> {
        let (admin, user, idle) = (&self.admin, &self.user, &self.idle);
        let token = |token: &str| ("X-Access-Token", token.to_owned());
        let key = |key: &str| ("X-Key", key.to_owned());
        vec![
            vec![token(&admin.token)],
            vec![key(&admin.key)],
            vec![token(&admin.token), key(&user.key)],
            vec![token(&self.ended.token), key(&self.ended.key)],
            vec![token("x.y.z"), key(&admin.key)],
            vec![token(&admin.token), key("00000000-0000-4000-8000-000000000000")],
            vec![token(&admin.token), key(&admin.key), key(&admin.key)],
            vec![token(&admin.token), token(&user.token), key(&user.key)],
            vec![token(&self.domain_token), key(&admin.key)],
            vec![token(&format!("{}x", self.domain_token))],
            vec![token(""), key("")],
            vec![token(&admin.token.to_uppercase()), key(&admin.key)],
            vec![("X_Access_Token", admin.token.clone()), ("X_Key", admin.key.clone())],
            vec![token(&user.token), key(&user.key), ("X-Original-URI", "/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Forwarded-Uri", "/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Original-URL", "http://h/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Original-Method", "HEAD".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Forwarded-Method", "HEAD".to_owned())],
            vec![
                token(&idle.token),
                key(&idle.key),
                ("X-Forwarded-Uri", "/public".to_owned()),
                ("X-Forwarded-Uri", "/me".to_owned()),
            ],
            vec![
                token(&idle.token),
                key(&idle.key),
                ("X-Original-URI", "/public".to_owned()),
                ("X-Original-URI", "/me".to_owned()),
            ],
            vec![token(&user.token), key(&user.key), ("X_Original_URI", "/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-HTTP-Method-Override", "DELETE".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Webitel-User", "admin@example.org".to_owned())],
        ]
    }

    /// Queries that carry credentials.
    fn queries(&self) -> Vec<String> {
        let user = &self.user;
        vec![
            format!("?access_token={}&x_key={}", user.token, user.key),
            format!("?a=1&x_key={}&access_token={}&b", user.key, user.token),
            format!("?access_token={}", self.domain_token),
            format!("?access_token={}&x_key[]={}", user.token, user.key),
            format!("?access_token={}&x_key={}&x_key={}", user.token, user.key, user.key),
            format!("?access_token={}&x%5Fkey={}", user.token, user.key),
            "?access_token=&x_key=".to_owned(),
            "?access_token=x".to_owned(),
        ]
    }
}

/// Every request of the corpus. All of them claim to be somebody.
pub fn corpus(callers: &Callers) -> Vec<Ask> {
    let build = |method: &str, target: &str, fields: &[(&'static str, String)]| {
        let ask = Ask::new(method, target).header("X-Webitel-Role", "root").header("X-Postern-Scope", "all");
        fields.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
    };
    let mut corpus = Vec::new();
    for caller in callers.usual() {
        corpus.extend(PATHS.iter().map(|path| build("GET", path, &caller)));
        for route in ROUTES {
            corpus.extend(METHODS.iter().map(|method| build(method, route, &caller)));
        }
    }
    for odd in callers.odd() {
        corpus.extend(["/me", "/public", "/api/v2/cdr/1"].map(|path| build("GET", path, &odd)));
    }
    for query in callers.queries() {
        corpus.extend(
            ["/me", "/public", "/api/v2/vault"].map(|path| build("GET", &format!("{path}{query}"), &[])),
        );
    }
    corpus
}
