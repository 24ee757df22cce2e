//! Black-box scenes: the real binary over real sockets, checked against the contract.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test ends where it fails"
)]

mod credentials;
mod durability;
mod forwarding;
mod layering;
mod login;
mod permission;
mod support;
