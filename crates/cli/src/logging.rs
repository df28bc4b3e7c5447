//! The process's own log, on the standard error: for people on a terminal, JSON otherwise.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat};

/// Begins to log as configured.
pub(crate) fn start(config: &Config) {
    let human = match config.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt()
        .with_writer(stderr)
        .with_env_filter(EnvFilter::new(&config.log_filter.0))
        .with_target(false);
    if human {
        builder.with_ansi(stderr().is_terminal()).init();
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
}
