//! The command line (contract section 1): one file a subcommand where it is more than a call.

pub mod demo;

use clap::{Args, Parser, Subcommand};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::app;
use crate::config::{self, Fault, Loaded, Source};
use crate::directory::password;
use crate::secret::{ExposeSecret, SecretString};

/// Wrong usage or configuration.
const WRONG: u8 = 2;

/// An authentication gateway in front of Webitel and other HTTP backends.
#[derive(Parser)]
#[command(name = "postern", version, about, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway in the foreground; SIGTERM or SIGINT drains it
    #[command(after_help = "Example:\n  postern run --config /etc/postern/postern.toml")]
    Run(Config),
    /// Run the gateway with a certificate, users and a backend of its own; nothing to prepare
    #[command(after_help = "Example:\n  postern demo")]
    Demo,
    /// Load and check everything that `run` would; exit 2 with every fault
    #[command(after_help = "Example:\n  postern check --config /etc/postern/postern.toml")]
    Check(Config),
    /// Read a password from standard input and print its argon2id hash for the user file
    #[command(after_help = "Example:\n  postern hash-password < password.txt")]
    HashPassword,
}

#[derive(Args)]
struct Config {
    /// The configuration [default: $POSTERN_CONFIG, else /etc/postern/postern.toml]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Cli {
    /// Carries the command out.
    #[must_use]
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Run(Config { config }) => run(config),
            Command::Demo => demo::run(),
            Command::Check(Config { config }) => check(config),
            Command::HashPassword => hash_password(),
        }
    }
}

fn load(config: Option<PathBuf>) -> Result<Loaded, ExitCode> {
    config::load(&Source::from_process(config)).map_err(|faults| wrong(&faults))
}

fn wrong(faults: &[Fault]) -> ExitCode {
    faults.iter().for_each(|fault| eprintln!("{fault}"));
    ExitCode::from(WRONG)
}

fn run(config: Option<PathBuf>) -> ExitCode {
    match load(config) {
        Ok(loaded) if !loaded.unsupported.is_empty() => wrong(&loaded.unsupported),
        Ok(loaded) => app::run(loaded),
        Err(code) => code,
    }
}

fn check(config: Option<PathBuf>) -> ExitCode {
    let loaded = match load(config) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    loaded.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    loaded.unsupported.iter().for_each(|later| eprintln!("warning: {later}; run refuses it"));
    let config::Settings { access, users, upstreams, .. } = &loaded.settings;
    println!(
        "ok: {} routes, {} roles, {} users, {} upstreams",
        access.routes.len(),
        access.roles.len(),
        users.len(),
        upstreams.len()
    );
    ExitCode::SUCCESS
}

fn hash_password() -> ExitCode {
    match read_password().and_then(|password| password::hash(&password)) {
        Ok(hash) => {
            println!("{hash}");
            ExitCode::SUCCESS
        }
        Err(what) => {
            eprintln!("postern hash-password: {what}");
            ExitCode::from(WRONG)
        }
    }
}

/// Without its line's end, and without echo on a terminal.
fn read_password() -> Result<SecretString, String> {
    let password = if std::io::stdin().is_terminal() {
        rpassword::prompt_password("Password: ").map_err(|error| error.to_string())?
    } else {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| format!("the password cannot be read: {error}"))?;
        text
    };
    let password = SecretString::from(password);
    let text = password.expose_secret();
    let text = text.strip_suffix('\n').map_or(text, |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() {
        return Err("the password is empty".to_owned());
    }
    Ok(SecretString::from(text))
}
