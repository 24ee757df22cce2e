//! JSON Web Tokens by hand (RFC 7515, RFC 7519): a second implementation to judge the gateway's by, and a forge.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde_json::{Value, json};

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// base64url without padding (RFC 4648 section 5).
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |acc, byte| acc << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            out.push(char::from(ALPHABET[(group >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    out
}

/// The bytes of base64url without padding; None for anything else.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let mut group = 0u32;
        for byte in chunk {
            let digit = ALPHABET.iter().position(|letter| letter == byte)?;
            group = group << 6 | u32::try_from(digit).ok()?;
        }
        group <<= 6 * (4 - chunk.len());
        out.extend_from_slice(&group.to_be_bytes()[1..chunk.len()]);
    }
    Some(out)
}

/// header.claims.signature, signed as HS256 whatever the header says.
pub fn sign(header: &str, claims: &str, secret: &[u8]) -> String {
    sign_with(hmac::HMAC_SHA256, header, claims, secret)
}

pub fn sign_with(algorithm: hmac::Algorithm, header: &str, claims: &str, secret: &[u8]) -> String {
    let signed = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(algorithm, secret), signed.as_bytes());
    format!("{signed}.{}", encode(tag.as_ref()))
}

/// The header and the claims of a token whose HS256 signature is good.
pub fn verify(token: &str, secret: &[u8]) -> Option<(Vec<u8>, Value)> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes(), &decode(signature)?).ok()?;
    Some((decode(header)?, serde_json::from_slice(&decode(claims)?).ok()?))
}

/// The header of every token of the gateway.
pub const HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

/// A domain token as the backends make them.
pub fn domain_token(id: &str, domain: &str, expires: u64, secret: &[u8]) -> String {
    let claims = json!({"id": id, "exp": expires, "d": domain, "t": "domain", "v": 2});
    sign(HEADER, &claims.to_string(), secret)
}

/// Milliseconds since 1970.
pub fn now() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap())
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap()
}
