//! The operator's own listener (contract section 6).

use crate::secret::SecretString;
use std::net::SocketAddr;

/// `listen.admin` and `[admin]`.
pub struct AdminSettings {
    pub addr: SocketAddr,
    pub hosts: Vec<String>,
    /// The Bearer token.
    pub token: Option<SecretString>,
}
