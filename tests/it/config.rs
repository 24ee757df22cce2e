//! `check` and `run`: exit codes, faults with their places, the environment (contract sections 1 and 2).

use std::process::Output;

use crate::support::ports::Port;
use crate::support::process::run_to_end;
use crate::support::settings::Settings;
use crate::support::{Ask, Prepared, TestClient, TestGateway, TestUpstream};

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// `check` refuses it and names the file, the line that holds `marker`, and every word.
#[track_caller]
fn assert_fault(prepared: &Prepared, (file, marker): (&str, &str), words: &[&str]) -> String {
    let output = prepared.call("check");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let source = std::fs::read_to_string(prepared.folder.path().join(file)).unwrap();
    let line = 1 + source.lines().position(|line| line.contains(marker)).expect("the marker is in the file");
    assert!(said.contains(&format!("{file}:{line}:")), "{file}:{line} is not named:\n{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not named:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn a_good_configuration_is_0() {
    let output = Prepared::new(|_| {}).call("check");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[test]
fn a_fault_is_2_with_its_file_line_and_key() {
    type Change = fn(&mut Settings);
    let cases: &[(Change, (&str, &str), &[&str])] = &[
        (|s| s.set("limits.max_conections", "5"), ("postern.toml", "max_conections"), &["max_conections"]),
        (|s| s.set("limitz.a", "1"), ("postern.toml", "[limitz]"), &["limitz"]),
        (|s| s.set("limits.idle_timeout", "'75 parsecs'"), ("postern.toml", "parsecs"), &["idle_timeout"]),
        (|s| s.set("limits.idle_timeout", "'75'"), ("postern.toml", "'75'"), &["idle_timeout"]),
        (|s| s.set("limits.max_header_bytes", "'32KX'"), ("postern.toml", "32KX"), &["max_header_bytes"]),
        (|s| s.set("listen.http", "'127.0.0.1:99999'"), ("postern.toml", "99999"), &["http"]),
        (
            |s| s.set("listen.trusted_proxies", "['10.0.0.0/99']"),
            ("postern.toml", "/99"),
            &["trusted_proxies"],
        ),
        (|s| s.set("log.access", "'yes'"), ("postern.toml", "'yes'"), &["access"]),
        (|s| s.set("tls.min_version", "'1.1'"), ("postern.toml", "'1.1'"), &["min_version"]),
        (
            |s| s.set("tls.cert_file", "'absent.crt'"),
            ("postern.toml", "absent.crt"),
            &["cert_file", "absent.crt"],
        ),
        (
            |s| s.set("token.secret_file", "'absent.key'"),
            ("postern.toml", "absent.key"),
            &["secret_file", "absent.key"],
        ),
        (|s| s.set("directory.file", "'absent.toml'"), ("postern.toml", "absent.toml"), &["absent.toml"]),
        (|s| s.set("upstreams.engine.servers", "['ftp://x']"), ("postern.toml", "ftp://x"), &["servers"]),
        (|s| s.set("upstreams.engine.servers", "[]"), ("postern.toml", "servers = []"), &["servers"]),
        (|s| s.set("upstreams.engine.eject", "{ fails = 3 }"), ("postern.toml", "fails"), &["eject.fails"]),
        (
            |s| s.set("upstreams.engine.eject", "{ max = '1s' }"),
            ("postern.toml", "'1s'"),
            &["eject.max", "base"],
        ),
        (|s| s.set("upstreams.engine.max_pending", "-1"), ("postern.toml", "max_pending"), &["max_pending"]),
        (|s| s.set("upstreams.engine.balance", "'dice'"), ("postern.toml", "dice"), &["balance"]),
        (|s| s.role("user", "inherits = ['ghost']\nallow = {}"), ("postern.toml", "ghost"), &["ghost"]),
        (|s| s.role("idle", "inherits = ['idle']\nallow = {}"), ("postern.toml", "['idle']"), &["idle"]),
        (|s| s.role("idle", "allow = { cdr = ['x'] }"), ("postern.toml", "['x']"), &["x"]),
        (|s| s.user("ghost@example.org", "ghost"), ("users.toml", "'ghost'"), &["ghost"]),
        (|s| s.user_with("p@example.org", "user", "a1", "zz"), ("users.toml", "'zz'"), &["a1"]),
        (
            |s| s.route("path = '/x'\nresource = 'cdr'\nupstream = 'absent'"),
            ("routes.toml", "'absent'"),
            &["absent"],
        ),
        (
            |s| s.route("path = '/x'\nresource = 'cdr'\nressource = 'y'\nupstream = 'engine'"),
            ("routes.toml", "ressource"),
            &["ressource"],
        ),
        (
            |s| s.route("path = 'x/y'\nresource = 'cdr'\nupstream = 'engine'"),
            ("routes.toml", "'x/y'"),
            &["path"],
        ),
        (
            |s| s.route("path = '/x/../y'\nresource = 'cdr'\nupstream = 'engine'"),
            ("routes.toml", "/x/../y"),
            &["path"],
        ),
        (
            |s| s.route("path = '/x*'\nresource = 'cdr'\nupstream = 'engine'"),
            ("routes.toml", "/x*"),
            &["path"],
        ),
        (
            |s| s.route("path = '/x'\naccess = 'open'\nupstream = 'engine'"),
            ("routes.toml", "'open'"),
            &["access"],
        ),
        (
            |s| s.route("path = '/x'\nresource = 'cdr'\npermission = 'read'\nupstream = 'engine'"),
            ("routes.toml", "'read'"),
            &["permission"],
        ),
    ];
    for (change, place, words) in cases {
        assert_fault(&Prepared::new(change), *place, words);
    }
}

#[test]
fn routes_that_do_not_fit_together_are_faults() {
    for (lines, word) in [
        ("path = '/ME/'\nresource = 'cdr'\nupstream = 'engine'", "/me"),
        ("path = '/x'\nupstream = 'engine'", "resource"),
        ("path = '/x'\naccess = 'public'\nresource = 'cdr'\nupstream = 'engine'", "access"),
        ("path = '/x'\naccess = 'public'\npermission = 'r'\nupstream = 'engine'", "permission"),
        ("path = '/x'\nresource = 'cdr'\nown = 'user@caller'\nupstream = 'engine'", "user"),
        ("path = '/x'\nresource = 'cdr'", "upstream"),
        ("path = '/x/y'\nresource = 'cdr'\nstrip_prefix = '/z'\nupstream = 'engine'", "strip_prefix"),
    ] {
        let output = Prepared::new(|settings| settings.route(lines)).call("check");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{lines}: {said}");
        assert!(said.contains("routes.toml:") && said.to_lowercase().contains(word), "{lines}: {said}");
    }
}

#[test]
fn every_fault_is_told_not_the_first() {
    let prepared = Prepared::new(|settings| {
        settings.set("limits.max_conections", "5");
        settings.set("limits.idle_timeout", "'x'");
        settings.user("ghost@example.org", "ghost");
        settings.route("path = '/x'\nresource = 'cdr'\nupstream = 'absent'");
    });
    let output = prepared.call("check");
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2));
    for word in ["max_conections", "idle_timeout", "ghost", "absent"] {
        assert!(said.contains(word), "{word} is missing:\n{said}");
    }
}

#[test]
fn a_syntax_fault_has_its_place() {
    let prepared = Prepared::new(|_| {});
    let path = prepared.folder.path().join("users.toml");
    let mut users = std::fs::read_to_string(&path).unwrap();
    users.push_str("[users.broken\n");
    std::fs::write(&path, &users).unwrap();
    let line = users.lines().count();
    let output = prepared.call("check");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains(&format!("users.toml:{line}")), "{}", text(&output));
}

#[test]
fn a_secret_in_a_fault_is_not_repeated() {
    let said = assert_fault(
        &Prepared::new(|settings| settings.set("token.secret", "'plain-Secret-77'")),
        ("postern.toml", "plain-Secret-77"),
        &["secret"],
    );
    assert!(!said.contains("plain-Secret-77"), "{said}");
    let said = assert_fault(
        &Prepared::new(|settings| settings.user_with("p@example.org", "user", "password", "plain-Secret-78")),
        ("users.toml", "plain-Secret-78"),
        &["password"],
    );
    assert!(!said.contains("plain-Secret-78"), "{said}");
}

#[test]
fn no_listener_and_tls_without_a_certificate_are_faults() {
    let nobody = Prepared::new(|settings| {
        settings.unset("listen.http");
        settings.unset("listen.https");
    });
    let output = nobody.call("check");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("listen"), "{}", text(&output));

    let bare = Prepared::new(|settings| {
        settings.unset("tls.cert_file");
        settings.unset("tls.key_file");
    });
    assert_eq!(bare.call("check").status.code(), Some(2));
}

#[test]
fn run_with_a_fault_is_2_and_nothing_listens() {
    let prepared = Prepared::new(|settings| settings.set("limits.max_conections", "5"));
    let output = prepared.call("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("postern.toml:"), "{}", text(&output));
}

#[test]
fn a_file_that_is_not_there_a_folder_and_wrong_usage_are_2() {
    let prepared = Prepared::new(|_| {});
    let folder = prepared.folder.path().to_str().unwrap().to_owned();
    let absent = format!("{folder}/absent.toml");
    for args in [
        &["check", "--config", &absent][..],
        &["check", "--config", &folder],
        &["fly"],
        &["check", "--colour"],
    ] {
        let output = run_to_end(args, &[]);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output));
        assert!(!text(&output).contains("panicked") && !text(&output).is_empty(), "{args:?}");
    }
}

#[test]
fn version_and_help_are_0_and_every_subcommand_shows_an_example() {
    let version = run_to_end(&["--version"], &[]);
    assert_eq!(version.status.code(), Some(0));
    assert!(text(&version).contains(env!("CARGO_PKG_VERSION")), "{}", text(&version));
    for command in ["run", "check", "demo", "hash-password"] {
        let help = run_to_end(&[command, "--help"], &[]);
        assert_eq!(help.status.code(), Some(0), "{command}");
        assert!(text(&help).contains(&format!("postern {command}")), "{command}: {}", text(&help));
    }
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let good = Prepared::new(|_| {});
    let bad = Prepared::new(|settings| settings.set("limits.max_conections", "5"));
    let named =
        |prepared: &Prepared| vec![("POSTERN_CONFIG".to_owned(), prepared.config().display().to_string())];
    assert_eq!(run_to_end(&["check"], &named(&good)).status.code(), Some(0));
    assert_eq!(run_to_end(&["check"], &named(&bad)).status.code(), Some(2));
    let config = good.config();
    let args = ["check", "--config", config.to_str().unwrap()];
    assert_eq!(run_to_end(&args, &named(&bad)).status.code(), Some(0), "--config wins");
}

fn with_env(change: impl FnOnce(&mut Settings), env: &[(&str, &str)]) -> Prepared {
    let mut prepared = Prepared::new(change);
    prepared.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    prepared
}

#[test]
fn a_variable_that_names_no_key_or_has_a_wrong_value_is_a_fault_that_names_it() {
    for (name, value) in [
        ("POSTERN_LIMITS__MAX_CONECTIONS", "5"),
        ("POSTERN_LIMITZ__IDLE_TIMEOUT", "5s"),
        ("POSTERN_LISTEN__HTTPS__PORT", "5"),
        ("POSTERN_LISTEN__", "5"),
        ("POSTERN_TOKEN__SECRET", "hidden-Value-31"),
        ("POSTERN_LIMITS__IDLE_TIMEOUT", "soon"),
        ("POSTERN_LISTEN__HTTP", "nonsense"),
        ("POSTERN_LOG__ACCESS", "maybe"),
        ("POSTERN_LIMITS__MAX_REQUESTS", "many"),
    ] {
        let output = with_env(|_| {}, &[(name, value)]).call("check");
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.contains(name), "{name}: {said}");
        assert!(!said.contains("hidden-Value-31"), "{said}");
    }
}

#[test]
fn variables_without_two_underscores_are_not_ours() {
    let kubernetes = [
        ("POSTERN_SERVICE_HOST", "10.96.0.10"),
        ("POSTERN_SERVICE_PORT", "8443"),
        ("POSTERN_PORT", "tcp://10.96.0.10:8443"),
        ("POSTERN_PORT_8443_TCP_PROTO", "tcp"),
        ("POSTERN_", "x"),
    ];
    let output = with_env(|_| {}, &kubernetes).call("check");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
}

#[tokio::test]
async fn a_variable_overrides_a_scalar_of_the_file() {
    let upstream = TestUpstream::start().await;
    let url = upstream.url();
    let port = Port::claim();
    let addr = port.addr().to_string();
    let prepared = with_env(
        |settings| settings.set("upstreams.engine.servers", &format!("['{url}']")),
        &[
            ("POSTERN_LISTEN__HTTP", &addr),
            ("POSTERN_UPSTREAMS__ENGINE__RESPONSE_TIMEOUT", "200ms"),
            ("POSTERN_LOG__ACCESS", "false"),
        ],
    );
    let mut gateway = TestGateway::run(prepared).await;
    TestClient::connect(port.addr()).await.ask(&Ask::get("/public/x")).await.assert_ok();
    assert!(
        tokio::net::TcpStream::connect(gateway.http()).await.is_err(),
        "the file's own address is not listened on"
    );
    let login = TestClient::connect(port.addr())
        .await
        .ask(&Ask::login("admin@example.org", crate::support::PASSWORD))
        .await;
    let session = crate::support::Session::of(login.assert_ok().json());
    TestClient::connect(port.addr()).await.ask(&Ask::get("/up/never").with(&session)).await.assert_error(504);
    assert_eq!(gateway.terminate().await, 0);
    assert!(gateway.access_lines().is_empty());
}

#[test]
fn a_key_that_a_later_include_repeats_is_a_fault() {
    let prepared = Prepared::new(|settings| settings.set("limits.idle_timeout", "'5s'"));
    let path = prepared.folder.path().join("routes.toml");
    let routes = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{routes}\n[limits]\nidle_timeout = '6s'\n")).unwrap();
    assert_fault(&prepared, ("routes.toml", "idle_timeout"), &["idle_timeout"]);
}

#[test]
fn a_hashed_password_logs_in_and_is_not_the_password() {
    use std::io::Write as _;
    use std::process::Stdio;

    let mut child = crate::support::process::postern(&[])
        .arg("hash-password")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"correct horse\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let phc = String::from_utf8(output.stdout).unwrap();
    assert!(phc.starts_with("$argon2id$v=19$") && phc.trim_end().lines().count() == 1, "{phc}");
    assert!(!phc.contains("correct horse"));
    let good = Prepared::new(|settings| settings.user_with("p@example.org", "user", "password", phc.trim()));
    assert_eq!(good.call("check").status.code(), Some(0));
}
