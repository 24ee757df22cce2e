//! The audit log: who logged in and out, and who did what to the gateway (contract section 7). Written at once and
//! never dropped, whatever `log.level` says.

use std::net::IpAddr;

use crate::identity::UserName;

/// The target of audit lines.
pub const TARGET: &str = "audit";

/// A login was answered; `result` is the reason of a refusal or `ok`.
pub fn login(user: Option<&UserName>, client: IpAddr, result: &'static str) {
    let user = user.map(UserName::as_str).unwrap_or_default();
    tracing::info!(target: TARGET, event = "login", user, %client, result);
}

/// A logout was answered.
pub fn logout(user: Option<&UserName>, client: IpAddr, result: &'static str) {
    let user = user.map(UserName::as_str).unwrap_or_default();
    tracing::info!(target: TARGET, event = "logout", user, %client, result);
}

/// A WebSocket's first message was judged; `result` is the reason of a refusal or `ok`.
pub fn websocket(user: Option<&UserName>, client: IpAddr, result: &'static str) {
    let user = user.map(UserName::as_str).unwrap_or_default();
    tracing::info!(target: TARGET, event = "websocket", user, %client, result);
}

/// A reload was tried; `generation` runs now.
pub fn reload(by: &'static str, result: &'static str, generation: u64) {
    tracing::info!(target: TARGET, event = "reload", by, result, generation);
}

/// An admin call that changes something was answered.
pub fn admin(client: IpAddr, call: &'static str, what: &str, status: u16) {
    tracing::info!(target: TARGET, event = "admin", %client, call, what, status);
}

/// Sessions were ended before they expired.
pub fn revocation(by: &'static str, what: &str, ended: usize) {
    tracing::info!(target: TARGET, event = "revocation", by, what, ended);
}
