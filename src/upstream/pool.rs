//! Idle connections: a stack for each server on each thread, the last one put back first, so that the rest grow old
//! and go.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::conn::Conn;
use crate::clock::monotonic;

/// Common backends close after 5 s without a request: a connection is given up before that, not raced for.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Idle connections of one server that a thread keeps.
const MAX_KEPT: usize = 256;

thread_local! {
    static IDLE: RefCell<HashMap<u64, Vec<(Conn, Instant)>>> = RefCell::default();
}

/// Puts a connection back that is clean.
pub(super) fn put(server: u64, conn: Conn) {
    let now = monotonic();
    IDLE.with_borrow_mut(|idle| {
        let stack = idle.entry(server).or_default();
        if stack.first().is_some_and(|(_, since)| now.duration_since(*since) > MAX_IDLE) {
            stack.retain(|(_, since)| now.duration_since(*since) <= MAX_IDLE);
        }
        if stack.len() < MAX_KEPT {
            stack.push((conn, now));
        }
    });
}

/// A connection that is still open and has nothing to say.
pub(super) fn take(server: u64) -> Option<Conn> {
    loop {
        let (mut conn, since) = IDLE.with_borrow_mut(|idle| idle.get_mut(&server)?.pop())?;
        if monotonic().duration_since(since) <= MAX_IDLE && conn.is_quiet() {
            return Some(conn);
        }
    }
}

/// Closes what has been idle too long, and of `server` everything.
pub(super) fn trim(server: u64) {
    let now = monotonic();
    IDLE.with_borrow_mut(|idle| {
        idle.remove(&server);
        for stack in idle.values_mut() {
            stack.retain(|(_, since)| now.duration_since(*since) <= MAX_IDLE);
        }
    });
}
