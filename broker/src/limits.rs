//! File descriptors: as many as the system lets us have, and connections never take the storage's.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Kept for segments, journal, HTTP and what else there is.
const STORAGE_DESCRIPTORS_MIN: u64 = 256;
/// Of these.
pub(crate) const HTTP_CONNECTIONS_MAX: usize = STORAGE_DESCRIPTORS_MIN as usize / 4;

/// Raises the soft limit of open files to the hard one and says how many connections that leaves room for, at most
/// `connections_max`.
pub(crate) fn descriptors_for_connections(connections_max: u32) -> usize {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
    }
    let available = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = connections_for(available, connections_max);
    if connections < connections_max as usize {
        tracing::warn!(
            available,
            connections,
            "few open files are allowed: fewer connections are served at once"
        );
    }
    connections
}

fn connections_for(descriptors: u64, connections_max: u32) -> usize {
    let storage = STORAGE_DESCRIPTORS_MIN.max(descriptors / 4);
    let room = descriptors.saturating_sub(storage).max(1);
    usize::try_from(room).unwrap_or(usize::MAX).min(connections_max as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_storage_keeps_its_descriptors() {
        assert_eq!(connections_for(u64::MAX, 10_000), 10_000);
        assert_eq!(connections_for(1024, 10_000), 768);
        assert_eq!(connections_for(300, 10_000), 44);
        assert_eq!(connections_for(100, 10_000), 1);
    }
}
