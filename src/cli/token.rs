//! `postern token mint`: a domain token for a program that calls the backends.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::admin_client::AdminClient;
use super::{print, tell, with_config, wrong_usage};
use crate::clock::{Clock, UnixMillis};
use crate::config::Settings;
use crate::identity::RoleName;
use crate::session::domain_tokens::DomainTokens;
use crate::session::store;
use crate::session::token::{DomainToken, Tokens};

#[derive(Subcommand)]
pub(super) enum Token {
    /// Make a domain token, print it once and keep its record
    #[command(after_help = "Examples:\n  \
        postern token mint --domain mydomain.com --role user --expires 2027-01-01T00:00:00Z\n  \
        postern token mint --domain mydomain.com --role user --expires 90d\n\n\
        Beside a running gateway it is made by that one, through listen.admin. The token is printed once and kept nowhere.")]
    Mint(Mint),
}

#[derive(Args)]
pub(super) struct Mint {
    /// The configuration [default: $POSTERN_CONFIG, else /etc/postern/postern.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The domain that its bearer belongs to
    #[arg(long, value_parser = domain)]
    domain: String,
    /// The role that it has
    #[arg(long)]
    role: String,
    /// When it stops: a time (RFC 3339), or how long from now (90d, 12h)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    expires: UnixMillis,
}

fn domain(text: &str) -> Result<String, String> {
    if text.is_empty() || text.chars().any(char::is_control) {
        return Err("it must be a domain's name".to_owned());
    }
    Ok(text.to_owned())
}

fn when(text: &str) -> Result<UnixMillis, String> {
    let now = Clock::system().now();
    let moment = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    let length = || humantime::parse_duration(text).ok().map(|length| now.plus(length));
    let expires = moment.map(UnixMillis).or_else(length);
    let expires = expires.ok_or("write it like 2027-01-01T00:00:00Z, or like 90d")?;
    if expires <= now { Err("that has passed already".to_owned()) } else { Ok(expires) }
}

pub(super) fn run(command: Token) -> ExitCode {
    let Token::Mint(mint) = command;
    let loaded = match with_config(mint.config.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let settings = loaded.settings;
    let roles = &settings.access.roles;
    if !roles.iter().any(|known| known.name.as_str() == mint.role) {
        let names: Vec<_> = roles.iter().map(|known| known.name.as_str()).collect();
        let what = format!("there is no role \"{}\"; there are {}", mint.role, names.join(", "));
        return wrong_usage("token mint", &what);
    }
    match by_the_running_gateway(&settings, &mint).unwrap_or_else(|| by_ourselves(&settings, &mint)) {
        Ok(token) => print(&token),
        Err(what) => {
            tell(std::iter::once(format!("postern token mint: {what}")));
            ExitCode::FAILURE
        }
    }
}

/// None: none answers there. The store admits one process, so a running gateway is asked first.
fn by_the_running_gateway(settings: &Settings, mint: &Mint) -> Option<Result<String, String>> {
    let admin = settings.admin.as_ref()?;
    let client = AdminClient { addr: admin.addr, token: admin.token.as_ref() };
    let expires =
        i64::try_from(mint.expires.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())?;
    let wanted = json!({ "role": mint.role, "expires": expires.to_string() });
    let domain = percent_encoding::utf8_percent_encode(&mint.domain, percent_encoding::NON_ALPHANUMERIC);
    let answer = client.ask("POST", &format!("/domains/{domain}/tokens"), Some(&wanted)).ok()?;
    Some(match (answer.status, answer.body.get("token").and_then(Value::as_str)) {
        (201, Some(token)) => Ok(token.to_owned()),
        _ => Err(format!("the gateway at {} refused it: {}", admin.addr, answer.info())),
    })
}

fn by_ourselves(settings: &Settings, mint: &Mint) -> Result<String, String> {
    if settings.sessions.file.is_none() && settings.sessions.redis.is_none() {
        return Err(
            "sessions.file is \"\", so records live in a running gateway alone, and none answers at \
            listen.admin"
                .to_owned(),
        );
    }
    let store = store::open(&settings.sessions).map_err(|error| {
        format!("{error}; a running gateway is asked at listen.admin, where none answers")
    })?;
    let tokens = Tokens::new(&settings.token);
    let id = uuid::Uuid::new_v4().to_string();
    let token = tokens.sign_domain(&id, mint.expires, &mint.domain).map_err(|error| error.to_string())?;
    let (domain, role) = (mint.domain.clone(), RoleName::new(&mint.role));
    let record = DomainToken { id, domain, role, expires: mint.expires, enabled: true };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let kept = runtime.block_on(async {
        if let Some(shared) = store.shared() {
            shared.connected().await?;
        }
        let records = DomainTokens::open(Arc::clone(&store), Clock::system().now()).await?;
        records.mint(record).await
    });
    kept.map(|()| token).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_a_length_in_the_future_is_taken() {
        assert_eq!(when("2100-01-01T00:00:00Z"), Ok(UnixMillis(4_102_444_800_000)));
        assert_eq!(when("2100-01-01T02:00:00+02:00"), Ok(UnixMillis(4_102_444_800_000)));
        assert!(when("90d").is_ok() && when("12h").is_ok());
        for bad in ["2001-01-01T00:00:00Z", "whenever", "", "2100-01-01", "0s", "-1d"] {
            assert!(when(bad).is_err(), "{bad}");
        }
    }
}
