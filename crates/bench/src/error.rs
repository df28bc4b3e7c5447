//! Why a scenario could not be run.

use std::io;

/// Why a scenario could not be run. The texts say what to do where something can be done.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The server did not start, or not listen.
    #[error("{target} can't be measured: {what}")]
    Server {
        /// The target's name.
        target: String,
        /// What happened.
        what: String,
    },
    /// The scenario asks for something that this target does not have.
    #[error("{0}")]
    Unsupported(String),
    /// Subscribers could not connect, or a client process failed.
    #[error("{0}")]
    Clients(String),
    /// Publishing failed.
    #[error("publishing fails: {0}")]
    Publish(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl BenchError {
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> BenchError {
        move |source| BenchError::System { what, source }
    }
}
