//! The servers that ask postern, each the real program with the file of `deploy/` that tells it to.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::support::wait::until_async;
use crate::support::{Ask, Peer, TestClient, TestGateway};

/// A server that asks, or postern itself.
pub struct Door {
    pub name: &'static str,
    pub addr: SocketAddr,
    _peer: Option<Peer>,
}

/// Where a door finds what it stands before.
struct Places {
    http: SocketAddr,
    authz: SocketAddr,
    ext_authz: SocketAddr,
    /// Host and port.
    backend: String,
}

impl Places {
    fn of(gateway: &TestGateway, backend: &str) -> Self {
        Self {
            http: gateway.http(),
            authz: gateway.authz(),
            ext_authz: gateway.ext_authz(),
            backend: backend.to_owned(),
        }
    }

    /// A file of `deploy/ingress` with this scene's addresses in place of its own.
    fn filled(&self, file: &str, own: SocketAddr) -> String {
        let mut text = std::fs::read_to_string(repository().join("deploy/ingress").join(file)).unwrap();
        let places = [
            (8000, own.to_string()),
            (8080, self.http.to_string()),
            (8081, self.authz.to_string()),
            (8082, self.ext_authz.to_string()),
            (10022, self.backend.clone()),
        ];
        for (port, place) in places {
            let port_there = place.rsplit(':').next().unwrap();
            text = text.replace(&format!("127.0.0.1:{port}"), &place);
            text = text.replace(&format!("http://:{port}"), &format!("http://:{port_there}"));
            text = text.replace(&format!("port_value: {port}}}"), &format!("port_value: {port_there}}}"));
        }
        text
    }

    async fn nginx(&self) -> Option<Peer> {
        nginx(|own| self.filled("nginx.conf", own)).await
    }

    /// nginx as the controller configures it for the overlay's Ingress.
    async fn ingress_nginx(&self) -> Option<Peer> {
        let annotations = annotations();
        nginx(|own| self.as_the_controller_writes(&annotations, own)).await
    }

    async fn caddy(&self) -> Option<Peer> {
        Peer::start("caddy", |folder, own| {
            std::fs::write(folder.join("Caddyfile"), self.filled("Caddyfile", own)).unwrap();
            ["run", "--config", "Caddyfile", "--adapter", "caddyfile"].map(str::to_owned).to_vec()
        })
        .await
    }

    async fn traefik(&self) -> Option<Peer> {
        let traefik = Peer::start("traefik", |folder, own| {
            for file in ["traefik.yaml", "traefik-routes.yaml"] {
                std::fs::write(folder.join(file), self.filled(file, own)).unwrap();
            }
            vec!["--configFile=traefik.yaml".to_owned()]
        })
        .await?;
        // It listens before it has read its routes.
        until_async("Traefik's routes", || async {
            TestClient::connect(traefik.addr()).await.ask(&Ask::get("/public")).await.status != 404
        })
        .await;
        Some(traefik)
    }

    async fn envoy(&self, file: &str) -> Option<Peer> {
        Peer::start("envoy", |folder, own| {
            std::fs::write(folder.join("envoy.yaml"), self.filled(file, own)).unwrap();
            let args = ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
            args.map(str::to_owned).to_vec()
        })
        .await
    }

    /// What ingress-nginx's template makes of `auth-url`, `auth-method` and `auth-response-headers`: a location that is
    /// asked, and a header field for each that is listed. Unlike `nginx.conf` it takes no convention of the client's
    /// own out of the question, and tells the path twice.
    fn as_the_controller_writes(&self, annotations: &Annotations, own: SocketAddr) -> String {
        let fields = annotations.response_headers.iter().enumerate().map(|(at, name)| {
            let variable = name.to_lowercase().replace('-', "_");
            format!("auth_request_set $authHeader{at} $upstream_http_{variable};\nproxy_set_header '{name}' $authHeader{at};\n")
        });
        let fields: String = fields.collect();
        let Self { http, authz, backend, .. } = self;
        let method = &annotations.method;
        format!(
            "server {{
    listen {own};
    location ~* \"{own_paths}\" {{ proxy_pass http://{http}; proxy_set_header Host $http_host; }}
    location = /_external-auth {{
        internal;
        proxy_intercept_errors off;
        proxy_pass_request_body off;
        proxy_set_header Content-Length \"\";
        proxy_set_header X-Forwarded-Proto \"\";
        proxy_set_header X-Request-ID $request_id;
        proxy_method {method};
        proxy_set_header X-Original-URI $request_uri;
        proxy_set_header X-Scheme $scheme;
        proxy_set_header Host postern.postern.svc.cluster.local;
        proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
        proxy_set_header X-Original-Method $request_method;
        proxy_set_header X-Sent-From \"nginx-ingress-controller\";
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Auth-Request-Redirect $request_uri;
        proxy_http_version 1.1;
        proxy_pass_request_headers on;
        set $target http://{authz}/auth;
        proxy_pass $target;
    }}
    location / {{
        auth_request /_external-auth;
        {fields}
        proxy_set_header Host $http_host;
        proxy_set_header X-Request-ID $request_id;
        proxy_set_header X-Real-IP $remote_addr;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Host $http_host;
        proxy_set_header X-Forwarded-Port $server_port;
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header X-Scheme $scheme;
        proxy_set_header Proxy \"\";
        proxy_http_version 1.1;
        proxy_pass http://{backend};
    }}
}}
",
            own_paths = annotations.own_paths,
        )
    }
}

/// nginx with a server block.
async fn nginx(server: impl FnOnce(SocketAddr) -> String) -> Option<Peer> {
    Peer::start("nginx", |folder, own| {
        let server = server(own);
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = temp.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let whole = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}{server}}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), whole).unwrap();
        ["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"].map(str::to_owned).to_vec()
    })
    .await
}

/// What the overlay's Ingresses say.
struct Annotations {
    method: String,
    response_headers: Vec<String>,
    own_paths: String,
}

fn annotations() -> Annotations {
    let file = repository().join("deploy/kubernetes/overlays/ingress-nginx/ingress.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let after = |name: &str| text.split_once(name).unwrap_or_else(|| panic!("{name} is not there")).1;
    let line = |name: &str| after(name).lines().next().unwrap().trim().to_owned();
    let listed = after("auth-response-headers: \"").split_once('"').unwrap().0.replace(['\\', '\n', ' '], "");
    Annotations {
        method: line("/auth-method:"),
        response_headers: listed.split(',').map(str::to_owned).collect(),
        // With use-regex it stands behind `~*`, from the beginning of the path on.
        own_paths: format!("^/+{}", line("- path: /+")),
    }
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn door(name: &'static str, peer: Option<Peer>) -> Option<Door> {
    let addr = peer.as_ref()?.addr();
    Some(Door { name, addr, _peer: peer })
}

fn itself(gateway: &TestGateway) -> Door {
    Door { name: "postern", addr: gateway.http(), _peer: None }
}

/// postern first, then those that ask it by the files of `deploy/ingress`. Those whose program is not installed are left
/// out.
pub async fn all(gateway: &TestGateway, backend: &str) -> Vec<Door> {
    let places = Places::of(gateway, backend);
    let (nginx, caddy, traefik, http, grpc) = tokio::join!(
        places.nginx(),
        places.caddy(),
        places.traefik(),
        places.envoy("envoy-http.yaml"),
        places.envoy("envoy-grpc.yaml")
    );
    let asking = [
        door("nginx", nginx),
        door("Caddy", caddy),
        door("Traefik", traefik),
        door("Envoy over HTTP", http),
        door("Envoy over gRPC", grpc),
    ];
    [Some(itself(gateway))].into_iter().chain(asking).flatten().collect()
}

/// postern, and nginx as ingress-nginx configures it. The gateway is to read nginx's convention alone, as the overlay's
/// does.
pub async fn of_the_controller(gateway: &TestGateway, backend: &str) -> Vec<Door> {
    let nginx = Places::of(gateway, backend).ingress_nginx().await;
    [Some(itself(gateway)), door("ingress-nginx", nginx)].into_iter().flatten().collect()
}
