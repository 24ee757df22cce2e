//! The shipped Webitel routes, held against the table of the real engine's routes: parity decides each as the engine
//! does, hardened refuses at least as much.

use std::sync::atomic::Ordering;

use crate::support::engine::{Row, rows};
use crate::support::{Answer, Ask, Engine, Session, TestClient, TestGateway};

const USERS: [&str; 5] =
    ["root", "admin@example.org", "user@example.org", "op@example.org", "sub@example.org"];

/// Roles that an operator made, as the engine has them, for a gateway that looks roles up by name.
const OWN_ROLES: [(&str, &str); 2] = [
    (
        "op",
        "allow = { hook = ['*'], calendar = ['r', 'u'], book = ['r'], vmail = ['uo'], 'callback/members' = ['r'], cdr = ['r'], license = ['do'] }",
    ),
    (
        "sub",
        "inherits = ['user']\nallow = { 'cdr/media' = ['r', 'c'], dialer = ['r'], account = ['u'], callback = ['r'] }",
    ),
];

/// What a request is answered directly and through the gateway.
struct Pair {
    direct: Answer,
    through: Answer,
    reached: bool,
}

struct Scene {
    engine: Engine,
    gateway: TestGateway,
    direct: TestClient,
    direct_cdr: TestClient,
    through: TestClient,
}

impl Scene {
    async fn new(policy: &str, by_roles: bool) -> Self {
        let engine = Engine::start().await;
        let gateway = engine
            .gateway(policy, |settings| {
                if by_roles {
                    settings.set("sessions.adopt.rights", "'roles'");
                    OWN_ROLES.iter().for_each(|(name, lines)| settings.role(name, lines));
                }
            })
            .await;
        let direct = TestClient::connect(engine.engine.addr).await;
        let direct_cdr = TestClient::connect(engine.cdr.addr).await;
        let through = gateway.client().await;
        Self { engine, gateway, direct, direct_cdr, through }
    }

    async fn ask(&mut self, row: &Row, target: &str, session: &Session) -> Pair {
        let ask = Ask::new(&row.method, target);
        let ask = if row.is_v2() { ask.with(session) } else { ask };
        let direct = if row.is_of_cdr() { &mut self.direct_cdr } else { &mut self.direct };
        let direct = direct.ask(&ask).await;
        let reached = || self.engine.state.forwarded.load(Ordering::SeqCst);
        let before = reached();
        let through = self.through.ask(&ask).await;
        Pair { direct, through, reached: reached() > before }
    }
}

/// The targets of a row that show its own variants: as a stranger's and as the caller's own.
fn targets(row: &Row, user: &str) -> Vec<String> {
    let path = row.path();
    let local = user.split('@').next().unwrap();
    let own = |name: &str| path.replacen(name, local, 1);
    let mut targets = vec![path.clone()];
    match row.pattern.as_str() {
        "/api/v2/accounts/:name" if row.method == "PUT" => {
            targets.push(own("the-name"));
            targets.push(format!("{}?domain=example.org", own("the-name")));
            targets.push(format!("{}?domain=other.org", own("the-name")));
        }
        pattern if pattern.starts_with("/api/v2/vmail/") => targets.push(own("the-id")),
        "/api/v2/callback" if row.method == "GET" => {
            targets.extend(["overdue", "no_time", "all"].map(|view| format!("{path}?view={view}")));
        }
        _ => {}
    }
    // Only parameters are decoded, so a slash may stand in one.
    if row.is_v2() && path.contains("/the-") {
        targets.push(path.replacen("/the-", "/the%2F", 1));
    }
    // Express does not look at letter case, nor at one slash at the end.
    let odd = targets[0].trim_end_matches('/').to_uppercase() + "/";
    if row.is_v2() && !row.pattern.contains("passthrough") {
        targets.push(odd.replace("/API/V2", "/Api/v2"));
    }
    targets
}

/// Refused by a check that no role is asked for: the gateway lets it through, and the engine refuses.
fn is_hard_coded(row: &Row) -> bool {
    row.action.is_empty() || row.pattern == "/api/v2/license"
}

async fn every_row_is_decided_as_the_engine_does(by_roles: bool) {
    let mut scene = Scene::new("parity", by_roles).await;
    let (mut faults, mut compared, mut refused) = (Vec::new(), 0, 0);
    for user in USERS {
        let session = scene.gateway.login(user).await;
        for row in rows().iter().filter(|row| !row.is_private() && !is_own_path(row)) {
            for target in targets(row, user) {
                let Pair { direct, through, reached } = scene.ask(row, &target, &session).await;
                compared += 1;
                let same = direct.status == through.status && direct.info() == through.info();
                let by_gateway = direct.status == 403 && !is_hard_coded(row);
                refused += usize::from(by_gateway);
                let own = row.method == "OPTIONS";
                let wrong_side = reached && by_gateway || !reached && direct.status != 403 && !own;
                if !same || wrong_side || direct.status == 404 {
                    faults.push(format!(
                        "{user} {} {target}: {} directly, {} through, reached: {reached}",
                        row.method,
                        direct.brief(),
                        through.brief()
                    ));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} of {compared}:\n{}", faults.len(), faults.join("\n"));
    assert!(compared > 2000 && refused > 300, "{compared} compared, {refused} refused");
}

/// Answered by the gateway itself; other scenes show how. That of the passthrough has rows of its own.
fn is_own_path(row: &Row) -> bool {
    let own = [("POST", "/login"), ("POST", "/logout")];
    own.contains(&(row.method.as_str(), row.pattern.as_str())) || row.action == "see CDR rows"
}

#[tokio::test]
async fn parity_decides_every_row_as_the_engine_does_by_the_rights_that_it_told() {
    every_row_is_decided_as_the_engine_does(false).await;
}

#[tokio::test]
async fn parity_decides_every_row_as_the_engine_does_by_roles() {
    every_row_is_decided_as_the_engine_does(true).await;
}

#[tokio::test]
async fn hardened_lets_nothing_through_that_the_engine_refuses() {
    let mut scene = Scene::new("hardened", false).await;
    let mut stricter = 0;
    for user in USERS {
        let session = scene.gateway.login(user).await;
        for row in rows().iter().filter(|row| !row.is_private() && !is_own_path(row)) {
            let Pair { direct, through, reached } = scene.ask(row, &row.path(), &session).await;
            let what =
                format!("{user} {} {}: {} and {}", row.method, row.path(), direct.brief(), through.brief());
            match through.status {
                200 => assert_eq!(direct.status, 200, "{what}"),
                403 => stricter += usize::from(direct.status == 200),
                401 if !row.is_v2() => stricter += usize::from(direct.status == 200),
                status => assert_eq!(status, direct.status, "{what}"),
            }
            assert!(through.status != 403 || !reached || is_hard_coded(row), "{what}");
        }
    }
    assert!(stricter > 20, "{stricter} answers are stricter");
}
