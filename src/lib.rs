//! postern: an authentication gateway in front of HTTP backends.
//!
//! # The life of a request
//!
//! Bytes become a request in [`server`]: a listener accepts, TLS is ended, hyper reads HTTP/1.1 or
//! HTTP/2 and hands each request with its [`peer::Peer`] to [`gateway::Gateway::handle`]. There it is one
//! story, told top to bottom in [`gateway`]: `/login` and `/logout` are answered by the gateway itself;
//! every other request becomes an [`access::AccessRequest`] (a canonical path, the credentials it
//! presents), is judged by [`access::Access::decide`] against the [`session`] map and the role's ACL, and
//! only the [`access::Permit`] that comes out of it can be given to [`upstream::Upstreams::forward`].
//! What happened is collected in a [`telemetry::exchange::Exchange`] and written once the answer has ended.
//!
//! # The modules, in the order a request meets them, and their rank
//!
//! A module uses modules of a lower rank only; the small types of rank 0 may use each other
//! (`tests/it/layering.rs` checks it).
//!
//! | rank | module | what it is for |
//! | --- | --- | --- |
//! | 0 | `body clock deadline drain host identity object peer permission secret trust` | small types that everyone uses |
//! | 1 | [`telemetry`] | what is written about a request: access log, audit log, operational log, traces |
//! | 1 | [`engine`] | what an existing Webitel engine is asked over its own API |
//! | 2 | [`server`] | bytes become requests; knows no policy |
//! | 2 | [`session`] | the session map, its durable store, tokens |
//! | 2 | [`directory`] | who may log in |
//! | 3 | [`access`] | may this caller do this? |
//! | 4 | [`upstream`] | a permitted request goes out and its answer comes back |
//! | 5 | [`gateway`] | one request from top to bottom |
//! | 6 | [`admin`] | the operator's own listener: what runs, and what is to change |
//! | 7 | [`config`] | the only place that reads files |
//! | 8 | [`app`], [`cli`] | settings become a running program; one file a subcommand |

pub mod body;
pub mod clock;
pub mod deadline;
pub mod drain;
pub mod host;
pub mod identity;
pub mod object;
pub mod peer;
pub mod permission;
pub mod secret;
pub mod trust;

pub mod engine;
pub mod telemetry;

pub mod directory;
pub mod server;
pub mod session;

pub mod access;

pub mod upstream;

pub mod gateway;

pub mod admin;

pub mod config;

pub mod app;
pub mod cli;
