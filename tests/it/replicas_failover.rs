//! Redis whose master goes: behind Sentinels, and as a cluster. What was answered is kept.

use crate::replicas::{refused_for_good, status};
use crate::support::settings::Settings;
use crate::support::wait::until_async;
use crate::support::{Ask, PASSWORD, Redis, Session, TestGateway, TestUpstream};

/// A master, two replicas, and three Sentinels that watch them.
struct Watched {
    master: Redis,
    _replicas: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Watched {
    async fn start() -> Option<Self> {
        let nothing = ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"];
        let master = Redis::with(&nothing).await?;
        let port = master.port().to_string();
        let mut replicas = Vec::new();
        for _ in 0..2 {
            let args = [&nothing[..], &["--replicaof", "127.0.0.1", &port]].concat();
            replicas.push(Redis::with(&args).await?);
        }
        until_async("the replicas", || async {
            let told = master.cli(&["INFO", "replication"]);
            told.matches("state=online").count() == 2
        })
        .await;
        let config = format!(
            "sentinel monitor calls 127.0.0.1 {port} 2\nsentinel down-after-milliseconds calls 1000\n\
             sentinel failover-timeout calls 4000\n"
        );
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(Redis::sentinel(&config).await?);
        }
        for sentinel in &sentinels {
            until_async("the Sentinels to know each other", || async {
                let told = sentinel.cli(&["SENTINEL", "MASTER", "calls"]);
                let words: Vec<_> = told.lines().collect();
                let after = |name| words.iter().position(|word| *word == name).map(|at| words[at + 1]);
                after("num-other-sentinels") == Some("2") && after("num-slaves") == Some("2")
            })
            .await;
        }
        Some(Self { master, _replicas: replicas, sentinels })
    }

    fn in_use(&self, settings: &mut Settings) {
        let nodes: Vec<_> = self.sentinels.iter().map(|one| format!("'127.0.0.1:{}'", one.port())).collect();
        settings.unset("sessions.file");
        let nodes = nodes.join(", ");
        settings.set("sessions.redis.sentinel", &format!("{{ master = 'calls', nodes = [{nodes}] }}"));
    }
}

/// Logs in and out until the very end of `away`, then sees that what was answered is so.
async fn nothing_answered_is_lost(a: &TestGateway, b: &TestGateway, away: impl FnOnce()) {
    let (mut kept, mut ended) = (Vec::new(), Vec::new());
    for n in 0..30 {
        let session = a.login("100").await;
        if n % 2 == 0 {
            kept.push(session);
        } else if b.ask(Ask::post("/logout").with(&session)).await.status == 200 {
            ended.push(session);
        }
    }
    away();
    // Known sessions go on, whatever happens behind.
    let first: &Session = &kept[0];
    until_async("logins to be taken again", || async {
        assert_eq!(status(a, first).await, 200);
        a.ask(Ask::login("100@example.org", PASSWORD)).await.status == 200
    })
    .await;
    for gateway in [a, b] {
        until_async("the gateway to be back", || async {
            gateway.ask(Ask::login("200@example.org", PASSWORD)).await.status == 200
        })
        .await;
        for session in &kept {
            until_async("a session that was answered", || async { status(gateway, session).await == 200 })
                .await;
        }
        for session in &ended {
            until_async("a refusal that was answered", || async { status(gateway, session).await == 401 })
                .await;
        }
    }
    let again = a.login("100").await;
    assert_eq!(status(b, &again).await, 200);
    b.ask(Ask::post("/logout").with(&again)).await.assert_ok();
    refused_for_good(a, &again).await;
}

async fn two(change: impl Fn(&mut Settings)) -> (TestUpstream, TestGateway, TestGateway) {
    let upstream = TestUpstream::start().await;
    let a = TestGateway::configured(&upstream, &change).await;
    let b = TestGateway::configured(&upstream, &change).await;
    (upstream, a, b)
}

#[tokio::test]
async fn sentinels_name_another_master() {
    let Some(mut watched) = Watched::start().await else { return };
    let (_upstream, a, b) = two(|settings| watched.in_use(settings)).await;
    let master = &mut watched.master;
    nothing_answered_is_lost(&a, &b, || master.kill()).await;
}

#[tokio::test]
async fn a_node_of_a_cluster_is_taken_over() {
    let Some(mut nodes) = cluster().await else { return };
    let named: Vec<_> = nodes.iter().take(2).map(|node| format!("'127.0.0.1:{}'", node.port())).collect();
    let named = named.join(", ");
    let (_upstream, a, b) = two(|settings| {
        settings.unset("sessions.file");
        settings.set("sessions.redis.cluster", &format!("[{named}]"));
    })
    .await;
    let all = a.login("100").await;
    assert_eq!(b.admin_ask(Ask::get("/sessions")).await.json()["sessions"].as_array().unwrap().len(), 1);
    assert_eq!(status(&b, &all).await, 200);
    let first = &mut nodes[0];
    nothing_answered_is_lost(&a, &b, || first.kill()).await;
}

/// Three masters, then a replica of each.
async fn cluster() -> Option<Vec<Redis>> {
    let mut nodes = Vec::new();
    for _ in 0..6 {
        nodes.push(Redis::node().await?);
    }
    for (node, slots) in nodes.iter().zip([["0", "5460"], ["5461", "10922"], ["10923", "16383"]]) {
        node.cli(&["CLUSTER", "ADDSLOTSRANGE", slots[0], slots[1]]);
    }
    for node in &nodes[1..] {
        nodes[0].cli(&["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &node.bus().to_string()]);
    }
    for node in &nodes {
        until_async("the nodes to meet", || async {
            node.cli(&["CLUSTER", "INFO"]).contains("cluster_known_nodes:6")
        })
        .await;
    }
    for (master, replica) in nodes[..3].iter().zip(&nodes[3..]) {
        replica.cli(&["CLUSTER", "REPLICATE", &master.cli(&["CLUSTER", "MYID"])]);
    }
    for node in &nodes {
        until_async("the cluster", || async { node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") })
            .await;
    }
    for replica in &nodes[3..] {
        until_async("a replica to follow", || async {
            replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
        })
        .await;
    }
    Some(nodes)
}
