//! Tokens (RFC 7519 with `exp` in **milliseconds**): the only place that signs one, and the only place that
//! reads one's `exp`.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, crypto, errors};
use serde::{Deserialize, Serialize};
use std::sync::Once;
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::identity::RoleName;
use crate::secret::{ExposeSecret, SecretSlice};

/// `[token]` of the configuration.
pub struct TokenSettings {
    /// The HS256 key: the file's bytes as they are.
    pub secret: SecretSlice<u8>,
    /// Still accepted for domain tokens, never used to sign.
    pub previous: Vec<SecretSlice<u8>>,
    pub ttl: Duration,
    /// Resources whose permissions are copied into the `acl` claim.
    pub claims: Vec<String>,
}

/// Signs tokens and judges those that no session is known for.
pub struct Tokens {
    signing: EncodingKey,
    current: DecodingKey,
    previous: Vec<DecodingKey>,
    validation: Validation,
    ttl: Duration,
    claims: Vec<String>,
}

/// The claims of a domain token whose signature is good (`webitel.md`, Domain tokens).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainClaims {
    pub id: String,
    pub domain: Option<String>,
    pub expires: UnixMillis,
}

/// What a token without a matching session turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Reading {
    /// HS256 by a key of ours, `t: "domain"`, not judged further: the record decides.
    Domain(DomainClaims),
    /// HS256 by the key of ours, a session's, `exp` passed.
    ExpiredSession,
    /// HS256 by the key of ours, a session's that expires then, but no such session is known.
    Session(UnixMillis),
    /// As before, by a previous key of ours: good where the session is known, which a shared store may say.
    OldSession,
    /// Says (unverified) that it is a domain token, but algorithm, `crit`, signature or `exp` are not good.
    BadDomain,
    /// None of these.
    Other,
}

/// The record that makes a domain token good: of `[domain_tokens]` or minted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainToken {
    pub id: String,
    pub domain: String,
    pub role: RoleName,
    pub expires: UnixMillis,
    pub enabled: bool,
}

/// The longest token that is read. Those in use are below 400 bytes.
const MAX_TOKEN: usize = 8192;

/// The resources of the `acl` claim with their permissions.
pub type AclClaim<'a> = std::collections::BTreeMap<&'a str, &'a [&'static str]>;

#[derive(Serialize)]
struct SessionClaims<'a> {
    exp: u64,
    acl: &'a AclClaim<'a>,
}

/// A field twice is an error of the derived reader, as is an `exp` that is no whole number from 0 up.
#[derive(Deserialize)]
struct Claims {
    exp: u64,
    #[serde(default)]
    t: Option<String>,
    #[serde(default)]
    id: Option<String>,
    #[serde(default)]
    d: Option<String>,
}

#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    t: Option<serde_json::Value>,
}

#[derive(Serialize)]
struct DomainTokenClaims<'a> {
    id: &'a str,
    exp: u64,
    d: &'a str,
    t: &'static str,
    v: u8,
}

impl Tokens {
    #[must_use]
    pub fn new(settings: &TokenSettings) -> Self {
        static PROVIDER: Once = Once::new();
        // The library panics at its first use when no provider was chosen. That one was chosen before is no fault.
        PROVIDER.call_once(|| {
            let _: Result<(), _> = crypto::aws_lc::DEFAULT_PROVIDER.install_default();
        });
        let mut validation = Validation::new(Algorithm::HS256);
        // `exp` is in milliseconds, which the library would read as seconds: it is compared here instead.
        (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
        validation.required_spec_claims.clear();
        let decoding = |key: &SecretSlice<u8>| DecodingKey::from_secret(key.expose_secret());
        Self {
            signing: EncodingKey::from_secret(settings.secret.expose_secret()),
            current: decoding(&settings.secret),
            previous: settings.previous.iter().map(decoding).collect(),
            validation,
            ttl: settings.ttl,
            claims: settings.claims.clone(),
        }
    }

    /// A session's token: header `{"typ":"JWT","alg":"HS256"}`, claims `exp` (ms) and `acl`.
    pub fn sign_session(&self, exp: UnixMillis, acl: &AclClaim<'_>) -> errors::Result<String> {
        jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &SessionClaims { exp: exp.0, acl },
            &self.signing,
        )
    }

    /// A domain token (`webitel.md`, Domain tokens).
    pub fn sign_domain(&self, id: &str, exp: UnixMillis, domain: &str) -> errors::Result<String> {
        let claims = DomainTokenClaims { id, exp: exp.0, d: domain, t: "domain", v: 2 };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
    }

    /// Reads a token at `now`.
    #[must_use]
    pub fn read(&self, token: &str, now: UnixMillis) -> Reading {
        if token.len() > MAX_TOKEN {
            return Reading::Other;
        }
        if let Some(claims) = self.verified(token, &self.current) {
            return judge(claims, now);
        }
        let older = self.previous.iter().find_map(|key| self.verified(token, key));
        match older.map(|claims| judge(claims, now)) {
            Some(domain @ Reading::Domain(_)) => domain,
            Some(Reading::Session(_)) => Reading::OldSession,
            _ if says_domain(token) => Reading::BadDomain,
            _ => Reading::Other,
        }
    }

    /// When a session made at `now` expires.
    #[must_use]
    pub fn expiry(&self, now: UnixMillis) -> UnixMillis {
        now.plus(self.ttl)
    }

    /// See [`TokenSettings::claims`].
    #[must_use]
    pub fn claims(&self) -> &[String] {
        &self.claims
    }

    /// The claims, if the header is HS256 without `crit`, the signature is this key's and there is a whole `exp`.
    fn verified(&self, token: &str, key: &DecodingKey) -> Option<Claims> {
        let data = jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok()?;
        // RFC 7515 section 4.1.11: what is critical and not understood makes the token invalid.
        data.header.crit.is_none().then_some(data.claims)
    }
}

fn judge(claims: Claims, now: UnixMillis) -> Reading {
    let expires = UnixMillis(claims.exp);
    match (claims.t.as_deref(), claims.id) {
        (Some("domain"), Some(id)) => Reading::Domain(DomainClaims { id, domain: claims.d, expires }),
        (Some("domain"), None) => Reading::BadDomain,
        _ if expires <= now => Reading::ExpiredSession,
        _ => Reading::Session(expires),
    }
}

/// Unverified: only to tell which refusal fits.
fn says_domain(token: &str) -> bool {
    let Ok(kind) = jsonwebtoken::dangerous::insecure_decode_claims::<Kind>(token) else { return false };
    kind.t.is_some_and(|t| t == "domain")
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::hmac;
    use proptest::prelude::*;

    const SECRET: &[u8] = b"a key with odd bytes \xff\x00 and a newline at its end\n";

    fn tokens() -> Tokens {
        tokens_with(SECRET, &[])
    }

    fn tokens_with(secret: &[u8], previous: &[&[u8]]) -> Tokens {
        let key = |bytes: &[u8]| SecretSlice::from(bytes.to_vec());
        Tokens::new(&TokenSettings {
            secret: key(secret),
            previous: previous.iter().map(|k| key(k)).collect(),
            ttl: Duration::from_secs(10),
            claims: vec!["cdr".into()],
        })
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let n = chunk.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
            for i in 0..=chunk.len() {
                out.push(char::from(DIGITS[(n >> (18 - 6 * i)) as usize & 63]));
            }
        }
        out
    }

    /// An independent signer: no part of the library under test.
    fn make(header: &str, claims: &str, secret: &[u8]) -> String {
        let signed = format!("{}.{}", base64(header.as_bytes()), base64(claims.as_bytes()));
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        format!("{signed}.{}", base64(signature.as_ref()))
    }

    const HS256: &str = r#"{"typ":"JWT","alg":"HS256"}"#;
    const DOMAIN: &str = r#"{"id":"i","exp":2000,"d":"x.org","t":"domain","v":2}"#;

    fn read(token: &str) -> Reading {
        tokens().read(token, UnixMillis(1000))
    }

    #[test]
    fn a_session_token_is_byte_for_byte_what_the_documentation_shows() {
        let permissions: &[&'static str] = &["*"];
        let acl = AclClaim::from([("cdr", permissions)]);
        let token = tokens().sign_session(UnixMillis(1_464_587_176_910), &acl).unwrap();
        assert_eq!(token, make(HS256, r#"{"exp":1464587176910,"acl":{"cdr":["*"]}}"#, SECRET));
        assert_eq!(read(&token), Reading::Session(UnixMillis(1_464_587_176_910)));
    }

    #[test]
    fn a_good_domain_token_is_read_expired_or_not() {
        let good = make(HS256, DOMAIN, SECRET);
        let claims = DomainClaims { id: "i".into(), domain: Some("x.org".into()), expires: UnixMillis(2000) };
        assert_eq!(read(&good), Reading::Domain(claims.clone()));
        assert_eq!(tokens().read(&good, UnixMillis(9000)), Reading::Domain(claims));
        let minted = tokens().sign_domain("i", UnixMillis(2000), "x.org").unwrap();
        assert_eq!(minted, good);
    }

    #[test]
    fn any_other_algorithm_crit_or_signature_is_refused() {
        for header in [
            r#"{"typ":"JWT","alg":"none"}"#,
            r#"{"typ":"JWT","alg":"HS384"}"#,
            r#"{"typ":"JWT","alg":"HS512"}"#,
            r#"{"typ":"JWT","alg":"RS256"}"#,
            r#"{"typ":"JWT","alg":"hs256"}"#,
            r#"{"typ":"JWT"}"#,
            r#"{"typ":"JWT","alg":"HS256","crit":["exp"]}"#,
            r#"{"alg":"none","alg":"HS256"}"#,
        ] {
            assert_eq!(read(&make(header, DOMAIN, SECRET)), Reading::BadDomain, "{header}");
        }
        assert_eq!(read(&make(HS256, DOMAIN, b"another key")), Reading::BadDomain);
        let unsigned = make(HS256, DOMAIN, SECRET);
        assert_eq!(read(&unsigned[..unsigned.rfind('.').unwrap() + 1]), Reading::BadDomain);
    }

    #[test]
    fn an_exp_that_is_no_whole_number_is_refused() {
        for exp in ["\"2000\"", "2000.5", "2e3", "null", "-1", "true", "[2000]", "18446744073709551616"] {
            let claims = format!(r#"{{"id":"i","exp":{exp},"d":"x","t":"domain"}}"#);
            assert_eq!(read(&make(HS256, &claims, SECRET)), Reading::BadDomain, "{exp}");
        }
        for claims in [r#"{"id":"i","d":"x","t":"domain"}"#, r#"{"id":"i","exp":1,"exp":2000,"t":"domain"}"#]
        {
            assert_eq!(read(&make(HS256, claims, SECRET)), Reading::BadDomain, "{claims}");
        }
    }

    #[test]
    fn previous_keys_are_good_for_domain_tokens_alone() {
        let tokens = tokens_with(b"new", &[SECRET]);
        assert!(matches!(tokens.read(&make(HS256, DOMAIN, SECRET), UnixMillis(1)), Reading::Domain(_)));
        assert_eq!(tokens.read(&make(HS256, r#"{"exp":9}"#, SECRET), UnixMillis(1)), Reading::OldSession);
        assert_eq!(tokens.read(&make(HS256, r#"{"exp":9}"#, SECRET), UnixMillis(9)), Reading::Other);
    }

    #[test]
    fn exp_is_read_in_milliseconds() {
        let session = make(HS256, r#"{"exp":1000,"acl":{}}"#, SECRET);
        assert_eq!(tokens().read(&session, UnixMillis(999)), Reading::Session(UnixMillis(1000)));
        assert_eq!(tokens().read(&session, UnixMillis(1000)), Reading::ExpiredSession);
    }

    #[test]
    fn huge_and_odd_tokens_are_nothing() {
        for token in ["", ".", "..", "...", "a.b.c", &"a".repeat(9000), &".".repeat(9000), "eyJ.eyJ."] {
            assert_eq!(read(token), Reading::Other, "{token}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_never_read(at in 0usize..100, byte in 33u8..127) {
            let mut token = make(HS256, DOMAIN, SECRET).into_bytes();
            let at = at % token.len();
            prop_assume!(token[at] != byte);
            token[at] = byte;
            let token = String::from_utf8(token).unwrap();
            // The last digit of a base64 part may hold bits that do not count.
            let reading = read(&token);
            prop_assert!(matches!(reading, Reading::BadDomain | Reading::Other), "{:?}", reading);
        }
    }
}
