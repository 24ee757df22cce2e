//! The engine's WebSocket: any path, commands in JSON, and every command runs whoever sent it.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Seen, State, is_password};
use crate::support::wire::{Head, Wire};

pub(super) async fn serve(wire: &mut Wire, head: &Head, target: &str, state: &State) {
    state.note(Seen { target: target.into(), head: head.clone(), caller: None });
    let accept = derive_accept_key(head.one("sec-websocket-key").unwrap_or_default().as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    if wire.send(answer).await.is_err() {
        return;
    }
    let early = std::mem::take(&mut wire.buffer);
    let mut socket = WebSocketStream::from_partially_read(&mut wire.io, early, Role::Server, None).await;
    // The real one greets nobody; an event shows that the server's frames pass.
    let _ = socket.send(Message::text(r#"{"webitel-event-name":"hello"}"#)).await;
    let mut user = None;
    while let Some(Ok(message)) = socket.next().await {
        let Message::Text(text) = message else { continue };
        let command: Value = serde_json::from_str(&text).unwrap_or_default();
        let name = command["exec-func"].as_str().unwrap_or_default().to_owned();
        let answer = match name.as_str() {
            "auth" => {
                user = authenticated(&command["exec-args"], state);
                if user.is_some() { ("+OK", json!({"login": user})) } else { ("-ERR", json!("Invalid User")) }
            }
            _ => {
                state.commands.lock().unwrap().push((name.clone(), user.clone()));
                ("+OK", json!(format!("{name} done")))
            }
        };
        let answer =
            json!({"exec-uuid": command["exec-uuid"], "exec-complete": answer.0, "exec-response": answer.1});
        if socket.send(Message::text(answer.to_string())).await.is_err() {
            return;
        }
    }
}

fn authenticated(args: &Value, state: &State) -> Option<String> {
    if let Some(account) = args["account"].as_str() {
        let user = state.users.lock().unwrap().get(account).cloned();
        return user.filter(|_| is_password(&args["secret"])).map(|_| account.to_owned());
    }
    let sessions = state.sessions.lock().unwrap();
    let known = sessions.get(args["key"].as_str()?)?;
    (Some(known.token.as_str()) == args["token"].as_str()).then(|| known.user.clone())
}
