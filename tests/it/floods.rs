//! What an HTTP/2 client may send to make a server work, wait or remember (contract section 2, `[limits]`). Others are
//! served while it does, and the gateway's memory stays bounded.

use std::ops::AsyncFnOnce;

use crate::support::attacker::{
    Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS,
    Seen, Taken, WINDOW_UPDATE, block, frame, get, post, streams,
};
use crate::support::h2::{Frames, H2Client, request};
use crate::support::settings::Settings;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, TestGateway, TestUpstream, configured};

/// By how much the resident memory may grow: many times less than what is sent, or what would be held.
const GROWTH: u64 = 48 << 20;
const PROTOCOL_ERROR: u32 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;

/// SETTINGS_INITIAL_WINDOW_SIZE of 0.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

/// One with a public route to every answer of the upstream, and timeouts that a test can wait for.
async fn gateway(change: impl FnOnce(&mut Settings)) -> (TestUpstream, TestGateway) {
    configured(|settings| {
        settings.route("path = '/up/big'\naccess = 'public'\nupstream = 'engine'");
        settings.route("path = '/up/never'\naccess = 'public'\nupstream = 'engine'");
        settings.route("path = '/up/ticks'\naccess = 'public'\nupstream = 'engine'");
        settings.set("limits.send_timeout", "'1s'");
        change(settings);
    })
    .await
}

/// Plays an attack, and asserts that clients on other connections are served meanwhile and afterwards.
async fn beside<T>(gateway: &TestGateway, attack: impl AsyncFnOnce() -> T) -> T {
    let mut bystander = H2Client::connect(gateway).await;
    let served = async |client: &mut H2Client| {
        let answer = client.ask(request("GET", "/public/x", None, Frames::empty())).await;
        assert_eq!(answer.status, 200);
    };
    served(&mut bystander).await;
    let before = gateway.resident();
    let (outcome, ()) = tokio::join!(attack(), async {
        for _ in 0..20 {
            served(&mut bystander).await;
            gateway.ask(Ask::get("/public/x")).await.assert_ok();
        }
    });
    served(&mut bystander).await;
    served(&mut H2Client::connect(gateway).await).await;
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    outcome
}

/// Sends the bytes again and again until the connection is ended, which it must be.
async fn ended_by(bytes: &[u8], times: usize) -> Seen {
    let (_upstream, gateway) = gateway(|_| {}).await;
    beside(&gateway, async || {
        let mut attacker = Attacker::connect(&gateway, &[]).await;
        attacker.flood(bytes, times).await;
        attacker.ended().await
    })
    .await
}

/// A connection that is ended while its client sends on may be reset before the client has read why; and what is sent
/// on a stream that is forgotten already is a protocol error.
fn assert_calmed(seen: &Seen) {
    assert!(matches!(seen.goaway, None | Some(PROTOCOL_ERROR | ENHANCE_YOUR_CALM)), "{seen:?}");
}

#[tokio::test]
async fn rapid_resets_end_the_connection() {
    // CVE-2023-44487
    let reset = |stream| [get(stream, "/up/never"), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let seen = ended_by(&streams(2_000).flat_map(reset).collect::<Vec<_>>(), 1).await;
    assert_calmed(&seen);
}

#[tokio::test]
async fn resets_that_the_gateway_is_made_to_send_end_the_connection() {
    // CVE-2025-8671: a window that overflows, and a body after the request's end, are errors of the stream.
    for provoke in [
        |stream| frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]),
        |stream| frame(DATA, 0, stream, b"late"),
    ] {
        let made = |stream| [get(stream, "/up/never"), provoke(stream)].concat();
        let seen = ended_by(&streams(2_000).flat_map(made).collect::<Vec<_>>(), 1).await;
        assert_calmed(&seen);
    }
}

#[tokio::test]
async fn headers_that_are_continued_without_end_end_the_connection() {
    // CVE-2024-27316
    let begin = frame(HEADERS, 0, 1, &block(2, "/public/x"));
    for piece in [&b""[..], b"\0\x01a\x01b", &[b"\0\x01a\x7f\xe1\x7e", &[b'b'; 16_224][..]].concat()] {
        let endless =
            [&begin[..], &frame(CONTINUATION, 0, 1, piece).repeat(20_000.min((8 << 20) / (9 + piece.len())))]
                .concat();
        ended_by(&endless, 1).await;
    }
}

#[tokio::test]
async fn a_small_block_that_becomes_large_headers_is_not_served() {
    // CVE-2016-6581: one entry of the dynamic table, named thousands of times.
    let entry = [&b"\x40\x01a\x7f\x81\x1e"[..], &[b'b'; 3_968]].concat();
    let bomb = [&block(2, "/public/x")[..], &entry, &[0xbe; 12_000]].concat();
    let (upstream, gateway) = gateway(|_| {}).await;
    beside(&gateway, async || {
        let mut attacker = Attacker::connect(&gateway, &[]).await;
        attacker.flood(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb), 1).await;
        until("a refusal", || {
            let seen = attacker.seen();
            (seen.ended || seen.frames[usize::from(HEADERS)] + seen.frames[usize::from(RST_STREAM)] > 0)
                .then_some(())
        })
        .await;
    })
    .await;
    assert!(upstream.requests().iter().all(|seen| seen.head.fields.len() < 100));
}

#[tokio::test]
async fn headers_without_names_end_the_connection() {
    // CVE-2019-9516
    let nameless = [&block(2, "/public/x")[..], &[0; 3].repeat(100)].concat();
    let frames =
        streams(2_000).flat_map(|stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &nameless));
    ended_by(&frames.collect::<Vec<_>>(), 1).await;
}

#[tokio::test]
async fn empty_data_frames_end_the_connection() {
    // CVE-2019-9518
    let empty = frame(DATA, 0, 1, &[]).repeat(20_000);
    let seen = ended_by(&[post(1, "/up/never"), empty].concat(), 1).await;
    assert_calmed(&seen);
}

#[tokio::test]
async fn pings_and_settings_are_answered_one_at_a_time_and_hold_up_nobody_else() {
    // CVE-2019-9512, CVE-2019-9515
    let (_upstream, gateway) = gateway(|_| {}).await;
    for asked in [frame(PING, 0, 0, &[7; 8]), frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100])] {
        beside(&gateway, async || {
            let mut attacker = Attacker::connect(&gateway, &[]).await;
            assert_eq!(attacker.flood(&asked.repeat(1_000), 100).await, Taken::All);
        })
        .await;
        // Who does not read the answers is not read any further, and its connection is ended.
        beside(&gateway, async || {
            let mut deaf = Attacker::deaf(&gateway, &[]).await;
            assert_ne!(deaf.flood(&asked.repeat(4_000), 4_000).await, Taken::All);
            deaf.cut_off().await;
        })
        .await;
    }
}

#[tokio::test]
async fn priorities_and_window_updates_hold_up_nobody_else() {
    // CVE-2019-9513, CVE-2019-9511
    let (_upstream, gateway) = gateway(|_| {}).await;
    let priorities: Vec<_> = streams(1_000).flat_map(|s| frame(PRIORITY, 0, s, &[0, 0, 0, 0, 16])).collect();
    for frames in [priorities, frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(1_000)] {
        beside(&gateway, async || {
            let mut attacker = Attacker::connect(&gateway, &[]).await;
            attacker.flood(&frames, 300).await;
        })
        .await;
    }
}

#[tokio::test]
async fn streams_whose_answers_are_not_taken_are_reset_and_free_what_they_held() {
    // CVE-2019-9517, CVE-2016-1546
    let (_upstream, gateway) = gateway(|settings| settings.set("limits.max_requests", "100")).await;
    let mut slow = Attacker::connect(&gateway, NO_WINDOW).await;
    let before = gateway.resident();
    let asked: Vec<_> = streams(100).flat_map(|stream| get(stream, "/up/big/10000000")).collect();
    assert_eq!(slow.flood(&asked, 1).await, Taken::All);
    slow.got(HEADERS, 100).await;
    gateway.ask(Ask::get("/public/x")).await.assert_error(503);
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    slow.got(RST_STREAM, 100).await;
    until_async("the places to be free again", || async {
        gateway.ask(Ask::get("/public/x")).await.status == 200
    })
    .await;
    assert!(!slow.seen().ended, "the connection lives");
}

#[tokio::test]
async fn a_silent_answer_and_a_client_that_goes_on_taking_are_left_alone() {
    let (upstream, gateway) = gateway(|settings| settings.set("limits.send_timeout", "'300ms'")).await;
    let session = gateway.login("admin").await;
    let mut client = H2Client::connect(&gateway).await;
    assert_eq!(client.get("/up/slow/1500", &session).await.status, 200);
    let mut patient = Attacker::connect(&gateway, &[]).await;
    patient.flood(&[get(1, "/up/never"), get(3, "/up/ticks")].concat(), 1).await;
    patient.got(DATA, 60).await;
    assert_eq!((patient.seen().frames[usize::from(RST_STREAM)], upstream.cut_off()), (0, 0));
}

#[tokio::test]
async fn a_body_of_which_no_byte_comes_is_given_up() {
    let (_upstream, gateway) = gateway(|settings| settings.set("limits.body_timeout", "'400ms'")).await;
    let mut silent = Attacker::connect(&gateway, &[]).await;
    silent.flood(&post(1, "/public/x"), 1).await;
    silent.got(HEADERS, 1).await;
}

#[tokio::test]
async fn a_connection_that_only_pings_is_idle() {
    let (_upstream, gateway) = gateway(|settings| settings.set("limits.idle_timeout", "'500ms'")).await;
    let mut pinging = Attacker::connect(&gateway, &[]).await;
    pinging.cut_off().await;
}
