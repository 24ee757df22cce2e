//! How sessions, domain tokens and changes are written in Redis: names of keys and forms of values. Only hashes of keys and
//! tokens are kept. Knows no connection.
//!
//! | key | type | what |
//! | --- | --- | --- |
//! | `postern:s:<16 bytes>` | string | a session, expires with it; the first half of its id, the rest is in the value |
//! | `postern:u:<n>`, `postern:u:<bits>:<n>` | sorted set | the same 16 bytes of sessions by their expiry, users spread over [`sets`](super::sets) |
//! | `postern:tokens` | hash | minted domain tokens by id, JSON |
//! | `postern:changes` | stream | ends and changes, ids `1-0`, `1-1`, ...: one that is missing is noticed |
//! | `postern:epoch` | string | made with the data: another one means that what was there is lost |
//! | `postern:f:<hash>`, `postern:n:<name>` | string | failures of logins; names taken for a time |

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};
use crate::session::SessionRecord;
use crate::session::adopted::Rights;
use crate::session::shared::Kept;
use crate::session::token::DomainToken;

pub(super) const CHANGES: &str = "postern:changes";
pub(super) const EPOCH: &str = "postern:epoch";
pub(super) const TOKENS: &str = "postern:tokens";

/// Every session's key begins so.
const SESSION: &[u8] = b"postern:s:";
/// The bytes of an id that a key holds: enough that no two ids share them.
const HALF: usize = 16;

/// The form of a session's value. One that was ended is a single 0.
const VERSION: u8 = 1;
const BARRED: u8 = 0;

pub(super) fn session_key(id: &KeyHash) -> Vec<u8> {
    [SESSION, half(id)].concat()
}

/// The pattern that all sessions' keys match, for SCAN.
pub(super) const SESSION_KEYS: &str = "postern:s:*";

/// The part of an id that names a session in keys and sets.
pub(super) fn half(id: &KeyHash) -> &[u8] {
    id.as_bytes().get(..HALF).unwrap_or_default()
}

pub(super) fn key_of_half(half: &[u8]) -> Vec<u8> {
    [SESSION, half].concat()
}

/// The half that a key holds.
pub(super) fn half_of_key(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(SESSION).filter(|half| half.len() == HALF)
}

pub(super) fn failures_key(name: &str) -> String {
    format!("postern:f:{name}")
}

pub(super) fn name_key(name: &str) -> String {
    format!("postern:n:{name}")
}

/// The slot of a key in a cluster: CRC-16/XMODEM of it, or of what stands in its first braces.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = key.get(open + 1..)?;
        rest.get(..rest.iter().position(|b| *b == b'}')?).filter(|tag| !tag.is_empty())
    });
    let crc = tag.unwrap_or(key).iter().fold(0u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    });
    crc % 16384
}

pub(super) fn barred() -> Vec<u8> {
    vec![BARRED]
}

/// The value of a session. Its last use is of this replica alone and is not written.
pub(super) fn session(record: &SessionRecord) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(VERSION);
    out.extend_from_slice(record.id.as_bytes().get(HALF..).unwrap_or_default());
    out.extend_from_slice(record.token.as_bytes());
    out.extend_from_slice(&record.created.0.to_be_bytes());
    out.extend_from_slice(&record.expires.0.to_be_bytes());
    match record.client {
        IpAddr::V4(v4) => part(&mut out, &v4.octets()),
        IpAddr::V6(v6) => part(&mut out, &v6.octets()),
    }
    part(&mut out, record.role.as_str().as_bytes());
    part(&mut out, record.user.as_str().as_bytes());
    if let Some(rights) = &record.adopted {
        out.extend_from_slice(rights.to_text().as_bytes());
    }
    out
}

/// A length and so many bytes. Names of 64 KiB are not made: a login's body is smaller.
fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    let bytes = bytes.get(..usize::from(u16::MAX)).unwrap_or(bytes);
    out.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Reads a session's value, found under a key with this half of its id. None: of a form that is not known, a newer
/// postern's perhaps.
pub(super) fn read(half: &[u8], value: &[u8]) -> Option<Kept> {
    if value == [BARRED] {
        return Some(Kept::Barred);
    }
    let mut rest = value.strip_prefix(&[VERSION])?;
    let mut id = [0; 32];
    let (first, second) = id.split_at_mut(HALF);
    first.copy_from_slice(half.get(..HALF).filter(|_| half.len() == HALF)?);
    second.copy_from_slice(take(&mut rest, HALF)?);
    let token = *take(&mut rest, 32)?.first_chunk()?;
    let created = UnixMillis(u64::from_be_bytes(*take(&mut rest, 8)?.first_chunk()?));
    let expires = UnixMillis(u64::from_be_bytes(*take(&mut rest, 8)?.first_chunk()?));
    let client = match take_part(&mut rest)? {
        v4 if v4.len() == 4 => IpAddr::from(*v4.first_chunk::<4>()?),
        v6 if v6.len() == 16 => IpAddr::from(*v6.first_chunk::<16>()?),
        _ => return None,
    };
    let role = RoleName::new(std::str::from_utf8(take_part(&mut rest)?).ok()?);
    let user = UserName::new(std::str::from_utf8(take_part(&mut rest)?).ok()?);
    let adopted = match rest {
        [] => None,
        text => Some(Rights::from_text(std::str::from_utf8(text).ok()?)?),
    };
    Some(Kept::Record(SessionRecord {
        id: KeyHash::from_bytes(id),
        token: TokenHash::from_bytes(token),
        user,
        role,
        created,
        expires,
        client,
        last_used: created,
        adopted,
    }))
}

fn take<'v>(rest: &mut &'v [u8], count: usize) -> Option<&'v [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

fn take_part<'v>(rest: &mut &'v [u8]) -> Option<&'v [u8]> {
    let length = u16::from_be_bytes(*take(rest, 2)?.first_chunk()?);
    take(rest, usize::from(length))
}

/// A domain token's value.
#[derive(Serialize, Deserialize)]
struct Token {
    domain: String,
    role: String,
    /// ms since 1970
    expires: u64,
    enabled: bool,
}

pub(super) fn token(record: &DomainToken) -> String {
    let DomainToken { domain, role, expires, enabled, .. } = record;
    let token = Token {
        domain: domain.clone(),
        role: role.as_str().to_owned(),
        expires: expires.0,
        enabled: *enabled,
    };
    // Strings and numbers: there is nothing that could not be written.
    serde_json::to_string(&token).unwrap_or_default()
}

pub(super) fn read_token(id: &str, value: &[u8]) -> Option<DomainToken> {
    let Token { domain, role, expires, enabled } = serde_json::from_slice(value).ok()?;
    let (id, role, expires) = (id.to_owned(), RoleName::new(&role), UnixMillis(expires));
    Some(DomainToken { id, domain, role, expires, enabled })
}

/// What a change on the stream is of. Ids stand one behind the other.
pub(super) const ENDED: &str = "ended";
pub(super) const CHANGED: &str = "changed";
/// Any domain token.
pub(super) const TOKENS_CHANGED: &str = "tokens";
/// Who wrote it, and when, in µs since 1970.
pub(super) const BY: &str = "by";
pub(super) const AT: &str = "at";

pub(super) fn ids(ids: &[KeyHash]) -> Vec<u8> {
    ids.iter().flat_map(|id| *id.as_bytes()).collect()
}

pub(super) fn read_ids(bytes: &[u8]) -> Vec<KeyHash> {
    let (ids, _) = bytes.as_chunks::<32>();
    ids.iter().map(|id| KeyHash::from_bytes(*id)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::Permission;
    use crate::session::store::contract;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn again(record: &SessionRecord) -> SessionRecord {
        match read(half(&record.id), &session(record)) {
            Some(Kept::Record(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_read_is_what_was_written() {
        let listed = [("cdr", [Permission::Read, Permission::ReadOwn].into_iter().collect())];
        for adopted in
            [None, Some(Rights::OfRole), Some(Rights::Listed(Arc::new(listed.into_iter().collect())))]
        {
            for client in ["192.0.2.1", "2001:db8::7"] {
                let client = client.parse().unwrap();
                let made = SessionRecord {
                    client,
                    adopted: adopted.clone(),
                    ..contract::record("a", "\u{44e}\0@d", 9)
                };
                let found = again(&made);
                assert!(found.token.matches(&made.token) && found.id == made.id);
                assert_eq!(
                    (found.user, found.role, found.created, found.expires, found.client, found.adopted),
                    (made.user, made.role, made.created, made.expires, made.client, made.adopted)
                );
            }
        }
        let token = DomainToken {
            id: "i".into(),
            domain: "d\u{44e}".into(),
            role: RoleName::new("r"),
            expires: UnixMillis(7),
            enabled: true,
        };
        assert_eq!(read_token("i", super::token(&token).as_bytes()), Some(token));
    }

    #[test]
    fn a_session_takes_less_than_a_hundred_bytes_of_value() {
        let record = contract::record("a", "100001@mydomain.example", 1_800_000_000_000);
        assert!(session(&record).len() <= 120, "{}", session(&record).len());
        assert_eq!(session_key(&record.id).len(), 26);
    }

    #[test]
    fn slots_are_those_of_the_cluster_specification() {
        assert_eq!(slot(b"123456789"), 0x31c3);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
        assert_eq!(slot(b"foo"), 12182);
        assert_ne!(slot(b"foo{}{bar}"), slot(b"bar"));
    }

    #[test]
    fn an_end_is_told_from_a_session_and_from_another_form() {
        let half = [0; 16];
        assert!(matches!(read(&half, &barred()), Some(Kept::Barred)));
        for value in [&[][..], &[2], &[0, 0], &[1], b"{}"] {
            assert!(read(&half, value).is_none(), "{value:?}");
        }
        assert_eq!(half_of_key(&session_key(&KeyHash::of("a"))), Some(half_slice(&KeyHash::of("a"))));
        assert_eq!(half_of_key(b"postern:s:short"), None);
    }

    fn half_slice(id: &KeyHash) -> &[u8] {
        &id.as_bytes()[..16]
    }

    proptest! {
        #[test]
        fn a_value_cut_anywhere_is_none_or_another_users(cut in 0usize..110) {
            let record = contract::record("a", "100@d", 9);
            let value = session(&record);
            if cut < value.len() {
                prop_assert!(read(half(&record.id), &value[..cut]).is_none());
            }
        }

        #[test]
        fn nothing_that_is_read_panics(value in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[7; 16], &value);
            let mut versioned = vec![VERSION];
            versioned.extend(value);
            let _ = read(&[7; 16], &versioned);
            let _ = (read_ids(&versioned), read_token("i", &versioned));
        }
    }
}
