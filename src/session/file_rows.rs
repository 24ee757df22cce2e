//! The tables of the sessions file and their rows. Knows no file.

use rusqlite::{Connection, Row, params};
use std::net::IpAddr;
use std::sync::Arc;

use super::SessionRecord;
use super::adopted::Rights;
use super::store::Barred;
use super::token::DomainToken;
use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

pub(super) const SESSIONS: &str = "
    CREATE TABLE sessions (
        id        BLOB NOT NULL PRIMARY KEY,  -- SHA-256 of the key
        token     BLOB NOT NULL,              -- SHA-256 of the token
        user      TEXT NOT NULL,
        role      TEXT NOT NULL,
        created   INTEGER NOT NULL,           -- all times in ms since 1970
        expires   INTEGER NOT NULL,
        last_used INTEGER NOT NULL,
        client    BLOB NOT NULL               -- 4 or 16 bytes
    ) STRICT, WITHOUT ROWID;";

/// New in version 2.
pub(super) const DOMAIN_TOKENS: &str = "
    CREATE TABLE domain_tokens (
        id        TEXT NOT NULL PRIMARY KEY,
        domain    TEXT NOT NULL,
        role      TEXT NOT NULL,
        expires   INTEGER NOT NULL,
        enabled   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

/// New in version 3.
pub(super) const ADOPTED: &str = "
    ALTER TABLE sessions ADD COLUMN adopted TEXT;  -- JSON: the rights of one that an engine made
    CREATE TABLE barred (                          -- ended here, not to be adopted again
        id        BLOB NOT NULL PRIMARY KEY,
        expires   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

pub(super) fn record_of(row: &Row<'_>) -> rusqlite::Result<SessionRecord> {
    let text = |column| row.get_ref(column)?.as_str().map_err(rusqlite::Error::from);
    let time = |column| row.get::<_, i64>(column).map(|ms| UnixMillis(ms.cast_unsigned()));
    Ok(SessionRecord {
        id: KeyHash::from_bytes(row.get(0)?),
        token: TokenHash::from_bytes(row.get(1)?),
        user: UserName::new(text(2)?),
        role: RoleName::new(text(3)?),
        created: time(4)?,
        expires: time(5)?,
        last_used: time(6)?,
        client: client_of(row)?,
        adopted: rights_of(row)?,
    })
}

/// Rights that cannot be read are none: what they said is asked of the engine again.
fn rights_of(row: &Row<'_>) -> rusqlite::Result<Option<Rights>> {
    let text = row.get_ref(8)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    Ok(text.map(|text| Rights::from_text(text).unwrap_or_else(|| Rights::Listed(Arc::default()))))
}

pub(super) fn barred_of(row: &Row<'_>) -> rusqlite::Result<Barred> {
    let expires = UnixMillis(row.get::<_, i64>(1)?.cast_unsigned());
    Ok(Barred { id: KeyHash::from_bytes(row.get(0)?), expires })
}

fn client_of(row: &Row<'_>) -> rusqlite::Result<IpAddr> {
    match row.get::<_, [u8; 4]>(7) {
        Ok(v4) => Ok(v4.into()),
        Err(_) => row.get::<_, [u8; 16]>(7).map(IpAddr::from),
    }
}

pub(super) fn put(connection: &Connection, record: &SessionRecord) -> rusqlite::Result<()> {
    let mut statement = connection
        .prepare_cached("INSERT OR REPLACE INTO sessions VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)")?;
    let client: &[u8] = match &record.client {
        IpAddr::V4(v4) => &v4.octets(),
        IpAddr::V6(v6) => &v6.octets(),
    };
    statement.execute(params![
        record.id.as_bytes(),
        record.token.as_bytes(),
        record.user.as_str(),
        record.role.as_str(),
        as_stored(record.created),
        as_stored(record.expires),
        as_stored(record.last_used),
        client,
        record.adopted.as_ref().map(Rights::to_text),
    ])?;
    Ok(())
}

pub(super) fn token_of(row: &Row<'_>) -> rusqlite::Result<DomainToken> {
    Ok(DomainToken {
        id: row.get(0)?,
        domain: row.get(1)?,
        role: RoleName::new(row.get_ref(2)?.as_str()?),
        expires: UnixMillis(row.get::<_, i64>(3)?.cast_unsigned()),
        enabled: row.get(4)?,
    })
}

pub(super) fn put_token(connection: &Connection, token: &DomainToken) -> rusqlite::Result<()> {
    let mut statement =
        connection.prepare_cached("INSERT OR REPLACE INTO domain_tokens VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let DomainToken { id, domain, role, expires, enabled } = token;
    statement.execute(params![id, domain, role.as_str(), as_stored(*expires), enabled]).map(drop)
}

pub(super) fn remove_token(connection: &Connection, id: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM domain_tokens WHERE id = ?1")?.execute([id]).map(drop)
}

pub(super) fn remove(connection: &Connection, ids: &[KeyHash]) -> rusqlite::Result<()> {
    for table in ["sessions", "barred"] {
        let mut statement = connection.prepare_cached(&format!("DELETE FROM {table} WHERE id = ?1"))?;
        ids.iter().try_for_each(|id| statement.execute([id.as_bytes()]).map(drop))?;
    }
    Ok(())
}

pub(super) fn bar(connection: &Connection, ended: &[Barred]) -> rusqlite::Result<()> {
    let mut remove = connection.prepare_cached("DELETE FROM sessions WHERE id = ?1")?;
    let mut insert = connection.prepare_cached("INSERT OR REPLACE INTO barred VALUES (?1, ?2)")?;
    ended.iter().try_for_each(|one| {
        remove.execute([one.id.as_bytes()])?;
        insert.execute(params![one.id.as_bytes(), as_stored(one.expires)]).map(drop)
    })
}

pub(super) fn remove_expired(connection: &Connection, now: UnixMillis) -> rusqlite::Result<()> {
    for table in ["sessions", "barred"] {
        let mut statement = connection.prepare_cached(&format!("DELETE FROM {table} WHERE expires <= ?1"))?;
        statement.execute([as_stored(now)])?;
    }
    Ok(())
}

/// SQLite's integers are signed; a time past the year 292,000,000 stays at the largest.
fn as_stored(time: UnixMillis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}
