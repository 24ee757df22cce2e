//! What is asked of the system for the process: no copy of its memory on disk, descriptors enough.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io;

/// Of a connection to the gateway: its client's, and the upstream's that serves it.
const DESCRIPTORS_EACH: u64 = 2;
/// Listeners, runtimes, logs, the store.
const DESCRIPTORS_BESIDE: u64 = 256;

/// Tokens, keys and passwords are in memory: it goes to no core file, and nobody but root may look into it. The limit
/// alone would not do, a collector of core dumps that the kernel pipes them to disregards it.
///
/// # Errors
/// The system refuses.
pub fn hide_memory() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Takes as many descriptors as may be had, and says when they are too few for `limits.max_connections`.
pub(super) fn raise_descriptors(max_connections: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let limit = getrlimit(Resource::Nofile).current;
    if let Some(limit) = limit
        && limit < descriptors_for(max_connections)
    {
        tracing::warn!(
            limit,
            needed = descriptors_for(max_connections),
            "too few open files are allowed for limits.max_connections = {max_connections}; raise the hard limit \
             (LimitNOFILE=, ulimit -Hn) or lower max_connections"
        );
    }
}

fn descriptors_for(max_connections: usize) -> u64 {
    let connections = u64::try_from(max_connections).unwrap_or(u64::MAX);
    connections.saturating_mul(DESCRIPTORS_EACH).saturating_add(DESCRIPTORS_BESIDE)
}
