//! The harness. A scene reads: an upstream, a gateway in front of it, a client, and what must be seen where.
//!
//! - [`TestGateway`] is the real binary with files and ports of its own;
//! - [`TestUpstream`] keeps every byte it is sent and answers by path;
//! - [`Collector`] keeps every span that is exported;
//! - [`Engine`] stands in for a Webitel engine, holes included;
//! - [`TestClient`] has every byte of an HTTP/1.1 connection in the test's hands, [`h2::H2Client`] speaks HTTP/2,
//!   [`attacker::Attacker`] sends frames of it that no client should;
//! - [`Peer`] is another server of the trade, the real program, [`Redis`] is Redis;
//! - nothing sleeps for a fixed time to wait: what is awaited is polled for, with a bound (`wait`).

pub mod answer;
pub mod ask;
pub mod attacker;
pub mod client;
pub mod collector;
pub mod engine;
pub mod gateway;
pub mod h2;
pub mod h2_raw;
pub mod jwt;
pub mod peer;
pub mod ports;
pub mod process;
pub mod redis;
mod replies;
pub mod session;
pub mod settings;
pub mod tls;
pub mod upstream;
pub mod wait;
pub mod wire;

pub use answer::Answer;
pub use ask::Ask;
pub use client::TestClient;
pub use collector::Collector;
pub use engine::Engine;
pub use gateway::{Prepared, TestGateway};
pub use peer::Peer;
pub use redis::{Redis, Wire};
pub use session::Session;
pub use settings::{DOMAIN, PASSWORD, SECRET};
pub use upstream::TestUpstream;

/// The usual gateway in front of a test upstream.
pub async fn usual() -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::start(&upstream).await;
    (upstream, gateway)
}

/// A gateway in front of a test upstream, its configuration changed by the scene.
pub async fn configured(change: impl FnOnce(&mut settings::Settings)) -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::configured(&upstream, change).await;
    (upstream, gateway)
}
