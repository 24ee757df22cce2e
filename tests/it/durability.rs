//! Contract section 2, `[sessions] file`: what was answered 200 survives `kill -9`.

use super::support::{TestGateway, TestUpstream};

#[test]
fn no_acknowledged_login_or_logout_is_lost_by_kill_9() {
    let mut gateway = TestGateway::start(&TestUpstream::start());
    let sessions: Vec<_> = (0..200).map(|_| gateway.login("reader@d")).collect();
    for session in sessions.iter().step_by(2) {
        assert_eq!(gateway.send("POST", "/logout", &session.headers()).status, 200);
    }
    gateway.kill_and_restart();
    for (n, session) in sessions.iter().enumerate() {
        let expected = if n % 2 == 0 { 401 } else { 200 };
        assert_eq!(gateway.send("GET", "/cdr", &session.headers()).status, expected, "{n}");
    }
}
