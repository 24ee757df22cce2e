//! The program: everything is in the library, `src/lib.rs` is its map.

use clap::Parser;
use postern::cli::Cli;
use std::process::ExitCode;

/// A request allocates some thirty times, on the thread that frees it again: what an allocator with heaps of each
/// thread's own is made for.
#[cfg(not(feature = "wipe"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The same, and what is freed is wiped first: passwords went through buffers that are not ours.
#[cfg(feature = "wipe")]
#[global_allocator]
static ALLOCATOR: zeroizing_alloc::ZeroAlloc<mimalloc::MiMalloc> =
    zeroizing_alloc::ZeroAlloc(mimalloc::MiMalloc);

fn main() -> ExitCode {
    Cli::parse().run()
}
