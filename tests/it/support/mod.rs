//! A gateway, an upstream and a client for scenes: small, and with every byte in the test's hands.

pub(crate) mod gateway;
pub(crate) mod http;
pub(crate) mod upstream;

pub(crate) use gateway::TestGateway;
pub(crate) use upstream::TestUpstream;
