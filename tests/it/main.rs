//! Scenes: the real binary, driven over real sockets, judged by what the contract says of its outside.
//!
//! One file a subject; the names of the tests are the behaviour. `support` is the harness.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed: the panic is the report"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests stand outside the program: their time is the machine's, the gateway's clock is out of reach"
)]
#![allow(unreachable_pub, reason = "one crate with no outside: `pub` says what the harness offers to scenes")]

mod support;

mod access_log;
mod admin;
mod adoption;
mod advisories;
mod authorizer;
mod balancing;
mod body_credentials;
mod browser;
mod config;
mod cors;
mod credentials;
mod deployment;
mod domain_tokens;
mod drain;
mod durability;
mod engine_login;
mod explain;
mod ext_authz;
mod faults;
mod first_frame;
mod floods;
mod forwarding;
mod front_doors;
mod holes;
mod http2;
mod jwt;
mod layering;
mod limits;
mod login;
mod logout;
mod memory;
mod metrics;
mod nginx;
mod outliers;
mod parity;
mod path;
mod permission;
mod process;
mod proxy_protocol;
mod reload;
mod replay;
mod replicas;
mod replicas_apart;
mod replicas_failover;
mod replicas_model;
mod replicas_reach;
mod rolling;
mod routes;
mod second_factor;
mod secrets;
mod servers_change;
mod signals;
mod smuggling;
mod socket_activation;
mod store_faults;
mod storm;
mod streaming;
mod throttle;
mod tls;
mod traces;
mod truncated;
mod upgrades;
