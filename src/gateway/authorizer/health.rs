//! The health service beside the gRPC authorizer (`grpc.health.v1.Health`): serving until no new traffic is wanted.

use http::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

use super::paced::Paced;
use crate::drain::Drain;

/// The names that are asked about: the whole server, and the one service it is there for.
const SERVICES: [&str; 2] = ["", "envoy.service.auth.v3.Authorization"];

/// Clones are the same.
#[derive(Clone, Debug)]
pub struct Health(HealthServer<HealthService>);

impl Health {
    /// Follows the drain, in a task of its own: not serving once it is announced; watchers' streams end when it
    /// starts, or they would hold it up.
    #[must_use]
    pub fn following(drain: Drain) -> Self {
        let mut reporter = HealthReporter::new();
        let service = HealthService::from_health_reporter(reporter.clone());
        // A service's name, from anybody.
        let health = Self(HealthServer::new(service).max_decoding_message_size(4096));
        tokio::spawn(async move {
            tell(&reporter, ServingStatus::Serving).await;
            drain.announced().await;
            tell(&reporter, ServingStatus::NotServing).await;
            drain.started().await;
            for service in SERVICES {
                reporter.clear_service_status(service).await;
            }
        });
        health
    }

    pub(super) async fn answer(&self, request: Request<Paced>) -> Response<Body> {
        let mut server = self.0.clone();
        match server.call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }
}

async fn tell(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}
