//! `postern healthcheck`: for container probes in an image without a shell.

use clap::Args;
use std::net::SocketAddr;
use std::process::ExitCode;

use super::admin_client::AdminClient;
use super::tell;

#[derive(Args)]
pub(super) struct Healthcheck {
    /// Where the admin listener is
    #[arg(long, value_name = "ADDR", env = "POSTERN_LISTEN__ADMIN", default_value = "127.0.0.1:9900")]
    admin: SocketAddr,
    /// Whether the process works, ready or not: for liveness, so that a drain or a start is not ended by a restart
    #[arg(long)]
    live: bool,
}

/// Says nothing when all is well.
pub(super) fn run(args: &Healthcheck) -> ExitCode {
    let (path, state) = if args.live { ("/healthz", "live") } else { ("/readyz", "ready") };
    let told = match (AdminClient { addr: args.admin, token: None }).ask("GET", path, None) {
        Ok(answer) if answer.status == 200 => return ExitCode::SUCCESS,
        Ok(answer) => answer.info(),
        Err(error) => format!("{} does not answer: {error}", args.admin),
    };
    tell(std::iter::once(format!("postern healthcheck: not {state}: {told}")));
    ExitCode::FAILURE
}
