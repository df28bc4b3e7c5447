//! How many files the process may have open: every connection is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::info;

/// What is open besides connections: the log's files, listeners, epolls, and room for requests that are no streams.
const OTHERS: u64 = 256;

/// Takes as many as the system lets a process take by itself: the default of most systems is 1,024, for the sake of old
/// programs that use `select`. Says so when that is less than what is `wanted` for connections.
pub(crate) fn raise(wanted: Option<usize>) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    if let (Some(now), Some(connections)) = (now, wanted)
        && now < connections as u64 + OTHERS
    {
        info!(
            open_files = now,
            connections,
            "the system allows fewer open files than [limits] connections; raise `ulimit -Hn` to use them all"
        );
    }
}
