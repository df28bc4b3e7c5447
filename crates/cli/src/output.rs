//! The standard output, for what other programs read.

use std::io::{ErrorKind, Write, stdout};

use anyhow::Result;

use crate::outcome::ReaderGone;

/// Prints a line at once. When whoever reads the output is gone (`| head -1`) there is nothing left to do.
pub(crate) fn line(text: &str) -> Result<()> {
    let mut out = stdout().lock();
    let written =
        out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => Ok(written?),
    }
}
