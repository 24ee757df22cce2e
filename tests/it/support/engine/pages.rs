//! What the engine and the CDR server answer.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::routes::{Row, rows};
use super::{Request, State, acl, is_password};
use crate::support::jwt;
use crate::support::settings::SECRET;

pub(super) struct Page {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) caller: Option<String>,
    crash: bool,
}

/// Whom the engine takes a request to be from.
struct Caller {
    id: String,
    domain: Option<String>,
    role: String,
    expires: Option<u64>,
}

impl Page {
    pub(super) fn new(status: u16, body: Value) -> Self {
        Self { status, body, caller: None, crash: false }
    }

    fn error(status: u16, info: &str) -> Self {
        Self::new(status, json!({"status": "error", "info": info}))
    }

    /// None: the process is gone.
    pub(super) fn known(self) -> Option<Self> {
        (!self.crash).then_some(self)
    }
}

pub(super) fn page(request: &Request, state: &State, is_cdr: bool) -> Page {
    let path = request.path();
    match (request.method.as_str(), path.to_lowercase().as_str()) {
        _ if is_cdr => v2(request, state, true),
        ("OPTIONS", _) => Page::new(200, Value::Null),
        ("POST", "/login" | "/login/") => login(request, state),
        ("POST", "/logout" | "/logout/") => logout(request, state),
        ("GET", "/login/") => Page::error(404, "/login/ not found."),
        ("GET", login) if login.starts_with("/login/") => Page::error(403, "Code or domain is required"),
        (_, v1) if v1.starts_with("/api/v1") => Page::error(401, "Invalid credentials"),
        (_, cdr) if cdr.starts_with("/api/v2/r/") => {
            Page::new(200, json!({"status": "OK", "info": "http://storage:10023"}))
        }
        (_, v2_path) if v2_path.starts_with("/api/v2/") => v2(request, state, false),
        _ => public(request),
    }
}

fn public(request: &Request) -> Page {
    let known = rows()
        .iter()
        .any(|row| !row.is_v2() && !row.is_cdr_or_options() && row.takes(&request.method, request.path()));
    if known || ["/favicon.ico", "/engine"].contains(&request.path()) {
        return Page::new(200, json!({"status": "OK", "info": "public"}));
    }
    Page::error(404, &format!("{} not found.", request.target))
}

impl Row {
    fn is_cdr_or_options(&self) -> bool {
        self.is_of_cdr() || self.method == "OPTIONS" || self.is_private()
    }
}

fn login(request: &Request, state: &State) -> Page {
    state.logins.fetch_add(1, Ordering::SeqCst);
    let username = &request.json["username"];
    if username.is_array() || username.is_object() {
        state.crashed.store(true, Ordering::SeqCst);
        return Page { crash: true, ..Page::new(0, Value::Null) };
    }
    let Some(name) = username.as_str().filter(|name| !name.is_empty()) else {
        return Page::new(401, json!({"status": 401, "message": "Invalid credentials"}));
    };
    let user = state.users.lock().unwrap().get(name).cloned();
    let Some(user) = user.filter(|_| is_password(&request.json["password"])) else {
        return Page::error(401, "secret incorrect");
    };
    match (user.code, request.query("code").filter(|code| !code.is_empty())) {
        (Some(_), None) => return Page::error(301, "Set security code"),
        (Some(code), Some(given)) if code != given => return Page::error(401, "code incorrect"),
        _ => {}
    }
    Page::new(200, state.make_session(name, &user.role))
}

/// The signature of the token is not looked at, only whether it is the session's.
fn logout(request: &Request, state: &State) -> Page {
    let (token, key) =
        (request.credential("access_token", "x-access-token"), request.credential("x_key", "x-key"));
    let mut sessions = state.sessions.lock().unwrap();
    let key = key.as_str().unwrap_or_default();
    if sessions.get(key).is_some_and(|known| Some(known.token.as_str()) == token.as_str()) {
        sessions.remove(key);
        return Page::new(200, json!({"status": "OK", "info": "Successful logout."}));
    }
    Page::error(401, "Invalid credentials.")
}

fn v2(request: &Request, state: &State, is_cdr: bool) -> Page {
    if !is_cdr && request.path().eq_ignore_ascii_case("/api/v2/whoami") {
        state.whoamis.fetch_add(1, Ordering::SeqCst);
        let key = request.credential("x_key", "x-key");
        if let Some(status) = key.as_str().and_then(|key| state.refused.lock().unwrap().get(key).copied()) {
            return Page::error(status, "Not taken.");
        }
    }
    let caller = match caller(request, state) {
        Ok(caller) => caller,
        Err(info) => return Page::error(401, info),
    };
    let page = match request.path().to_lowercase().as_str() {
        "/api/v2/whoami" | "/api/v2/whoami/" if !is_cdr => whoami(&caller, state),
        _ => answered(request, state, is_cdr, &caller),
    };
    Page { caller: Some(caller.id), ..page }
}

fn answered(request: &Request, state: &State, is_cdr: bool, caller: &Caller) -> Page {
    let path = request.path();
    let fits = |row: &Row| row.is_v2() && row.is_of_cdr() == is_cdr && row.takes(&request.method, path);
    let Some(row) = rows().iter().find(|row| fits(row)) else {
        return Page::error(404, &format!("{} not found.", request.target));
    };
    if !may(row, request, state, caller) {
        return Page::error(403, "Permission denied!");
    }
    Page::new(200, json!({"status": "OK", "info": row.pattern, "caller": caller.id}))
}

/// The order of the checks is the real one's.
fn caller(request: &Request, state: &State) -> Result<Caller, &'static str> {
    let token = request.credential("access_token", "x-access-token");
    let text = token.as_str().filter(|text| !text.is_empty()).ok_or("Invalid token")?;
    let (_, claims) = jwt::verify(text, SECRET).ok_or("Invalid token")?;
    if claims["exp"].as_u64().is_some_and(|exp| exp <= jwt::now()) {
        return Err("Token Expired");
    }
    if claims["t"] == "domain" {
        let id = claims["id"].as_str().unwrap_or_default();
        let known = state.tokens.lock().unwrap().get(id).cloned().ok_or("Not found token")?;
        let id = format!("{id}@{}", known.domain);
        return Ok(Caller { id, domain: Some(known.domain), role: known.role, expires: None });
    }
    let key = request.credential("x_key", "x-key");
    let sessions = state.sessions.lock().unwrap();
    let known = match &key {
        Value::Null => return Err("Invalid Token or Key"),
        Value::String(key) => sessions.get(key),
        // An object goes to the database as an operator: any session of this token fits.
        _ => sessions.values().find(|known| known.token == text),
    };
    let known = known.filter(|known| known.token == text).ok_or("Invalid User")?;
    let domain = known.user.split_once('@').map(|(_, domain)| domain.to_owned());
    Ok(Caller { id: known.user.clone(), domain, role: known.role.clone(), expires: Some(known.expires) })
}

fn whoami(caller: &Caller, state: &State) -> Page {
    let acl = acl::merged(&state.roles.lock().unwrap(), &caller.role);
    let mut body = json!({
        "acl": acl, "id": caller.id, "roleName": caller.role,
        "cdr": {"host": "http://storage:10023", "useProxy": "true"}, "verto": "wss://engine/verto"
    });
    if let Some(domain) = &caller.domain {
        body["domain"] = domain.clone().into();
    }
    if let Some(expires) = caller.expires {
        body["expires"] = expires.into();
    }
    Page::new(200, body)
}

/// What the row asks, by its words.
fn may(row: &Row, request: &Request, state: &State, caller: &Caller) -> bool {
    let roles = state.roles.lock().unwrap();
    let allows = |resource: &str, permission: &str| acl::allows(&roles, &caller.role, resource, permission);
    if row.action.is_empty() || row.action == "see CDR rows" {
        return own_check(row, caller);
    }
    let path = request.path();
    let words: Vec<&str> = row.action.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    let (plain, own) = (words[0], words.iter().skip(1).find(|w| matches!(**w, "ro" | "uo" | "do" | "co")));
    let views = ["overdue", "scheduled", "completed", "no_time"];
    if row.pattern == "/api/v2/callback"
        && row.method == "GET"
        && request.query("view").is_some_and(|v| views.contains(&v.as_str()))
    {
        return allows("callback/members", "r");
    }
    match own {
        None if row.pattern == "/api/v2/license" && row.method == "GET" => {
            allows(&row.resource, plain) && (caller.domain.is_none() || allows("domain", "ro"))
        }
        None => allows(&row.resource, plain),
        Some(own) if row.action.contains("else") => {
            allows(&row.resource, plain) || allows(&row.resource, own)
        }
        Some(own) => {
            let is_own = if row.action.contains("caller of a domain") {
                caller.domain.is_some()
            } else {
                let asked = request.query("domain");
                let domain =
                    if row.action.contains("himself") { asked } else { caller.domain.clone().or(asked) };
                let name = row.parameter("name", path).or_else(|| row.parameter("id", path));
                domain.zip(name).is_some_and(|(domain, name)| format!("{name}@{domain}") == caller.id)
            };
            allows(&row.resource, if is_own { own } else { plain })
        }
    }
}

/// What is hard-coded in the engine instead of asked of a role.
fn own_check(row: &Row, caller: &Caller) -> bool {
    if row.notes.contains("caller.id must be \"root\"") || row.pattern == "/api/v2/settings/security" {
        return caller.id == "root";
    }
    if row.pattern.starts_with("/api/v2/customers") {
        return caller.id == "root";
    }
    let of_no_domain = row.notes.contains("caller without a domain only")
        || row.notes.contains("hard-coded: caller without domain");
    !of_no_domain || caller.domain.is_none()
}
