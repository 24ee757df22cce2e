//! `postern sessions export|import`: sessions between stores as JSON lines. Only hashes of keys and tokens are in them:
//! who holds them cannot log in with them, but whoever may write them can, so they belong where the store belongs.

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use std::io::{self, BufRead, BufWriter, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{tell, with_config};
use crate::clock::{Clock, UnixMillis};
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};
use crate::session::adopted::Rights;
use crate::session::store::{self, Store};
use crate::session::{SessionRecord, SessionSettings};

/// Records that are on their way to the store at once.
const PORTION: usize = 4096;

#[derive(Subcommand)]
pub(super) enum Sessions {
    /// Write every session of the configured store to standard output, a JSON line each
    #[command(after_help = "Example:\n  postern sessions export --config old.toml > sessions.jsonl\n\n\
        Hashes alone are written, no key and no token. The gateway must not run on a sessions file; on Redis it may.")]
    Export(Config),
    /// Read such lines from standard input into the configured store
    #[command(after_help = "Example:\n  postern sessions import --config new.toml < sessions.jsonl\n\n\
        One with the same id is replaced. A line that cannot be read ends the import with its number; what came before \
        it is kept. The gateway must not run on a sessions file; on Redis it may.")]
    Import(Config),
}

#[derive(Args)]
pub(super) struct Config {
    /// The configuration [default: $POSTERN_CONFIG, else /etc/postern/postern.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// One line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    id: String,
    token: String,
    user: String,
    role: String,
    /// All times in ms since 1970.
    created: u64,
    expires: u64,
    last_used: u64,
    client: IpAddr,
    /// The rights of a session that an engine made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    adopted: Option<serde_json::Value>,
}

pub(super) fn run(command: Sessions) -> ExitCode {
    let (Sessions::Export(Config { config }) | Sessions::Import(Config { config })) = &command;
    let loaded = match with_config(config.clone()) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let SessionSettings { file, redis, .. } = &loaded.settings.sessions;
    if file.is_none() && redis.is_none() {
        // An import would be lost, and an export hold nothing, while both seem to have worked.
        tell(std::iter::once(
            "postern sessions: sessions are kept in the gateway's memory alone; name a store by sessions.file or \
             [sessions.redis]"
                .to_owned(),
        ));
        return ExitCode::from(2);
    }
    let done = store::open(&loaded.settings.sessions).map_err(|error| error.to_string()).and_then(|store| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        runtime.block_on(async {
            if let Some(shared) = store.shared() {
                shared.connected().await.map_err(|error| error.to_string())?;
            }
            match command {
                Sessions::Export(_) => export(&store, io::stdout()).await,
                Sessions::Import(_) => import(&store, io::stdin().lock()).await,
            }
        })
    });
    match done {
        Ok(count) => {
            tell(std::iter::once(format!("{count} sessions")));
            ExitCode::SUCCESS
        }
        Err(what) => {
            tell(std::iter::once(format!("postern sessions: {what}")));
            ExitCode::FAILURE
        }
    }
}

/// What has expired is left out.
async fn export(store: &Arc<dyn Store>, out: impl Write + Send) -> Result<u64, String> {
    let (mut out, mut count, mut failed) = (BufWriter::new(out), 0, None);
    let mut write = |record: SessionRecord| {
        let written = serde_json::to_writer(&mut out, &Line::of(&record)).map_err(io::Error::from);
        match written.and_then(|()| out.write_all(b"\n")) {
            Ok(()) => count += 1,
            Err(error) => failed = failed.take().or(Some(error)),
        }
    };
    store.load(Clock::system().now(), &mut write).await.map_err(|error| error.to_string())?;
    if let Some(error) = failed.or_else(|| out.flush().err()) {
        return Err(format!("cannot be written: {error}"));
    }
    Ok(count)
}

async fn import(store: &Arc<dyn Store>, lines: impl BufRead) -> Result<u64, String> {
    let (mut count, mut on_their_way) = (0, Vec::with_capacity(PORTION));
    for (n, line) in lines.lines().enumerate() {
        let line = line.map_err(|error| format!("line {}: {error}", n + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        let record = serde_json::from_str::<Line>(&line).map_err(|error| error.to_string());
        let record = record.and_then(Line::record).map_err(|what| format!("line {}: {what}", n + 1))?;
        on_their_way.push(store.put(record));
        count += 1;
        if on_their_way.len() == PORTION {
            settle(&mut on_their_way).await?;
        }
    }
    settle(&mut on_their_way).await.map(|()| count)
}

async fn settle(on_their_way: &mut Vec<store::Pending<'_, ()>>) -> Result<(), String> {
    for put in on_their_way.drain(..) {
        put.await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

impl Line {
    fn of(record: &SessionRecord) -> Self {
        Self {
            id: record.id.to_string(),
            token: hex(&record.token),
            user: record.user.as_str().to_owned(),
            role: record.role.as_str().to_owned(),
            created: record.created.0,
            expires: record.expires.0,
            last_used: record.last_used.0,
            client: record.client,
            adopted: record.adopted.as_ref().map(Rights::to_json),
        }
    }

    fn record(self) -> Result<SessionRecord, String> {
        let hash = |name: &str, text: &str| {
            KeyHash::from_hex(text).ok_or_else(|| format!("{name} must be 64 hexadecimal digits"))
        };
        let rights = |json| {
            Rights::from_json(json).ok_or("adopted must be \"roles\" or resources with their permissions")
        };
        Ok(SessionRecord {
            id: hash("id", &self.id)?,
            token: TokenHash::from_bytes(*hash("token", &self.token)?.as_bytes()),
            user: UserName::new(&self.user),
            role: RoleName::new(&self.role),
            created: UnixMillis(self.created),
            expires: UnixMillis(self.expires),
            client: self.client,
            last_used: UnixMillis(self.last_used),
            adopted: self.adopted.as_ref().map(rights).transpose()?,
        })
    }
}

fn hex(token: &TokenHash) -> String {
    KeyHash::from_bytes(*token.as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(key: &str) -> String {
        let (id, token) = (KeyHash::of(key), KeyHash::of("t"));
        format!(
            r#"{{"id":"{id}","token":"{token}","user":"100@d","role":"user","created":1,"expires":4102444800000,"last_used":2,"client":"2001:db8::7"}}"#
        )
    }

    #[tokio::test]
    async fn what_is_exported_is_what_was_imported() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            SessionSettings { file: Some(folder.path().join("s.db")), ..SessionSettings::default() };
        let store = store::open(&settings).unwrap();
        let text = format!("{}\n\n{}\n", line("a"), line("b"));
        assert_eq!(import(&store, text.as_bytes()).await, Ok(2));
        let mut out = Vec::new();
        assert_eq!(export(&store, &mut out).await, Ok(2));
        let mut lines: Vec<_> = std::str::from_utf8(&out).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        let mut expected = vec![line("a"), line("b")];
        expected.sort();
        assert_eq!(lines, expected);
    }

    #[tokio::test]
    async fn a_line_that_cannot_be_read_is_named() {
        let store = store::open(&SessionSettings::default()).unwrap();
        for bad in
            ["{}", "x", &line("a").replace("\"created\"", "\"made\""), &line("a").replacen('"', "'", 1)]
        {
            let text = format!("{}\n{bad}\n", line("a"));
            let fault = import(&store, text.as_bytes()).await.unwrap_err();
            assert!(fault.starts_with("line 2: "), "{fault}");
        }
        let short = line("a").replacen(&KeyHash::of("a").to_string(), "abc", 1);
        assert!(import(&store, short.as_bytes()).await.unwrap_err().contains("64 hexadecimal digits"));
    }
}
