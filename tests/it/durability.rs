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

#[test]
fn sessions_follow_a_user_file_that_changed_while_nothing_ran() {
    let mut gateway = TestGateway::start(&TestUpstream::start());
    let (reader, owner) = (gateway.login("reader@d"), gateway.login("owner@d"));
    gateway.restart_with(|users| {
        *users = users.replace("role = \"reader\"", "role = \"owner\"").replace("owner@d", "other@d");
    });
    assert_eq!(gateway.send("GET", "/cdr", &reader.headers()).status, 403, "the new role acts");
    assert_eq!(
        gateway.send("GET", "/accounts/owner", &owner.headers()).status,
        401,
        "who left the file has no session"
    );
}
