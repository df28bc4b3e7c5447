//! What it took before.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// What one operation takes.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figures {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
}

/// The figures that are committed.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct Baseline(pub(crate) BTreeMap<String, Figures>);

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/baseline.toml");

const HEAD: &str = "\
# What one operation takes, in instructions and allocations: read and written by tidings-hot.
#
#     cargo run --release -p tidings-hot -- --bless
#
# Whoever renews this says in the commit why it takes more, or what made it less.

";

impl Baseline {
    pub(crate) fn read() -> Result<Baseline> {
        if !Path::new(FILE).exists() {
            return Ok(Baseline::default());
        }
        let text = fs::read_to_string(FILE).context(FILE)?;
        toml::from_str(&text).context(FILE)
    }

    /// Makes this the baseline.
    pub(crate) fn bless(measured: &[(&str, Figures)]) -> Result<()> {
        let mut text = HEAD.to_owned();
        for (name, Figures { instructions, allocations }) in measured {
            writeln!(
                text,
                "{name:?} = {{ instructions = {instructions:.1}, allocations = {allocations:.3} }}"
            )?;
        }
        fs::write(FILE, text).context(FILE)
    }
}
