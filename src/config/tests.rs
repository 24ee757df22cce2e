//! Whole configurations: what passes, and where each fault is told. Readers are tested beside their code.

mod sections;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::access::routes::{Own, Rule, Target};
use crate::secret::ExposeSecret;

const MAIN: &str = r#"include = ["roles.toml", "routes.toml"]
[listen]
https = "127.0.0.1:8443"
http = "127.0.0.1:8080"
admin = "127.0.0.1:9900"
[tls]
cert_file = "gateway.crt"
key_file = "gateway.key"
[token]
secret_file = "token.key"
[directory]
file = "users.toml"
[sessions]
file = "sessions.db"
[upstreams.up]
servers = ["http://127.0.0.1:1"]
[limits]
max_requests = 10
"#;

const ROLES: &str =
    "[roles.low]\nallow = { cdr = [\"r\"] }\n[roles.high]\nnumber = 1\ninherits = [\"low\"]\n";

const ROUTES: &str = "[[routes]]\npath = \"/api/cdr\"\nresource = \"cdr\"\nupstream = \"up\"\n";

const USERS: &str = "[users.\"a@d\"]\na1 = \"0123456789abcdef0123456789abcdef\"\nrole = \"low\"\n";

/// A folder with a good configuration.
struct Scene {
    folder: tempfile::TempDir,
    env: Vec<(String, String)>,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap(), env: Vec::new() };
        let (crt, key) = certificate();
        let token = "a key of 32 bytes or a little more\n".to_owned();
        for (name, text) in [
            ("postern.toml", MAIN.to_owned()),
            ("roles.toml", ROLES.to_owned()),
            ("routes.toml", ROUTES.to_owned()),
            ("users.toml", USERS.to_owned()),
            ("gateway.crt", crt),
            ("gateway.key", key),
            ("token.key", token),
        ] {
            scene.put(name, &text);
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn edit(self, name: &str, from: &str, to: &str) -> Self {
        let text = fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        self.put(name, &text.replacen(from, to, 1));
        self
    }

    fn add(self, name: &str, text: &str) -> Self {
        let all = fs::read_to_string(self.path(name)).unwrap() + text;
        self.put(name, &all);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn load(&self) -> Result<Loaded, Vec<String>> {
        let source = Source { file: self.path("postern.toml"), env: self.env.clone() };
        load(&source).map_err(|refused| self.told(&refused.faults))
    }

    fn told(&self, faults: &[Fault]) -> Vec<String> {
        let folder = format!("{}/", self.folder.path().display());
        faults.iter().map(|fault| fault.to_string().replace(&folder, "")).collect()
    }

    fn good(&self) -> Loaded {
        self.load().unwrap_or_else(|faults| panic!("{faults:#?}"))
    }

    /// The one fault, which begins so.
    fn fails(&self, beginning: &str) {
        let faults = self.load().map(|_| "no fault").unwrap_err();
        assert!(
            faults.len() == 1 && faults[0].starts_with(beginning),
            "expected {beginning}\nseen {faults:#?}"
        );
    }
}

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

#[test]
fn a_good_configuration_passes_without_a_word() {
    let scene = Scene::new();
    let loaded = scene.good();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.files.len(), 7, "{:?}", loaded.files);
    let Settings { listen, tls, token, directory, sessions, access, admin, limits, .. } = loaded.settings;
    assert_eq!(listen.https, Some("127.0.0.1:8443".parse().unwrap()));
    assert!(tls.is_some() && admin.is_some() && directory.users.len() == 1);
    assert_eq!(token.secret.expose_secret(), b"a key of 32 bytes or a little more\n");
    assert_eq!(token.ttl, Duration::from_secs(100 * 86_400));
    assert_eq!(sessions.file, Some(scene.path("sessions.db")));
    assert_eq!((access.routes.len(), access.roles.len(), limits.max_requests), (1, 2, 10));
}

#[test]
fn faults_of_the_main_file_are_told_with_line_and_key() {
    for (from, to, beginning) in [
        (
            "max_requests",
            "max_reqests",
            "postern.toml:18: limits.max_reqests: is an unknown key; did you mean",
        ),
        ("[limits]", "[limitz]", "postern.toml:17: limitz: is an unknown key; did you mean \"limits\"?"),
        ("token.key", "no.key", "postern.toml:10: token.secret_file: no.key cannot be read"),
        ("gateway.crt", "no.crt", "postern.toml:7: tls.cert_file: no.crt cannot be read"),
        ("gateway.crt", "token.key", "postern.toml:7: tls.cert_file: token.key holds no PEM certificate"),
        ("users.toml", "no.toml", "postern.toml:12: directory.file: no.toml cannot be read"),
        ("routes.toml", "no.toml", "postern.toml:1: include: no.toml cannot be read"),
        ("routes.toml", "roles.toml", "postern.toml:1: include: roles.toml is included twice"),
        ("8080", "99999", "postern.toml:4: listen.http: \"127.0.0.1:99999\" is no address"),
        ("8080", "8443", "postern.toml:4: listen.http: 127.0.0.1:8443 is taken by listen.https"),
        ("127.0.0.1:9900", "0.0.0.0:9900", "postern.toml:5: listen.admin: is reachable from elsewhere"),
        ("sessions.db", "no/sessions.db", "postern.toml:14: sessions.file: the folder of no/sessions.db"),
        ("http://127.0.0.1:1", "ftp://x", "postern.toml:16: upstreams.up.servers: \"ftp://x\" is no URL"),
        (
            "\"http://127.0.0.1:1\"",
            "\"http://a\", \"h2c://b\"",
            "postern.toml:16: upstreams.up.servers: mixes h2c with http",
        ),
        ("\"http://127.0.0.1:1\"", "", "postern.toml:16: upstreams.up.servers: is empty"),
        ("max_requests = 10", "max_requests = 0", "postern.toml:18: limits.max_requests: must be"),
        (
            "max_requests = 10",
            "idle_timeout = \"75\"",
            "postern.toml:18: limits.idle_timeout: \"75\" is no duration",
        ),
        (
            "max_requests = 10",
            "max_header_bytes = \"32KX\"",
            "postern.toml:18: limits.max_header_bytes: \"32KX\"",
        ),
        (
            "max_requests = 10",
            "[users.x]",
            "postern.toml:18: users: is an unknown key here; users stand in the file",
        ),
        ("[token]\nsecret_file = \"token.key\"", "", "postern.toml:1: token: is missing"),
    ] {
        Scene::new().edit("postern.toml", from, to).fails(beginning);
    }
}

#[test]
fn faults_between_sections_are_told_where_they_stand() {
    let scene = Scene::new();
    scene.put("gateway.key", &certificate().1);
    scene.fails("postern.toml:8: tls.key_file: ");
    let without_tls = "[tls]\ncert_file = \"gateway.crt\"\nkey_file = \"gateway.key\"\n";
    Scene::new().edit("postern.toml", without_tls, "").fails("postern.toml:3: listen.https: needs [tls]");
    Scene::new()
        .edit("postern.toml", "https = \"127.0.0.1:8443\"\nhttp = \"127.0.0.1:8080\"\n", "")
        .fails("postern.toml:2: listen.https: is missing, and so is listen.http");
    Scene::new()
        .edit("postern.toml", "[token]", "sni = [\n { names = [\"a.example\"], cert_file = \"gateway.crt\", key_file = \"no.key\" },\n]\n[token]")
        .fails("postern.toml:10: tls.sni.key_file: no.key cannot be read");
    Scene::new()
        .edit("postern.toml", "[token]", "client_ca_file = \"roles.toml\"\n[token]")
        .fails("postern.toml:9: tls.client_ca_file: roles.toml holds no PEM certificate");
}

#[test]
fn a_secret_that_stands_in_the_wrong_place_is_not_shown() {
    let scenes = [
        Scene::new().edit("postern.toml", "[directory]", "secret = \"hidden-77\"\n[directory]"),
        Scene::new().edit(
            "users.toml",
            "a1 = \"0123456789abcdef0123456789abcdef\"",
            "password = \"hidden-77\"",
        ),
        Scene::new().edit("users.toml", "0123456789abcdef0123456789abcdef", "hidden-77"),
        Scene::new().edit("postern.toml", "http://127.0.0.1:1", "http://user:hidden-77@127.0.0.1:1"),
        Scene::new().edit(
            "postern.toml",
            "[limits]",
            "[sessions.redis]\nurl = \"redis://:hidden-77@h:1\"\n[limits]",
        ),
        Scene::new().env("POSTERN_TOKEN__SECRET", "hidden-77"),
        Scene::new().env("POSTERN_TOKEN__NO__SUCH", "hidden-77"),
    ];
    for scene in scenes {
        let faults = scene.load().map(|_| "no fault").unwrap_err();
        assert!(!faults.is_empty() && !faults.iter().any(|fault| fault.contains("hidden-77")), "{faults:#?}");
    }
}

#[test]
fn all_faults_are_told_in_the_order_of_files_and_lines() {
    let scene = Scene::new()
        .edit("postern.toml", "max_requests = 10", "max_reqests = 1\nidle_timeout = \"x\"")
        .edit("users.toml", "role = \"low\"", "role = \"ghost\"")
        .add("routes.toml", "[[routes]]\npath = \"/u\"\nresource = \"a\"\nupstream = \"nosuch\"\n")
        .env("POSTERN_LOG__ACCESS", "maybe");
    let faults = scene.load().map(|_| "no fault").unwrap_err();
    let places: Vec<_> = faults.iter().map(|fault| fault.split(": ").next().unwrap()).collect();
    let expected =
        ["POSTERN_LOG__ACCESS", "postern.toml:18", "postern.toml:19", "routes.toml:8", "users.toml:3"];
    assert_eq!(places, expected, "{faults:#?}");
}

#[test]
fn after_a_syntax_fault_nothing_else_is_told() {
    let scene = Scene::new()
        .edit("postern.toml", "max_requests", "max_reqests")
        .add("roles.toml", "[roles.broken\n")
        .add("routes.toml", "x = \n");
    let faults = scene.load().map(|_| "no fault").unwrap_err();
    assert_eq!(faults.len(), 2, "{faults:#?}");
    assert!(faults[0].starts_with("roles.toml:6: is no TOML: ") && faults[1].starts_with("routes.toml:5: "));
}

#[test]
fn a_file_that_is_not_there_is_told_by_its_name() {
    let source = Source { file: "no/such.toml".into(), env: Vec::new() };
    let faults = load(&source).err().unwrap().faults;
    assert!(
        faults.len() == 1 && faults[0].to_string().starts_with("no/such.toml: cannot be read"),
        "{faults:?}"
    );
    assert!(load(&Source { file: std::env::temp_dir(), env: Vec::new() }).is_err());
}

#[test]
fn a_key_that_a_later_file_repeats_is_a_fault() {
    Scene::new()
        .add("roles.toml", "[limits]\nmax_requests = 5\n")
        .fails("roles.toml:7: limits.max_requests: is set twice, first at ");
    Scene::new()
        .add("roles.toml", "")
        .edit("roles.toml", "[roles.low]", "include = []\n[roles.low]")
        .fails("roles.toml:1: include: stands in an included file");
}

#[test]
fn paths_are_relative_to_the_file_that_holds_them() {
    let scene = Scene::new()
        .edit("postern.toml", "\"roles.toml\"", "\"sub/part.toml\", \"roles.toml\"")
        .edit("postern.toml", "[directory]\nfile = \"users.toml\"\n", "");
    scene.put("sub/part.toml", "[directory]\nfile = \"deep/users.toml\"\n");
    scene.put("sub/deep/users.toml", &USERS.replace("role", "totp_secret_file = \"totp.key\"\nrole"));
    scene.put("sub/deep/totp.key", "GEZDGNBVGY3TQOJQ\n");
    assert!(scene.good().settings.directory.users[0].totp.is_some());
    fs::remove_file(scene.path("sub/deep/totp.key")).unwrap();
    scene.put("totp.key", "GEZDGNBVGY3TQOJQ\n");
    scene.fails("sub/deep/users.toml:3: users.a@d.totp_secret_file: ");
}

#[test]
fn the_environment_overrides_scalars_of_every_type() {
    let scene = Scene::new()
        .env("POSTERN_LISTEN__HTTP", "127.0.0.1:81")
        .env("POSTERN_LIMITS__MAX_REQUESTS", "77")
        .env("POSTERN_LIMITS__MAX_HEADER_BYTES", "16KiB")
        .env("POSTERN_UPSTREAMS__UP__RESPONSE_TIMEOUT", "1s")
        .env("POSTERN_UPSTREAMS__UP__FORWARD_CREDENTIALS", "false")
        .env("POSTERN_PATHS__CASE_SENSITIVE", "true")
        .env("POSTERN_ROLES__HIGH__NUMBER", "9")
        .env("POSTERN_TOKEN__SECRET_FILE", "env.key")
        .env("POSTERN_USERS__A@D__ROLE", "high")
        .env("POSTERN_SERVICE_HOST", "10.96.0.10");
    scene.put("env.key", "another key, of at least 32 bytes");
    let Settings { listen, limits, upstreams, access, token, directory, .. } = scene.good().settings;
    assert_eq!(listen.http, Some("127.0.0.1:81".parse().unwrap()));
    assert_eq!((limits.max_requests, limits.max_header_bytes), (77, 16 * 1024));
    assert_eq!(
        (upstreams[0].response_timeout, upstreams[0].forward_credentials),
        (Duration::from_secs(1), false)
    );
    assert!(access.case_sensitive && access.roles[0].number == Some(9));
    assert_eq!(token.secret.expose_secret(), b"another key, of at least 32 bytes");
    assert_eq!(directory.users[0].role.as_str(), "high");
}

#[test]
fn a_variable_that_is_wrong_is_named() {
    for (name, value) in [
        ("POSTERN_LIMITS__MAX_CONECTIONS", "5"),
        ("POSTERN_LIMITZ__IDLE_TIMEOUT", "5s"),
        ("POSTERN_LISTEN__HTTPS__PORT", "5"),
        ("POSTERN_LISTEN__AUTHZ__PORT", "5"),
        ("POSTERN__LISTEN__HTTP", "5"),
        ("POSTERN_LISTEN__", "5"),
        ("POSTERN_UPSTREAMS__UP__RESPONSE_TIME", "5"),
        ("POSTERN_UPSTREAMS__NONE__RETRIES", "5"),
        ("POSTERN_UPSTREAMS__UP__SERVERS", "http://x"),
        ("POSTERN_LISTEN__TRUSTED_PROXIES", "10.0.0.0/8"),
        ("POSTERN_LIMITS__MAX_REQUESTS", "many"),
        ("POSTERN_LIMITS__IDLE_TIMEOUT", "soon"),
        ("POSTERN_LISTEN__HTTP", "nonsense"),
        ("POSTERN_LOG__ACCESS", "2"),
        ("POSTERN_USERS__NOBODY__ROLE", "low"),
        ("POSTERN_TLS__CERT_FILE", "\u{fffd}"),
    ] {
        Scene::new().env(name, value).fails(&format!("{name}: "));
    }
}

#[test]
fn what_is_good_but_doubtful_is_a_warning() {
    let scene = Scene::new().add(
        "postern.toml",
        "[domain_tokens.a]\ndomain = \"d\"\nrole = \"low\"\nexpires = 2001-01-01T00:00:00Z\n",
    );
    scene.put("token.key", "short");
    fs::set_permissions(scene.path("token.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let warnings = scene.told(&scene.good().warnings);
    assert_eq!(warnings.len(), 3, "{warnings:#?}");
    assert!(warnings.iter().any(|warning| warning.contains("token.key is open to others")));
    assert!(warnings.iter().any(|warning| warning.contains("has passed")));
}

#[test]
fn the_example_in_the_repository_passes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let scene = Scene::new();
    for name in ["postern.toml", "roles.toml", "routes.toml", "users.toml"] {
        scene.put(&format!("config/{name}"), &fs::read_to_string(folder.join(name)).unwrap());
    }
    for name in ["gateway.crt", "gateway.key", "token.key"] {
        scene.put(&format!("certs/{name}"), &fs::read_to_string(scene.path(name)).unwrap());
    }
    fs::create_dir(scene.path("data")).unwrap();
    let source = Source { file: scene.path("config/postern.toml"), env: Vec::new() };
    let loaded = load(&source)
        .map_err(|refused| scene.told(&refused.faults))
        .unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
}
