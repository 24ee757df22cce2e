//! Routes, roles, users and the sections of later versions, one fault after the other.

use super::*;

#[test]
fn faults_of_routes() {
    for (route, beginning) in [
        (
            "path = \"api\"\nresource = \"a\"\nupstream = \"up\"",
            "routes.toml:6: routes.path: \"api\": a path begins",
        ),
        ("path = \"/a\"\nupstream = \"up\"", "routes.toml:5: routes.resource: is missing"),
        ("path = \"/a\"\nresource = \"a\"", "routes.toml:5: routes.upstream: is missing"),
        (
            "path = \"/a\"\nresource = \"a\"\nupstream = \"upp\"",
            "routes.toml:8: routes.upstream: there is no upstream \"upp\"; did you mean \"up\"?",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\naccess = \"public\"\nupstream = \"up\"",
            "routes.toml:8: routes.access: stands beside resource",
        ),
        (
            "path = \"/a\"\naccess = \"open\"\nupstream = \"up\"",
            "routes.toml:7: routes.access: \"open\" is unknown",
        ),
        (
            "path = \"/a\"\naccess = \"public\"\npermission = \"r\"\nupstream = \"up\"",
            "routes.toml:8: routes.permission: has no meaning",
        ),
        (
            "path = \"/a/{user}\"\naccess = \"authenticated\"\nown = \"domain\"\nupstream = \"up\"",
            "routes.toml:8: routes.own: has no meaning",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\npermission = \"uo\"\nupstream = \"up\"",
            "routes.toml:8: routes.permission: \"uo\" is asked by `own`",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nown = \"user@query\"\nupstream = \"up\"",
            "routes.toml:8: routes.own: needs {user}",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nmethods = []\nupstream = \"up\"",
            "routes.toml:8: routes.methods: is empty",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nmethods = [\"GE T\"]\nupstream = \"up\"",
            "routes.toml:8: routes.methods: \"GE T\" is no method",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nmethods = [\"get\"]\nupstream = \"up\"",
            "routes.toml:8: routes.methods: \"get\" is no method that anyone sends",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nquery = { v = \"x\" }\nupstream = \"up\"",
            "routes.toml:8: routes.query.v: must be a list of strings",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nquery = { v = [] }\nupstream = \"up\"",
            "routes.toml:8: routes.query.v: is empty",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nstrip_prefix = \"/b\"\nupstream = \"up\"",
            "routes.toml:8: routes.strip_prefix: ",
        ),
        (
            "path = \"/a\"\nresource = \"a\"\nencoded_slash = \"yes\"\nupstream = \"up\"",
            "routes.toml:8: routes.encoded_slash: must be true or false",
        ),
        (
            "path = \"/a\"\naccess = \"public\"\nanswer = \"whoami\"",
            "routes.toml:8: routes.answer: tells who calls",
        ),
        ("path = \"/API/cdr/\"\nresource = \"b\"\nupstream = \"up\"", "routes.toml:6: routes.path: "),
        (
            "path = \"/a\"\nressource = \"a\"\naccess = \"deny\"",
            "routes.toml:7: routes.ressource: is an unknown key; did you mean \"resource\"?",
        ),
    ] {
        Scene::new().add("routes.toml", &format!("[[routes]]\n{route}\n")).fails(beginning);
    }
}

#[test]
fn routes_become_settings() {
    let more = r#"[[routes]]
path = "/a/{user}"
methods = ["PUT"]
resource = "account"
permission = "u"
query = { view = ["x", "y"] }
own = "user@caller"
strip_prefix = "/a"
upstream = "up"
[[routes]]
path = "/closed"
access = "deny"
[[routes]]
path = "/who"
access = "authenticated"
answer = "whoami"
upstream = "up"
"#;
    let scene = Scene::new().add("routes.toml", more);
    let loaded = scene.good();
    let [_, a, closed, who] = loaded.settings.access.routes.as_slice() else { panic!() };
    assert!(matches!(&a.rule, Rule::Resource { name, own: Own::UserCaller, .. } if name == "account"));
    assert_eq!(a.query, [("view".to_owned(), vec!["x".to_owned(), "y".to_owned()])]);
    assert_eq!((a.place.line, closed.target, who.target), (6, Target::Nowhere, Target::Whoami));
    assert_eq!(scene.told(&loaded.warnings), ["routes.toml:21: routes.upstream: is of no use beside answer"]);
}

#[test]
fn an_included_files_routes_stand_below_each_prefix() {
    let scene = Scene::new()
        .edit("postern.toml", "\"routes.toml\"", "{ file = \"routes.toml\", below = [\"\", \"/engine\", \"/a/b\"] }")
        .add("routes.toml", "[[routes]]\npath = \"/x/y\"\naccess = \"authenticated\"\nstrip_prefix = \"/x\"\nupstream = \"up\"\n");
    let loaded = scene.good();
    let routes = loaded.settings.access.routes.iter();
    let mounted: Vec<_> =
        routes.map(|r| (r.path.as_str(), r.strip_prefix.as_str())).skip(1).step_by(2).collect();
    assert_eq!(mounted, [("/x/y", "/x"), ("/engine/x/y", "/engine/x"), ("/a/b/x/y", "/a/b/x")]);
    for (item, fault) in [
        ("{ below = [\"/a\"] }", "postern.toml:1: include.file: is missing"),
        ("{ file = \"routes.toml\", below = [\"a\"] }", "postern.toml:1: include.below: \"a\" is no prefix"),
        (
            "{ file = \"routes.toml\", below = [\"/a/\"] }",
            "postern.toml:1: include.below: \"/a/\" is no prefix",
        ),
        ("{ file = \"routes.toml\", below = [] }", "postern.toml:1: include.below: is empty"),
        ("{ file = \"routes.toml\", under = [] }", "postern.toml:1: include.under: is an unknown key"),
    ] {
        Scene::new().edit("postern.toml", "\"routes.toml\"", item).fails(fault);
    }
}

#[test]
fn rules_of_bodies_and_first_frames_are_checked() {
    for (route, beginning) in [
        (
            "resource = \"a\"\nbody = { role = \"own\" }",
            "routes.toml:8: routes.body.role: \"own\" is unknown",
        ),
        (
            "access = \"public\"\nbody = { role = \"at_most_own\" }",
            "routes.toml:8: routes.body.role: has no meaning",
        ),
        ("resource = \"a\"\nbody_credentials = \"refuse\"", "routes.toml:8: routes.body_credentials: "),
        (
            "access = \"public\"\nwebsocket = \"first_frame\"",
            "routes.toml:8: routes.websocket: \"first_frame\" asks who calls",
        ),
    ] {
        let text = format!("[[routes]]\npath = \"/b\"\n{route}\nupstream = \"up\"\n");
        Scene::new().add("routes.toml", &text).fails(beginning);
    }
}

#[test]
fn faults_of_roles_and_users() {
    for (file, from, to, beginning) in [
        (
            "roles.toml",
            "\"low\"",
            "\"lowe\"",
            "roles.toml:5: roles.high.inherits: there is no role \"lowe\"; did you mean \"low\"?",
        ),
        (
            "roles.toml",
            "\"low\"",
            "\"high\"",
            "roles.toml:5: roles.high.inherits: makes role \"high\" inherit from itself",
        ),
        ("roles.toml", "\"r\"", "\"x\"", "roles.toml:2: roles.low.allow.cdr: \"x\" is no permission"),
        (
            "roles.toml",
            "number = 1",
            "number = 1.5",
            "roles.toml:4: roles.high.number: must be a whole number",
        ),
        (
            "users.toml",
            "role = \"low\"",
            "role = \"ghost\"",
            "users.toml:3: users.a@d.role: there is no role \"ghost\"; there are high, low",
        ),
        ("users.toml", "role = \"low\"", "", "users.toml:1: users.a@d.role: is missing"),
        (
            "users.toml",
            "a1 = \"0123456789abcdef0123456789abcdef\"",
            "",
            "users.toml:1: users.a@d.password: is missing",
        ),
        ("users.toml", "0123456789abcdef", "", "users.toml:2: users.a@d.a1: must be 32"),
        (
            "users.toml",
            "role =",
            "totp_secret_file = \"no.key\"\nrole =",
            "users.toml:3: users.a@d.totp_secret_file: no.key cannot",
        ),
        (
            "users.toml",
            "role =",
            "totp_secret_file = \"../token.key\"\nrole =",
            "users.toml:3: users.a@d.totp_secret_file: ",
        ),
        ("users.toml", "a@d", "", "users.toml:1: users: has an entry without a name"),
        ("users.toml", "a@d", "@d", "users.toml:1: users.@d: is no user's name"),
        ("users.toml", "[users", "[user", "users.toml:1: user: is an unknown key; did you mean \"users\"?"),
    ] {
        Scene::new().edit(file, from, to).fails(beginning);
    }
}

#[test]
fn sections_that_most_do_not_have() {
    let scene = Scene::new().add(
        "postern.toml",
        r#"[login]
answers = "engine"
[sessions.redis]
sentinel = { master = "m", nodes = ["a:1"] }
username = "u"
password_file = "token.key"
max_stale = "0s"
local_logins = true
[sessions.adopt]
url = "http://engine:10022"
revalidate = "60s"
rights = "roles"
negative_ttl = "10s"
max_lookups_per_second = 50
"#,
    );
    let loaded = scene.good();
    let redis = loaded.settings.sessions.redis.as_ref().unwrap();
    let place = crate::session::redis::Place::Sentinel { master: "m".into(), nodes: vec![("a".into(), 1)] };
    assert_eq!((&redis.place, redis.username.as_deref()), (&place, Some("u")));
    assert!(redis.max_stale.is_zero() && redis.local_logins && redis.password.is_some());
    assert!(loaded.settings.sessions.adopt.is_some());
    let told = scene.told(&loaded.warnings);
    assert!(told.iter().any(|warning| warning.contains("sessions.file: is not used beside")), "{told:?}");
}

#[test]
fn faults_of_sections_that_most_do_not_have() {
    for (section, beginning) in [
        ("[sessions.redis]\nmax_stale = \"1s\"", "postern.toml:19: sessions.redis.url: is missing"),
        (
            "[sessions.redis]\nurl = \"redis://x\"\nusername = \"u\"",
            "postern.toml:21: sessions.redis.username: stands without a password_file",
        ),
        (
            "[sessions.redis]\nurl = \"redis://x\"\nca_file = \"gateway.crt\"",
            "postern.toml:21: sessions.redis.ca_file: is of no use without TLS",
        ),
        (
            "[sessions.redis]\nurl = \"http://x\"",
            "postern.toml:20: sessions.redis.url: \"http://x\" is no URL",
        ),
        (
            "[sessions.redis]\nurl = \"redis://x/db\"",
            "postern.toml:20: sessions.redis.url: \"redis://x/db\" names no database",
        ),
        ("[sessions.redis]\ncluster = [\"a\"]", "postern.toml:20: sessions.redis.cluster: \"a\" is no node"),
        (
            "[sessions.redis]\nsentinel = { nodes = [\"a:1\"] }",
            "postern.toml:20: sessions.redis.sentinel.master: is missing",
        ),
        (
            "[sessions.redis]\nurl = \"redis://x\"\ncluster = [\"a:1\"]",
            "postern.toml:20: sessions.redis.url: stands beside",
        ),
        ("[sessions.adopt]\nrights = \"whoami\"", "postern.toml:19: sessions.adopt.url: is missing"),
        (
            "[sessions.adopt]\nurl = \"http://x\"\nrights = \"engine\"",
            "postern.toml:21: sessions.adopt.rights: \"engine\" is unknown",
        ),
        (
            "[sessions.adopt]\nurl = \"http://x\"\nrevalidat = \"1s\"",
            "postern.toml:21: sessions.adopt.revalidat: is an unknown key",
        ),
        ("[authz]\nconvention = \"traefik\"", "postern.toml:20: authz.convention: \"traefik\" is unknown"),
        ("[cors]\norigins = [\"*\"]", "postern.toml:20: cors.origins: is an unknown key"),
        (
            "[telemetry]\notlp_endpoint = \"grpc://x:4317\"",
            "postern.toml:20: telemetry.otlp_endpoint: \"grpc://x:4317\" is no URL",
        ),
        (
            "[telemetry]\notlp_endpoint = \"http://x:4317/v1/traces\"",
            "postern.toml:20: telemetry.otlp_endpoint: \"http://x:4317/v1/traces\" has a path",
        ),
        (
            "[telemetry]\notlp_endpoint = \"http://x\"\nsample_ratio = 1.5",
            "postern.toml:21: telemetry.sample_ratio: must be a number from 0.0",
        ),
        ("[telemetry]\nsample_ratio = 0.5", "postern.toml:20: telemetry.sample_ratio: is of no use"),
        ("[telemetry]\nendpoint = \"http://x\"", "postern.toml:20: telemetry.endpoint: is an unknown key"),
        ("[admin]\ntoken_file = \"no.token\"", "postern.toml:20: admin.token_file: no.token cannot be read"),
        (
            "[domain_tokens.a]\ndomain = \"d\"\nrole = \"low\"\nexpires = 2035-01-01",
            "postern.toml:22: domain_tokens.a.expires: must be",
        ),
        (
            "[domain_tokens.a]\ndomain = \"d\"\nrole = \"no\"\nexpires = 2035-01-01T00:00:00Z",
            "postern.toml:21: domain_tokens.a.role: there is no role",
        ),
    ] {
        Scene::new().add("postern.toml", &format!("{section}\n")).fails(beginning);
    }
}

#[test]
fn traces_have_a_collector_and_a_ratio() {
    let traces = |lines: &str| Scene::new().add("postern.toml", lines).good().settings.traces;
    assert_eq!(traces(""), None);
    for (lines, endpoint, ratio) in [
        ("[telemetry]\notlp_endpoint = \"http://127.0.0.1:4317\"\n", "http://127.0.0.1:4317", 1.0),
        ("[telemetry]\notlp_endpoint = \"https://[::1]\"\nsample_ratio = 0.25\n", "https://[::1]:443", 0.25),
        ("[telemetry]\notlp_endpoint = \"http://otel:4317/\"\nsample_ratio = 0\n", "http://otel:4317", 0.0),
    ] {
        let traces = traces(lines).unwrap();
        assert_eq!(traces.endpoint, endpoint);
        assert_eq!(Some(traces.sample_ratio), crate::telemetry::SampleRatio::of(ratio), "{lines}");
    }
}
