//! What a client sends on a WebSocket before anybody is known (bytes 0 to 2: how it comes in pieces) is the same opening
//! in pieces as in one; nothing goes on to the server before it is a message, and then its frames alone.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postern::gateway::first_frame::is_introduction;
use postern::upstream::fuzzed::{boundary, read_opening};

fuzz_target!(|data: &[u8]| {
    let Some((lengths, bytes)) = data.split_first_chunk::<3>() else { return };
    let pieces = pieces(bytes, lengths);
    let whole = read_opening(&[bytes]);
    assert_eq!(whole, read_opening(&pieces));
    assert_eq!(boundary(&[bytes]), boundary(&pieces));

    let Some(text) = &whole.message else { return assert!(whole.onward.is_empty()) };
    assert!(text.len() <= 16 * 1024 && bytes.ends_with(&whole.behind));
    assert!(whole.onward.ends_with(&whole.behind));
    // What goes on is the message and nothing else: no ping, no byte that was not looked at.
    let frames = &whole.onward[..whole.onward.len() - whole.behind.len()];
    let again = read_opening(&[frames]);
    assert_eq!((again.message.as_ref(), again.pongs.len(), again.behind.len()), (Some(text), 0, 0));

    if is_introduction(text) {
        // What is skipped there may be no value here: a number out of range.
        let Ok(value) = serde_json::from_slice::<serde_json::Value>(text) else { return };
        assert_eq!(value["exec-func"], "auth");
        let (token, account) = (&value["exec-args"]["token"], &value["exec-args"]["account"]);
        assert!(token.is_string() != account.is_string(), "{value}");
    }
});

/// Of the lengths in turn.
fn pieces<'b>(bytes: &'b [u8], lengths: &[u8; 3]) -> Vec<&'b [u8]> {
    let (mut pieces, mut left) = (Vec::new(), bytes);
    for length in lengths.iter().cycle() {
        if left.is_empty() {
            break;
        }
        let (piece, rest) = left.split_at(usize::from(*length).clamp(1, left.len()));
        pieces.push(piece);
        left = rest;
    }
    pieces
}
