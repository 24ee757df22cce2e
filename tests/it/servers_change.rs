//! Servers that come and go with the configuration: connections of those that stay are kept, those that are taken out end
//! what they have begun and get nothing more (contract section 2, Reload).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::support::wait::until;
use crate::support::{Ask, Prepared, Session, TestClient, TestGateway, TestUpstream, usual};

#[tokio::test]
async fn connections_of_a_server_that_stays_are_kept_over_a_reload() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    // A busy machine may take longer for a round than an idle connection is kept.
    let mut kept = false;
    for round in 0..5 {
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
        let before = upstream.connections();
        gateway.reload_with(|s| s.set("limits.max_requests", &format!("{}", 1000 + round))).await.assert_ok();
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
        kept |= upstream.connections() == before;
    }
    assert!(kept, "each reload opened a connection anew");
}

/// Asks without pause until told to stop; every answer is to be 200.
async fn load(mut client: TestClient, session: Session, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) {
    while !stop.load(Ordering::SeqCst) {
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
        count.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_server_that_is_taken_out_ends_what_it_has_begun_and_gets_nothing_more() {
    let (stays, goes) = (TestUpstream::named("stays").await, TestUpstream::named("goes").await);
    let mut gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("{:?}", [stays.url(), goes.url()]));
        settings.set("upstreams.engine.balance", "'round_robin'");
    }))
    .await;
    let session = gateway.login("admin").await;
    let mut held = Vec::new();
    while !goes.requests().iter().any(|request| request.target == "/up/hold") {
        assert!(held.len() < 20, "it takes its turns");
        let mut client = gateway.client().await;
        client.send(Ask::get("/up/hold").with(&session).bytes()).await;
        held.push(client);
        until("the held requests", || {
            (stays.requests().len() + goes.requests().len() == held.len()).then_some(())
        })
        .await;
    }
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut loads = Vec::new();
    for _ in 0..4 {
        let client = gateway.client().await;
        loads.push(tokio::spawn(load(client, session.clone(), Arc::clone(&stop), Arc::clone(&count))));
    }
    let more = async |n| {
        let from = count.load(Ordering::SeqCst);
        until("answers", || (count.load(Ordering::SeqCst) >= from + n).then_some(())).await;
    };
    more(40).await;
    assert!(goes.requests().len() > 10, "both take part");
    let servers = format!("['{}']", stays.url());
    gateway.reload_with(|s| s.set("upstreams.engine.servers", &servers)).await.assert_ok();
    // What was under way at the swap has ended then.
    more(40).await;
    let before = goes.requests().len();
    more(100).await;
    assert_eq!(goes.requests().len(), before, "it got more");
    stop.store(true, Ordering::SeqCst);
    for load in loads {
        load.await.expect("every request was answered");
    }
    goes.release();
    stays.release();
    for mut client in held {
        client.answer().await.assert_ok();
    }
    until("its connections to be closed", || (goes.open_connections() == 0).then_some(())).await;
}
