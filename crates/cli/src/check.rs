//! `tidings check`: is this configuration right, and what comes out of it?

use anyhow::Result;

use crate::args;
use crate::config::{Config, Sources};
use crate::output;

pub(crate) fn run(args: &args::Configured) -> Result<()> {
    let config = Config::check(Sources::gather(args.config.as_deref(), args.flags())?)?;
    // The files that it names are read too.
    config.auth.open(None)?;
    output::line(config.effective().trim_end())
}
