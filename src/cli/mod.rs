//! The command line (contract section 1): one file a subcommand where it is more than a call. Reads no file and starts
//! nothing itself; results go to standard output, everything else to standard error.

mod admin_client;
pub mod demo;
mod explain;
mod healthcheck;
mod replay;
mod sessions;
mod token;

use clap::{Args, Parser, Subcommand};
use std::io::{self, IsTerminal, Read, Write};
use std::iter;
use std::path::PathBuf;
use std::process::ExitCode;
use zeroize::Zeroizing;

use crate::app;
use crate::config::{self, Fault, Loaded, Source};
use crate::directory::password;
use crate::secret::SecretString;
use crate::server::inherited::Inherited;

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
    #[command(after_help = "Example:\n  postern run --config /etc/postern/postern.toml\n\n\
        Exit codes: 0 drained and ended, 1 failed while running, 2 wrong usage or configuration.")]
    Run(Config),
    /// Run the gateway with a certificate, users and a backend of its own; nothing to prepare
    #[command(
        after_help = "Example:\n  postern demo\n\nPrints the curl calls that show it at work; Ctrl-C ends it."
    )]
    Demo,
    /// Load and check everything that `run` would; exit 2 with every fault
    #[command(after_help = "Example:\n  postern check --config /etc/postern/postern.toml\n\n\
        A fault is told as `file:line: key: what is wrong and what would be right`.")]
    Check(Config),
    /// Read a password from standard input and print its argon2id hash for the user file
    #[command(after_help = "Examples:\n  postern hash-password\n  postern hash-password < password.txt\n\n\
        On a terminal it asks, without echo. The end of the line does not belong to the password.")]
    HashPassword,
    /// Move sessions between stores
    #[command(
        subcommand,
        after_help = "Example:\n  postern sessions export --config old.toml | postern sessions import --config new.toml"
    )]
    Sessions(sessions::Sessions),
    /// Make domain tokens
    #[command(
        subcommand,
        after_help = "Example:\n  postern token mint --domain mydomain.com --role user --expires 90d"
    )]
    Token(token::Token),
    /// Say why a request of some role would be allowed or refused
    #[command(after_help = "Examples:\n  postern explain --role user GET /api/v2/cdr/1\n  \
        postern explain --role user --user 100@mydomain.com PUT '/api/v2/accounts/100?domain=mydomain.com'\n\n\
        Exit codes: 0 explained, whatever the decision; 2 wrong usage or configuration.")]
    Explain(explain::Explain),
    /// Decide recorded requests again under this configuration and print what would change
    #[command(
        after_help = "Examples:\n  postern replay --config new/postern.toml access.log access.log.1.gz\n  \
        postern replay --config new/postern.toml --fail-on-change access.log\n\n\
        Exit codes: 0 done, 1 with --fail-on-change when any decision would change, 2 wrong usage or configuration."
    )]
    Replay(replay::Replay),
    /// Ask a running gateway whether it is ready: exit 0, else 1
    #[command(
        after_help = "Examples:\n  postern healthcheck\n  postern healthcheck --live --admin 127.0.0.1:9900"
    )]
    Healthcheck(healthcheck::Healthcheck),
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
            Command::Sessions(command) => sessions::run(command),
            Command::Token(command) => token::run(command),
            Command::Explain(args) => explain::run(args),
            Command::Replay(args) => replay::run(args),
            Command::Healthcheck(args) => healthcheck::run(&args),
        }
    }
}

fn run(config: Option<PathBuf>) -> ExitCode {
    // First of all: it changes the environment.
    let inherited = match Inherited::from_process() {
        Ok(inherited) => inherited,
        Err(fault) => return wrong_usage("run", &fault.to_string()),
    };
    // Before the first secret is read.
    if let Err(error) = app::process::hide_memory() {
        tell(iter::once(format!("postern run: memory may be written to core files: {error}")));
    }
    let source = Source::from_process(config);
    match config::load(&source) {
        Ok(loaded) => app::run(source, loaded, inherited),
        Err(refused) => wrong(&refused.faults),
    }
}

fn check(config: Option<PathBuf>) -> ExitCode {
    let loaded = match config::load(&Source::from_process(config)) {
        Ok(loaded) => loaded,
        Err(refused) => return wrong(&refused.faults),
    };
    tell(loaded.warnings.iter().map(|warning| format!("warning: {warning}")));
    let config::Settings { access, directory, upstreams, .. } = &loaded.settings;
    let (routes, roles) = (access.routes.len(), access.roles.len());
    print(&format!(
        "ok: {routes} routes, {roles} roles, {} users, {} upstreams",
        directory.users.len(),
        upstreams.len()
    ))
}

/// The configuration that a command works with; its warnings are `check`'s to tell.
fn with_config(config: Option<PathBuf>) -> Result<Loaded, ExitCode> {
    config::load(&Source::from_process(config)).map_err(|refused| wrong(&refused.faults))
}

fn wrong_usage(command: &str, what: &str) -> ExitCode {
    tell(iter::once(format!("postern {command}: {what}")));
    ExitCode::from(WRONG)
}

fn wrong(faults: &[Fault]) -> ExitCode {
    tell(faults.iter().map(ToString::to_string));
    ExitCode::from(WRONG)
}

/// Lines on standard error. When nobody reads there, there is nobody to tell.
fn tell(lines: impl Iterator<Item = String>) {
    let mut stderr = io::stderr().lock();
    for line in lines {
        let _: io::Result<()> = writeln!(stderr, "{line}");
    }
}

/// A result on standard output; failing when nobody takes it.
fn print(line: &str) -> ExitCode {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn hash_password() -> ExitCode {
    match read_password().and_then(|password| password::hash(&password)) {
        Ok(hash) => print(&hash),
        Err(what) => {
            tell(iter::once(format!("postern hash-password: {what}")));
            ExitCode::from(WRONG)
        }
    }
}

/// Without echo on a terminal.
fn read_password() -> Result<SecretString, String> {
    let cannot = |error: io::Error| format!("the password cannot be read: {error}");
    let line = if io::stdin().is_terminal() {
        // Standard output is for the hash alone.
        tell_prompt("Password: ");
        Zeroizing::new(rpassword::read_password().map_err(cannot)?)
    } else {
        let mut text = Zeroizing::new(String::new());
        io::stdin().read_to_string(&mut text).map_err(cannot)?;
        text
    };
    match without_line_end(&line) {
        "" => Err("the password is empty".to_owned()),
        password => Ok(SecretString::from(password)),
    }
}

fn tell_prompt(prompt: &str) {
    let mut stderr = io::stderr();
    let _: io::Result<()> = stderr.write_all(prompt.as_bytes()).and_then(|()| stderr.flush());
}

/// Without one line feed, or carriage return and line feed, at the end.
fn without_line_end(line: &str) -> &str {
    line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_subcommand_has_an_example_that_is_a_call_of_it() {
        let mut cli = Cli::command();
        cli.build();
        let names: Vec<_> = cli.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
        assert_eq!(
            names,
            [
                "run",
                "demo",
                "check",
                "hash-password",
                "sessions",
                "token",
                "explain",
                "replay",
                "healthcheck",
                "help"
            ]
        );
        for sub in cli.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let (name, help) = (sub.get_name().to_owned(), sub.render_long_help().to_string());
            assert!(help.contains("Example") && help.contains(&format!("\n  postern {name}")), "{help}");
        }
    }

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["postern", "check", "--config", "a"]).is_ok());
        for wrong in [
            &["postern", "check", "--config"][..],
            &["postern", "run", "x"],
            &["postern", "no"],
            &["postern"],
        ] {
            assert_eq!(Cli::try_parse_from(wrong).err().unwrap().exit_code(), 2, "{wrong:?}");
        }
    }

    #[test]
    fn one_line_end_does_not_belong_to_a_password() {
        for (line, password) in
            [("a\n", "a"), ("a\r\n", "a"), ("a", "a"), ("a\n\n", "a\n"), (" a \n", " a "), ("\n", "")]
        {
            assert_eq!(without_line_end(line), password);
        }
    }
}
