//! The program: everything is in the library, `src/lib.rs` is its map.

use clap::Parser;
use postern::cli::Cli;
use std::process::ExitCode;

fn main() -> ExitCode {
    Cli::parse().run()
}
