//! The configuration of a gateway under test, as tables of TOML text that a test can change one key at a time.

use std::fmt::Write as _;
use std::path::Path;

use md5::{Digest, Md5};

/// Every user's password, unless a test gives another.
pub const PASSWORD: &str = "Sesame-opens-4711";

/// The domain of the users.
pub const DOMAIN: &str = "example.org";

/// The HMAC key: not UTF-8, and ending in a newline that must not be trimmed.
pub const SECRET: &[u8] = b"the shared key of the tests \xff\x00\xfe and its newline belong to it\n";

/// Roles that every gateway has; a test adds its own.
const ROLES: &[(&str, &str)] = &[
    (
        "admin",
        "number = 1\ninherits = ['user']\nallow = { up = ['*'], cdr = ['*'], 'cdr/files' = ['*'], vault = ['*'] }",
    ),
    ("user", "number = 0\nallow = { cdr = ['r'], 'cdr/media' = ['r'], account = ['r', 'uo'] }"),
    ("idle", "number = 13\nallow = {}"),
    ("unnumbered", "allow = { cdr = ['r'] }"),
];

const USERS: &[(&str, &str)] =
    &[("admin", "admin"), ("100", "user"), ("200", "user"), ("idle", "idle"), ("odd", "unnumbered")];

const ROUTES: &[&str] = &[
    "path = '/up'\nresource = 'up'\nupstream = 'engine'",
    "path = '/api/v2/cdr'\nresource = 'cdr'\nupstream = 'engine'",
    "path = '/api/v2/vault'\nresource = 'vault'\nupstream = 'engine'",
    "path = '/me'\naccess = 'authenticated'\nupstream = 'engine'",
    "path = '/public'\naccess = 'public'\nupstream = 'engine'",
    "path = '/closed'\naccess = 'deny'",
];

/// Tables in the order they are written; keys in the order they were set.
#[derive(Clone, Debug)]
pub struct Settings {
    tables: Vec<Table>,
    include: Vec<String>,
    routes: Vec<String>,
    users: Vec<Table>,
    pub files: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Table {
    name: String,
    keys: Vec<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self {
            tables: Vec::new(),
            include: vec!["'routes.toml'".to_owned()],
            routes: Vec::new(),
            users: Vec::new(),
            files: Vec::new(),
        };
        settings.set("tls.cert_file", "'gateway.crt'");
        settings.set("tls.key_file", "'gateway.key'");
        settings.set("token.secret_file", "'token.key'");
        settings.set("token.ttl", "'100d'");
        settings.set("token.claims", "['cdr', 'cdr/files', 'cdr/media']");
        settings.set("login.cdr", "{ host = 'http://cdr:10023', useProxy = 'true' }");
        settings.set("login.max_failures", "100000");
        settings.set("directory.file", "'users.toml'");
        settings.set("sessions.file", "'sessions.db'");
        for (name, text) in ROLES {
            settings.role(name, text);
        }
        for (local, role) in USERS {
            settings.user(&format!("{local}@{DOMAIN}"), role);
        }
        settings.routes = ROUTES.iter().map(|route| (*route).to_owned()).collect();
        settings.files.push(("token.key".to_owned(), SECRET.to_vec()));
        settings
    }
}

impl Settings {
    /// Sets one key to a TOML value: `set("limits.max_requests", "2")`.
    pub fn set(&mut self, key: &str, value: &str) {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        set_in(&mut self.tables, table, key, value);
    }

    /// The port of an address that was set.
    pub fn port_of(&self, key: &str) -> u16 {
        self.address_of(key).expect("an address that is set").port()
    }

    /// None: it is not set, or by a name.
    pub fn address_of(&self, key: &str) -> Option<std::net::SocketAddr> {
        let (table, key) = key.rsplit_once('.').unwrap();
        let mut keys = self.tables.iter().filter(|t| t.name == table).flat_map(|t| &t.keys);
        let (_, value) = keys.find(|(name, _)| name == key)?;
        value.trim_matches('\'').parse().ok()
    }

    pub fn unset(&mut self, key: &str) {
        let (table, key) = key.rsplit_once('.').unwrap_or(("", key));
        for table in self.tables.iter_mut().filter(|t| t.name == table) {
            table.keys.retain(|(name, _)| name != key);
        }
        self.tables.retain(|table| !table.keys.is_empty());
    }

    /// Adds lines of TOML under a table.
    pub fn table(&mut self, name: &str, lines: &str) {
        for (key, value) in lines.lines().filter_map(|line| line.split_once('=')) {
            set_in(&mut self.tables, name, key.trim(), value.trim());
        }
    }

    /// Adds or replaces a role.
    pub fn role(&mut self, name: &str, lines: &str) {
        self.tables.retain(|table| table.name != format!("roles.{name}"));
        self.table(&format!("roles.{name}"), lines);
    }

    /// Adds a route; the text is the lines under `[[routes]]`.
    pub fn route(&mut self, lines: &str) {
        self.routes.push(lines.to_owned());
    }

    /// The shipped routes and roles of this name instead of the usual ones. Users of the user file have no role then.
    pub fn webitel(&mut self, name: &str) {
        self.webitel_below(name, &[""]);
    }

    /// As [`Settings::webitel`], the routes below each of these prefixes.
    pub fn webitel_below(&mut self, name: &str, below: &[&str]) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/webitel");
        let file = folder.join(name).with_extension("toml");
        self.include.truncate(1);
        self.include.push(format!("{{ file = '{}', below = {below:?} }}", file.display()));
        self.routes.clear();
        self.users.clear();
        self.tables.retain(|table| !table.name.starts_with("roles."));
    }

    /// Adds a user with [`PASSWORD`], kept as a1 so that logins cost nothing.
    pub fn user(&mut self, name: &str, role: &str) {
        self.user_with(name, role, "a1", &a1(name, PASSWORD));
    }

    /// Adds a user with a stored password of the test's choice; `kind` is `a1` or `password`.
    pub fn user_with(&mut self, name: &str, role: &str, kind: &str, stored: &str) {
        let table = format!("users.\"{name}\"");
        self.users.retain(|user| user.name != table);
        set_in(&mut self.users, &table, kind, &format!("'{stored}'"));
        set_in(&mut self.users, &table, "role", &format!("'{role}'"));
    }

    pub fn remove_user(&mut self, name: &str) {
        self.users.retain(|user| user.name != format!("users.\"{name}\""));
    }

    /// One more key of a user.
    pub fn user_key(&mut self, name: &str, key: &str, value: &str) {
        set_in(&mut self.users, &format!("users.\"{name}\""), key, value);
    }

    /// A file beside the configuration.
    pub fn file(&mut self, name: &str, bytes: &[u8]) {
        self.files.retain(|(other, _)| other != name);
        self.files.push((name.to_owned(), bytes.to_vec()));
    }

    /// Writes every file into the folder.
    pub fn write(&self, folder: &Path) {
        let mut main = format!("include = [{}]\n", self.include.join(", "));
        write_tables(&mut main, &self.tables);
        let mut users = String::new();
        write_tables(&mut users, &self.users);
        let mut routes = String::new();
        for route in &self.routes {
            let _ = write!(routes, "\n[[routes]]\n{route}\n");
        }
        std::fs::write(folder.join("postern.toml"), main).unwrap();
        std::fs::write(folder.join("users.toml"), users).unwrap();
        std::fs::write(folder.join("routes.toml"), routes).unwrap();
        for (name, bytes) in &self.files {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

/// Webitel's a1: md5 of `user:domain:password`; a user without a domain has an empty one.
pub fn a1(user: &str, password: &str) -> String {
    let (name, domain) = user.split_once('@').unwrap_or((user, ""));
    let digest = Md5::digest(format!("{name}:{domain}:{password}"));
    digest.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

fn set_in(tables: &mut Vec<Table>, name: &str, key: &str, value: &str) {
    let at = tables.iter().position(|table| table.name == name).unwrap_or_else(|| {
        tables.push(Table { name: name.to_owned(), keys: Vec::new() });
        tables.len() - 1
    });
    let keys = &mut tables[at].keys;
    match keys.iter_mut().find(|(other, _)| other == key) {
        Some((_, old)) => value.clone_into(old),
        None => keys.push((key.to_owned(), value.to_owned())),
    }
}

fn write_tables(out: &mut String, tables: &[Table]) {
    for table in tables {
        if !table.name.is_empty() {
            let _ = write!(out, "\n[{}]\n", table.name);
        }
        for (key, value) in &table.keys {
            let _ = writeln!(out, "{key} = {value}");
        }
    }
}
