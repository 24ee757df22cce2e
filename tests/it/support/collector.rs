//! A collector of traces: OTLP over gRPC, every span kept.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use super::tls::Leaf;
use super::wait::until;

/// Stops when the test ends.
pub struct Collector {
    addr: SocketAddr,
    scheme: &'static str,
    taken: Taken,
    task: JoinHandle<()>,
}

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

/// A span as it was exported.
#[derive(Clone, Debug)]
pub struct Exported {
    pub span: Span,
    /// Of the resource it came with.
    pub resource: Vec<KeyValue>,
}

#[tonic::async_trait]
impl TraceService for Taken {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub async fn start() -> Self {
        Self::bind("127.0.0.1:0".parse().unwrap(), None).await
    }

    pub async fn at(addr: SocketAddr) -> Self {
        Self::bind(addr, None).await
    }

    pub async fn tls(leaf: &Leaf) -> Self {
        Self::bind("127.0.0.1:0".parse().unwrap(), Some(leaf)).await
    }

    async fn bind(addr: SocketAddr, leaf: Option<&Leaf>) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let taken = Taken::default();
        let mut server = Server::builder();
        if let Some(leaf) = leaf {
            let identity = Identity::from_pem(&leaf.certificate, &leaf.key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let serving = server
            .add_service(TraceServiceServer::new(taken.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { serving.await.unwrap() });
        let scheme = if leaf.is_some() { "https" } else { "http" };
        Self { addr, scheme, taken, task }
    }

    /// As a value of the configuration.
    pub fn endpoint(&self) -> String {
        format!("'{}://{}'", self.scheme, self.addr)
    }

    pub fn spans(&self) -> Vec<Exported> {
        let requests = self.taken.0.lock().unwrap();
        let mut spans = Vec::new();
        for of_resource in requests.iter().flat_map(|request| &request.resource_spans) {
            let resource = of_resource.resource.as_ref().map(|r| r.attributes.clone()).unwrap_or_default();
            for span in of_resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
                spans.push(Exported { span: span.clone(), resource: resource.clone() });
            }
        }
        spans
    }

    /// The spans whose request had this path, and those below it.
    pub fn spans_of(&self, path: &str) -> Vec<Exported> {
        let spans = self.spans();
        let Some(server) = spans.iter().find(|span| span.text("url.path").as_deref() == Some(path)) else {
            return Vec::new();
        };
        let id = server.span.span_id.clone();
        spans.into_iter().filter(|span| span.span.span_id == id || span.span.parent_span_id == id).collect()
    }

    /// As [`Collector::spans_of`], once they have come.
    pub async fn request(&self, path: &str) -> Vec<Exported> {
        until("a request's spans", || Some(self.spans_of(path)).filter(|spans| !spans.is_empty())).await
    }

    /// All that came, written out.
    pub fn text(&self) -> String {
        format!("{:?}", self.taken.0.lock().unwrap())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Exported {
    pub fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    /// An attribute, written as text.
    pub fn text(&self, name: &str) -> Option<String> {
        text_of(&self.span.attributes, name)
    }

    pub fn resource(&self, name: &str) -> Option<String> {
        text_of(&self.resource, name)
    }
}

/// The span of this name.
#[track_caller]
pub fn named<'s>(spans: &'s [Exported], name: &str) -> &'s Exported {
    let names: Vec<_> = spans.iter().map(|span| &span.span.name).collect();
    spans.iter().find(|span| span.span.name == name).unwrap_or_else(|| panic!("{name} among {names:?}"))
}

fn text_of(attributes: &[KeyValue], name: &str) -> Option<String> {
    let value = attributes.iter().find(|pair| pair.key == name)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}
