//! How a command ends: 0 done, 1 failed, 2 wrong usage or a mistake in the configuration.

use std::fmt;
use std::process::ExitCode;

use anyhow::Result;

use crate::config::Mistakes;

/// What was typed can't be done.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Nobody reads the output any more, which is no failure.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output any more")
    }
}

impl std::error::Error for ReaderGone {}

/// Says what went wrong and gives the exit code.
pub(crate) fn report(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if error.is::<ReaderGone>() {
        return ExitCode::SUCCESS;
    }
    eprintln!("tidings: {error:#}");
    if error.is::<Usage>() || error.is::<Mistakes>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}
