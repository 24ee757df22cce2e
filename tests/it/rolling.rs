//! Two gateways behind nginx, exchanged one after the other under load: no request is lost.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::wait::until;
use crate::support::{Ask, Peer, Prepared, SECRET, TestClient, TestGateway, TestUpstream, jwt};

/// nginx before both, as an operator has it: the next one is tried where one does not take the connection.
async fn balancer(one: SocketAddr, other: SocketAddr) -> Option<Peer> {
    Peer::start("nginx", |folder, own| {
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = temp.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let text = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}
    upstream postern {{
        # The scene exchanges them faster than nginx forgets that one was away.
        server {one} max_fails=0;
        server {other} max_fails=0;
        keepalive 8;
    }}
    server {{
        listen {own};
        location / {{
            proxy_pass http://postern;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $http_host;
            proxy_connect_timeout 2s;
        }}
    }}
}}
"
        );
        std::fs::write(folder.join("nginx.conf"), text).unwrap();
        ["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"].map(str::to_owned).to_vec()
    })
    .await
}

#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: AtomicUsize,
    lost: Mutex<Vec<String>>,
}

impl Load {
    /// Asks without a pause until the load is over; a connection that is closed between two requests is opened anew.
    async fn client(&self, addr: SocketAddr, token: &str) {
        while !self.over.load(Ordering::SeqCst) {
            let mut client = TestClient::connect(addr).await;
            for number in 0..20 {
                // A repeated POST is never tried elsewhere: whatever is lost shows.
                let method = if number % 2 == 0 { "GET" } else { "POST" };
                let ask = Ask::new(method, "/me/x").header("X-Access-Token", token).body("");
                let answer = client.ask(&ask).await;
                if answer.status != 200 {
                    self.lost.lock().unwrap().push(answer.brief());
                }
                self.answered.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Until this many more were answered.
    async fn more(&self, count: usize) {
        let wanted = self.answered.load(Ordering::SeqCst) + count;
        until("more answers", || (self.answered.load(Ordering::SeqCst) >= wanted).then_some(())).await;
    }
}

/// A gateway whose one domain token is known to both: it stands in the configuration.
async fn gateway(upstream: &TestUpstream, token_id: &str) -> TestGateway {
    let url = upstream.url();
    TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.set("limits.drain_delay", "'200ms'");
        let table = format!("domain_tokens.\"{token_id}\"");
        settings.table(
            &table,
            "domain = 'example.org'\nrole = 'user'\nexpires = 2100-01-01T00:00:00Z\nenabled = true",
        );
    }))
    .await
}

#[tokio::test]
async fn a_rolling_exchange_behind_nginx_loses_no_request() {
    let upstream = TestUpstream::start().await;
    let id = "2c6f0000-0000-4000-8000-000000000001";
    let token = jwt::domain_token(id, "example.org", 4_102_444_800_000, SECRET);
    let (mut one, mut other) = (gateway(&upstream, id).await, gateway(&upstream, id).await);
    let Some(nginx) = balancer(one.http(), other.http()).await else { return };
    let load = Load::default();
    let clients = futures_util::future::join_all((0..6).map(|_| load.client(nginx.addr(), &token)));
    let exchanges = async {
        load.more(200).await;
        for _ in 0..2 {
            for gateway in [&mut one, &mut other] {
                assert_eq!(gateway.terminate().await, 0);
                load.more(100).await;
                gateway.restart().await;
                load.more(200).await;
            }
        }
        load.over.store(true, Ordering::SeqCst);
    };
    tokio::join!(clients, exchanges);
    let errors = std::fs::read_to_string(nginx.folder().join("error.log")).unwrap_or_default();
    let lost = load.lost.into_inner().unwrap();
    assert!(lost.is_empty(), "{} of {:?} lost: {lost:?}\nnginx says: {errors}", lost.len(), load.answered);
}
