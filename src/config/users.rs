//! `[directory]`, `[users]` in the file that it names, and `[domain_tokens]`.

use super::DirectorySettings;
use super::engine;
use super::environment::{Environment, Part};
use super::files;
use super::findings::Findings;
use super::include;
use super::roles;
use super::table::{Table, Text};
use super::tree::Origin;
use crate::access::acl::RoleSettings;
use crate::clock::Clock;
use crate::directory::file::User;
use crate::directory::password::Stored;
use crate::directory::totp;
use crate::identity::UserName;
use crate::secret::{ExposeSecret, SecretSlice};
use crate::session::token::DomainToken;

/// Its users are in the order of their names.
pub(super) fn directory(
    mut table: Table,
    roles: &[RoleSettings],
    env: &Environment,
    f: &mut Findings,
) -> DirectorySettings {
    let file_first = !table.comes_before("webitel", "file");
    let webitel = table.table("webitel", f).and_then(|webitel| engine::webitel(webitel, f));
    let key = table.key("file");
    let named = table.text_at("file", f);
    if !table.has("file") && !table.has("webitel") {
        table.fault("file", "is missing, and so is directory.webitel: nobody could log in; name one", f);
    }
    table.finish(f);
    let users = match named {
        Some(named) => user_file(&named, &key, roles, env, f).unwrap_or_default(),
        None => {
            env.refuse(Part::Users, f);
            Vec::new()
        }
    };
    DirectorySettings { users, webitel, file_first }
}

fn user_file(
    named: &Text,
    key: &str,
    roles: &[RoleSettings],
    env: &Environment,
    f: &mut Findings,
) -> Option<Vec<User>> {
    let path = named.origin.path(&named.text);
    let mut entries = include::read(&path, &named.text, (&named.origin, key), f)?;
    files::warn_of_readers(named, key, f);
    env.apply(Part::Users, &mut entries, f);
    let mut root = Table::new(entries, Origin::start_of(&path), "");
    let table = root.table("users", f);
    root.finish(f);
    let users = users(table.map(|table| table.named(f)).unwrap_or_default(), roles, f);
    if users.is_empty() {
        f.warn(&named.origin, key, format!("{} holds no user: nobody can log in", named.text));
    }
    Some(users)
}

fn users(named: Vec<(String, Table)>, roles: &[RoleSettings], f: &mut Findings) -> Vec<User> {
    named.into_iter().filter_map(|(name, table)| user(&name, table, roles, f)).collect()
}

fn user(name: &str, mut table: Table, roles: &[RoleSettings], f: &mut Findings) -> Option<User> {
    let password = password(&mut table, f);
    let role = roles::reference(&mut table, roles, f);
    let totp = totp_secret(&mut table, f);
    let name = UserName::new(name);
    let parts = [Some(name.local()), name.domain()];
    if !name.as_str().is_empty() && parts.contains(&Some("")) {
        table.fault("", "is no user's name; write it as name@domain, or as a name alone", f);
    }
    table.finish(f);
    Some(User { name, password: password?, role: role?, totp })
}

/// Exactly one of `password` and `a1`.
fn password(table: &mut Table, f: &mut Findings) -> Option<Stored> {
    let password = table.parsed("password", f, Stored::parse);
    let a1 = table.parsed("a1", f, Stored::parse_a1);
    match (table.has("password"), table.has("a1")) {
        (true, true) => table.fault("a1", "stands beside password; keep one of them", f),
        (false, false) => {
            table.fault("password", "is missing; make one with `postern hash-password`, or give a1", f);
        }
        (true, false) | (false, true) => {}
    }
    password.or(a1)
}

fn totp_secret(table: &mut Table, f: &mut Findings) -> Option<SecretSlice<u8>> {
    let text = files::secret_text(table, "totp_secret_file", f)?;
    totp::secret(text.expose_secret()).map_err(|what| table.fault("totp_secret_file", what, f)).ok()
}

pub(super) fn domain_tokens(
    table: Option<Table>,
    roles: &[RoleSettings],
    f: &mut Findings,
) -> Vec<DomainToken> {
    let named = table.map(|table| table.named(f)).unwrap_or_default();
    named.into_iter().filter_map(|(id, table)| domain_token(id, table, roles, f)).collect()
}

fn domain_token(
    id: String,
    mut table: Table,
    roles: &[RoleSettings],
    f: &mut Findings,
) -> Option<DomainToken> {
    let domain = table.text("domain", f);
    let domain = table.required("domain", domain, f);
    let role = roles::reference(&mut table, roles, f);
    let expires = table.time("expires", f);
    let expires = table.required("expires", expires, f);
    let enabled = table.bool("enabled", true, f);
    if expires.is_some_and(|expires| expires <= Clock::system().now()) {
        f.warn(&table.place_of("expires"), &table.key("expires"), "has passed: the token opens nothing");
    }
    table.finish(f);
    Some(DomainToken { id, domain: domain?, role: role?, expires: expires?, enabled })
}
