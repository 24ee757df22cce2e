//! A real nginx as the upstream, from Debian's package. Left out, with a line that says so, where nginx is not
//! installed; `POSTERN_REQUIRE_PEERS=1` makes that a failure.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::{Ask, Peer, Prepared, Session, TestGateway, h2};

struct Nginx(Peer);

impl Nginx {
    /// None when there is no nginx.
    async fn start() -> Option<Self> {
        let peer = Peer::start("nginx", |folder, addr| {
            std::fs::write(folder.join("nginx.conf"), configuration(folder, addr)).unwrap();
            std::fs::create_dir(folder.join("up")).unwrap();
            std::fs::write(folder.join("up/file"), vec![b'n'; 3 << 20]).unwrap();
            ["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"]
                .map(str::to_owned)
                .to_vec()
        });
        Some(Self(peer.await?))
    }

    async fn behind_a_gateway(&self) -> (TestGateway, Session) {
        let url = format!("http://{}", self.0.addr());
        let gateway = TestGateway::run(Prepared::new(|settings| {
            settings.set("upstreams.engine.servers", &format!("['{url}']"));
        }))
        .await;
        let session = gateway.login("admin").await;
        (gateway, session)
    }

    fn errors(&self) -> String {
        std::fs::read_to_string(self.0.folder().join("error.log")).unwrap_or_default()
    }
}

/// One process, without rights to drop: it serves files, takes uploads and tells what it saw.
fn configuration(folder: &Path, addr: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        r#"daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    client_max_body_size 64m;
    keepalive_requests 100000;
    server {{
        listen {addr};
        root {folder};
        location /up/seen {{
            return 200 "$request_method|$request_uri|$http_x_webitel_user|$http_x_postern_scope|$http_x_forwarded_for";
        }}
        # Reads the whole body before it passes the request on to the server below.
        location /up/upload {{
            proxy_pass http://unix:{folder}/inner.sock;
            proxy_http_version 1.1;
        }}
    }}
    server {{
        listen unix:{folder}/inner.sock;
        location / {{ return 200 "length $http_content_length"; }}
    }}
}}
"#
    )
}

#[tokio::test]
async fn it_sees_who_calls_and_the_judged_path() {
    let Some(nginx) = Nginx::start().await else { return };
    let (gateway, session) = nginx.behind_a_gateway().await;
    let answer = gateway.ask(Ask::get("/up/x/..//seen/%61?q=%2f").with(&session)).await;
    assert_eq!(answer.assert_ok().text(), "GET|/up/seen/a?q=%2f|admin@example.org|all|127.0.0.1");
}

#[tokio::test]
async fn thousands_of_requests_pass_without_a_fault() {
    let Some(nginx) = Nginx::start().await else { return };
    let (gateway, session) = nginx.behind_a_gateway().await;
    let clients = (0..8).map(|number| {
        let (gateway, session) = (&gateway, &session);
        async move {
            let mut client = gateway.client().await;
            for request in 0..250 {
                let path = format!("/up/seen/{number}/{request}");
                let answer = client.ask(&Ask::get(&path).with(session)).await;
                assert!(answer.assert_ok().text().contains(&path));
            }
        }
    });
    futures_util::future::join_all(clients).await;
    assert_eq!(nginx.errors(), "");
}

#[tokio::test]
async fn files_and_parts_of_them_come_whole_over_both_versions() {
    let Some(nginx) = Nginx::start().await else { return };
    let (gateway, session) = nginx.behind_a_gateway().await;
    let whole = gateway.tls_client().await.ask(&Ask::get("/up/file").with(&session)).await;
    assert_eq!(whole.assert_ok().body, vec![b'n'; 3 << 20]);
    let part = gateway.ask(Ask::get("/up/file").with(&session).header("Range", "bytes=100-199")).await;
    assert_eq!((part.status, part.body.len()), (206, 100));
    let etag = whole.header("etag").unwrap();
    let unchanged = gateway.ask(Ask::get("/up/file").with(&session).header("If-None-Match", etag)).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    let head = gateway.ask(Ask::new("HEAD", "/up/file").with(&session)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("3145728")));
    let h2 = h2::H2Client::connect(&gateway).await.get("/up/file", &session).await;
    assert_eq!((h2.status, h2.body.len()), (200, 3 << 20));
}

#[tokio::test]
async fn uploads_come_whole_however_they_are_framed() {
    let Some(nginx) = Nginx::start().await else { return };
    let (gateway, session) = nginx.behind_a_gateway().await;
    let body = vec![b'u'; 2 << 20];
    for ask in [
        Ask::post("/up/upload").body(&body),
        Ask::post("/up/upload").chunked(&body),
        Ask::new("PUT", "/up/upload").body(&body),
    ] {
        let answer = gateway.ask(ask.with(&session)).await;
        assert_eq!(answer.assert_ok().text(), "length 2097152");
    }
}

#[tokio::test]
async fn its_own_refusals_come_back_as_they_are() {
    let Some(nginx) = Nginx::start().await else { return };
    let (gateway, session) = nginx.behind_a_gateway().await;
    let absent = gateway.ask(Ask::get("/up/absent").with(&session)).await;
    assert_eq!(absent.status, 404);
    assert!(absent.text().contains("nginx"), "{}", absent.brief());
    let refused = gateway.ask(Ask::post("/up/file").with(&session).body("x")).await;
    assert_eq!(refused.status, 405);
    gateway.ask(Ask::get("/up/seen").with(&session)).await.assert_ok();
}
