//! `websocket = "first_frame"` (contract section 4): nothing of a client reaches the upstream before its first message
//! was judged, and the socket ends with its session.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::h2::H2cUpstream;
use crate::support::settings::Settings;
use crate::support::wait::{until, until_async, within};
use crate::support::{Ask, Engine, PASSWORD, Session, TestGateway, configured};

type Socket = WebSocketStream<TcpStream>;

async fn open(gateway: &TestGateway) -> Socket {
    open_at(gateway, "/engine").await
}

async fn open_at(gateway: &TestGateway, path: &str) -> Socket {
    let request = format!("ws://localhost{path}").into_client_request().unwrap();
    let stream = TcpStream::connect(gateway.http()).await.unwrap();
    within("the handshake", client_async(request, stream)).await.unwrap().0
}

fn auth(session: &Session) -> String {
    command("auth", &json!({"key": session.key, "token": session.token}))
}

fn command(name: &str, args: &Value) -> String {
    json!({"exec-uuid": "1", "exec-func": name, "exec-args": args}).to_string()
}

/// The next answer to a command; events of the server are passed over.
async fn answer(socket: &mut Socket) -> Value {
    loop {
        let message = within("an answer", socket.next()).await.expect("the socket is open").unwrap();
        if let Message::Text(text) = message {
            let value: Value = serde_json::from_str(&text).unwrap();
            if value.get("exec-complete").is_some() {
                return value;
            }
        }
    }
}

/// The code that the socket closes with.
async fn closed(socket: &mut Socket) -> Option<CloseCode> {
    within("the socket to close", async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| frame.code);
            }
        }
        None
    })
    .await
}

fn frame(opcode: OpCode, is_final: bool, payload: &str) -> Message {
    let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
    Message::Frame(Frame::from_payload(header, payload.to_owned().into()))
}

async fn scene() -> (Engine, TestGateway) {
    let engine = Engine::start().await;
    let gateway = engine.gateway("hardened", |_| {}).await;
    (engine, gateway)
}

/// What a client of the engine could do before: commands of anyone run.
#[tokio::test]
async fn a_command_before_auth_runs_at_the_engine_and_not_through_the_gateway() {
    let (engine, gateway) = scene().await;
    let stream = TcpStream::connect(engine.engine.addr).await.unwrap();
    let request = "ws://localhost/engine".into_client_request().unwrap();
    let mut direct = client_async(request, stream).await.unwrap().0;
    direct.send(Message::text(command("hangup", &json!({"uuid": "x"})))).await.unwrap();
    assert_eq!(answer(&mut direct).await["exec-complete"], "+OK", "the hole");
    assert_eq!(engine.state.commands.lock().unwrap().len(), 1);

    let mut socket = open(&gateway).await;
    socket.send(Message::text(command("hangup", &json!({"uuid": "x"})))).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
    assert_eq!(engine.state.commands.lock().unwrap().len(), 1, "nothing more reached the engine");
}

#[tokio::test]
async fn a_good_auth_opens_the_socket_for_all_that_follows() {
    let (engine, gateway) = scene().await;
    let session = engine.session("user@example.org");
    let mut socket = open(&gateway).await;
    socket.send(Message::text(auth(&session))).await.unwrap();
    let told = answer(&mut socket).await;
    assert_eq!(
        (&told["exec-complete"], &told["exec-response"]["login"]),
        (&json!("+OK"), &json!("user@example.org"))
    );
    for n in 0..100 {
        socket
            .send(Message::text(command(&format!("c{n}"), &json!({"text": "x".repeat(n * 400)}))))
            .await
            .unwrap();
    }
    for _ in 0..100 {
        answer(&mut socket).await;
    }
    let commands = engine.state.commands.lock().unwrap().clone();
    assert!(
        commands.iter().all(|(_, user)| user.as_deref() == Some("user@example.org")) && commands.len() == 100
    );
    let upgrade = engine.forwarded().pop().unwrap();
    for name in ["x-access-token", "x-key", "x-webitel-user", "sec-websocket-extensions"] {
        assert!(!upgrade.head.has(name), "{name}: nobody was known at the upgrade");
    }
}

#[tokio::test]
async fn the_server_s_frames_pass_before_auth_and_pings_are_answered_here() {
    let (engine, gateway) = scene().await;
    let mut socket = open(&gateway).await;
    let event = within("the server's event", socket.next()).await.unwrap().unwrap();
    assert!(event.to_text().unwrap().contains("hello"));
    socket.send(Message::Ping(vec![1, 2, 3].into())).await.unwrap();
    assert_eq!(within("a pong", socket.next()).await.unwrap().unwrap(), Message::Pong(vec![1, 2, 3].into()));
    socket.send(Message::text(auth(&engine.session("user@example.org")))).await.unwrap();
    assert_eq!(answer(&mut socket).await["exec-complete"], "+OK");
    socket.send(Message::Ping(vec![9].into())).await.unwrap();
    assert_eq!(
        within("the engine's pong", socket.next()).await.unwrap().unwrap(),
        Message::Pong(vec![9].into())
    );
}

#[tokio::test]
async fn a_message_in_two_frames_with_a_ping_between_is_one() {
    let (engine, gateway) = scene().await;
    let text = auth(&engine.session("user@example.org"));
    let (first, second) = text.split_at(20);
    let mut socket = open(&gateway).await;
    socket.send(frame(OpCode::Data(Data::Text), false, first)).await.unwrap();
    socket.send(frame(OpCode::Control(Control::Ping), true, "between")).await.unwrap();
    socket.send(frame(OpCode::Data(Data::Continue), true, second)).await.unwrap();
    let pong = within("a pong", async {
        loop {
            if let Message::Pong(payload) = socket.next().await.unwrap().unwrap() {
                return payload;
            }
        }
    })
    .await;
    assert_eq!(&pong[..], b"between");
    assert_eq!(answer(&mut socket).await["exec-complete"], "+OK");
}

#[tokio::test]
async fn what_follows_the_first_message_at_once_waits_for_its_judgement() {
    let (engine, gateway) = scene().await;
    let stranger = Session { key: "no such key".into(), ..engine.session("user@example.org") };
    let mut socket = open(&gateway).await;
    socket.feed(Message::text(auth(&stranger))).await.unwrap();
    socket.feed(Message::text(command("hangup", &json!({})))).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
    assert!(engine.state.commands.lock().unwrap().is_empty());

    let mut socket = open(&gateway).await;
    socket.feed(Message::text(auth(&engine.session("user@example.org")))).await.unwrap();
    socket.feed(Message::text(command("next", &json!({})))).await.unwrap();
    socket.flush().await.unwrap();
    assert_eq!(answer(&mut socket).await["exec-response"]["login"], "user@example.org");
    assert_eq!(answer(&mut socket).await["exec-response"], "next done");
}

#[tokio::test]
async fn anything_else_closes_with_1008_and_reaches_nobody() {
    let (engine, gateway) = scene().await;
    let session = engine.session("user@example.org");
    let known = json!({"key": session.key, "token": session.token});
    let openings = [
        Message::text("no json"),
        Message::text(command("Auth", &known)),
        Message::text(command("auth", &json!({}))),
        Message::text(command("auth", &json!({"key": session.key}))),
        Message::text(command("auth", &json!({"key": "x", "token": session.token}))),
        Message::text(command("auth", &json!({"key": {"$ne": ""}, "token": session.token}))),
        Message::text(command(
            "auth",
            &json!({"key": session.key, "token": session.token, "account": "root"}),
        )),
        Message::text(command("auth", &json!({"account": "user@example.org", "secret": "wrong"}))),
        Message::text(format!(r#"{{"exec-func":"auth","exec-func":"hangup","exec-args":{known}}}"#)),
        Message::text(format!("{}{}", auth(&session), " ".repeat(16 * 1024))),
        Message::binary(auth(&session).into_bytes()),
        frame(OpCode::Data(Data::Continue), true, &auth(&session)),
        Message::Close(None),
    ];
    for opening in openings {
        let mut socket = open(&gateway).await;
        let what = format!("{opening:?}").chars().take(200).collect::<String>();
        socket.send(opening).await.unwrap();
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy), "{what}");
    }
    assert!(engine.state.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn unmasked_and_compressed_frames_close_it_too() {
    let (engine, gateway) = scene().await;
    let text = auth(&engine.session("user@example.org"));
    let length = u16::try_from(text.len()).unwrap().to_be_bytes();
    let mask_of_zeros = [0u8; 4];
    for (first, second, mask) in [(0x81u8, 126u8, &[][..]), (0xc1, 0x80 | 126, &mask_of_zeros[..])] {
        let mut client = gateway.client().await;
        let upgrade = Ask::get("/engine")
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Extensions", "permessage-deflate")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
        let mut bytes = upgrade.bytes();
        bytes.extend([first, second]);
        bytes.extend(length);
        bytes.extend(mask);
        bytes.extend(text.as_bytes());
        client.send(bytes).await;
        let head = client.answer_head().await;
        assert!(
            head.start.starts_with("HTTP/1.1 101") && !head.has("sec-websocket-extensions"),
            "{}",
            head.text()
        );
        let rest = client.closed().await;
        assert!(rest.ends_with(&[0x88, 2, 0x03, 0xf0]), "{rest:?}");
    }
    assert!(engine.state.commands.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_says_nothing_in_five_seconds_is_closed() {
    let (_engine, gateway) = scene().await;
    let begun = std::time::Instant::now();
    let mut socket = open(&gateway).await;
    assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy));
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(8), "{took:?}");
}

#[tokio::test]
async fn a_socket_ends_with_its_session_by_1008() {
    let (engine, gateway) = scene().await;
    let (by_logout, by_operator) = (engine.session("user@example.org"), engine.session("admin@example.org"));
    let mut sockets = Vec::new();
    for session in [&by_logout, &by_operator] {
        let mut socket = open(&gateway).await;
        socket.send(Message::text(auth(session))).await.unwrap();
        answer(&mut socket).await;
        sockets.push(socket);
    }
    gateway.ask(Ask::post("/logout").with(&by_logout)).await.assert_ok();
    let begun = std::time::Instant::now();
    assert_eq!(closed(&mut sockets[0]).await, Some(CloseCode::Policy));
    assert!(begun.elapsed() < Duration::from_millis(1500), "{:?}", begun.elapsed());
    sockets[1].send(Message::text(command("still", &json!({})))).await.unwrap();
    answer(&mut sockets[1]).await;
    gateway.admin_ask(Ask::new("DELETE", "/sessions?user=admin@example.org")).await;
    assert_eq!(closed(&mut sockets[1]).await, Some(CloseCode::Policy));
}

#[tokio::test]
async fn an_account_logs_in_by_the_first_message_and_its_session_ends_with_the_socket() {
    let (engine, gateway) = scene().await;
    let mut socket = open(&gateway).await;
    let account = json!({"account": "user@example.org", "secret": PASSWORD});
    socket.send(Message::text(command("auth", &account))).await.unwrap();
    assert_eq!(answer(&mut socket).await["exec-response"]["login"], "user@example.org");
    assert_eq!(gateway.metric("postern_sessions", &[]).await, 1.0);
    assert_eq!(engine.state.sessions.lock().unwrap().len(), 1);
    drop(socket);
    until("the session to end at the engine", || {
        engine.state.sessions.lock().unwrap().is_empty().then_some(())
    })
    .await;
    assert_eq!(gateway.metric("postern_sessions", &[]).await, 0.0);
    assert!(!gateway.output().contains(PASSWORD));
}

#[tokio::test]
async fn the_session_of_a_socket_does_not_outlive_the_process() {
    let engine = Engine::start().await;
    let mut gateway = engine.gateway("hardened", |_| {}).await;
    let mut socket = open(&gateway).await;
    let account = json!({"account": "user@example.org", "secret": PASSWORD});
    socket.send(Message::text(command("auth", &account))).await.unwrap();
    answer(&mut socket).await;
    assert_eq!(gateway.metric("postern_sessions", &[]).await, 1.0);
    gateway.restart().await;
    assert_eq!(gateway.metric("postern_sessions", &[]).await, 0.0);
}

#[tokio::test]
async fn guesses_by_first_messages_are_throttled_as_logins_are() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("hardened", |settings| settings.set("login.max_failures", "2")).await;
    for secret in ["wrong", "wrong", PASSWORD] {
        let mut socket = open(&gateway).await;
        let account = json!({"account": "user@example.org", "secret": secret});
        socket.send(Message::text(command("auth", &account))).await.unwrap();
        assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy), "{secret}");
    }
    gateway.ask(Ask::login("user@example.org", PASSWORD)).await.assert_error(429);
}

#[tokio::test]
async fn a_caller_needs_the_route_s_permission_and_a_domain_token_is_one_too() {
    let engine = Engine::start().await;
    let gateway = engine
        .gateway("hardened", |settings| {
            settings.route(
                "path = '/sockets'\nresource = 'hook'\nwebsocket = 'first_frame'\nupstream = 'engine'",
            );
        })
        .await;
    let token = engine.domain_token("t7", "example.org", "op");
    for (args, may) in [
        (json!({"key": engine.session("op@example.org").key, "token": "x"}), false),
        (json!({"token": token}), true),
        (json!({"token": engine.domain_token("t8", "example.org", "user")}), false),
    ] {
        let mut socket = open_at(&gateway, "/sockets").await;
        socket.send(Message::text(command("auth", &args))).await.unwrap();
        // The stand-in itself knows no domain tokens on sockets: its answer shows that the message reached it.
        if may {
            assert_eq!(answer(&mut socket).await["exec-complete"], "-ERR");
        } else {
            assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy), "{args}");
        }
    }
    let user = engine.session("user@example.org");
    let mut socket = open_at(&gateway, "/sockets").await;
    socket.send(Message::text(auth(&user))).await.unwrap();
    assert_eq!(closed(&mut socket).await, Some(CloseCode::Policy), "user holds nothing on hook");
}

#[tokio::test]
async fn an_answer_that_is_no_101_is_not_passed_on() {
    let (upstream, gateway) = configured(|settings| {
        settings.route("path = '/up'\nmethods = ['GET']\naccess = 'authenticated'\nwebsocket = 'first_frame'\nupstream = 'engine'");
    })
    .await;
    let upgrade = |path: &str| {
        Ask::get(path).header("Connection", "Upgrade").header("Upgrade", "websocket").header("X-Key", "k")
    };
    for path in ["/up/echo", "/up/refuse-upgrade", "/up/unasked-101"] {
        let answer = gateway.ask(upgrade(path)).await;
        answer.assert_refusal(502, "Bad gateway");
    }
    assert!(upstream.requests().iter().all(|r| r.header("x-key").is_none()));
    let before = upstream.requests().len();
    // Any other protocol, and any other request, is judged by its credentials.
    let raw = Ask::get("/up/raw-echo").header("Connection", "Upgrade").header("Upgrade", "raw-echo");
    gateway.ask(raw).await.assert_refusal(401, "Invalid token");
    gateway.ask(Ask::get("/up/echo")).await.assert_refusal(401, "Invalid token");
    let with_body = upgrade("/up/ws").body("{}");
    gateway.ask(with_body).await.assert_error(400);
    let twice = upgrade("/up/ws").header("X-Key", "l");
    gateway.ask(twice).await.assert_refusal(400, "Ambiguous credentials");
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn an_upstream_that_has_no_web_sockets_is_asked_nothing() {
    let upstream = H2cUpstream::start().await;
    let (_unused, gateway) = configured(|settings| {
        settings.set("upstreams.h2.servers", &format!("['{}']", upstream.url()));
        settings.route("path = '/h2'\naccess = 'authenticated'\nwebsocket = 'first_frame'\nupstream = 'h2'");
    })
    .await;
    let upgrade = Ask::get("/h2/x").header("Connection", "Upgrade").header("Upgrade", "websocket");
    gateway.ask(upgrade).await.assert_refusal(502, "Bad gateway");
    assert!(upstream.requests().is_empty(), "nobody was judged for it");
}

/// Whoever says nothing holds a connection of the engine; those who have said who they are need it.
#[tokio::test]
async fn sockets_of_nobody_take_half_of_the_connections_at_most() {
    let engine = Engine::start().await;
    let limit = |settings: &mut Settings| settings.set("upstreams.engine.max_connections", "4");
    let gateway = engine.gateway("hardened", limit).await;
    let session = engine.session("root");
    let silent = [open(&gateway).await, open(&gateway).await];
    let upgrade = Ask::get("/engine").header("Connection", "Upgrade").header("Upgrade", "websocket");
    let upgrade = upgrade.header("Sec-WebSocket-Version", "13");
    let refused = gateway.ask(upgrade.header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")).await;
    refused.assert_error(503);
    let whoami = gateway.ask(Ask::get("/api/v2/accounts").with(&session)).await;
    assert_ne!(whoami.status, 503, "{}", whoami.brief());
    drop(silent);
    until_async("a place", || async {
        let request = "ws://localhost/engine".into_client_request().unwrap();
        let stream = TcpStream::connect(gateway.http()).await.unwrap();
        let Ok((mut socket, _)) = client_async(request, stream).await else { return false };
        socket.send(Message::text(auth(&session))).await.unwrap();
        answer(&mut socket).await["exec-complete"] == "+OK"
    })
    .await;
}
