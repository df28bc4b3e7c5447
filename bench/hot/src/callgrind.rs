//! Runs a benchmark under callgrind.

use std::env;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::baseline::Figures;
use crate::meter::COUNTED;

/// glibc copies and clears what is long with one instruction for all of it, which callgrind counts once for each byte.
const COPIES: &str =
    "glibc.cpu.x86_rep_movsb_threshold=0x40000000:glibc.cpu.x86_rep_stosb_threshold=0x40000000";

/// What one operation of a benchmark takes.
pub(crate) fn figures(name: &str) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let counts = folder.path().join("callgrind.out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(env::current_exe()?)
        .args(["--run", name])
        .env("GLIBC_TUNABLES", COPIES)
        .output()
        .context("valgrind is needed, as Debian has it")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}: {said}", output.status);
    let counts = fs::read_to_string(&counts).with_context(|| format!("{name}: no counts: {said}"))?;
    let instructions = counts.lines().find_map(|line| line.strip_prefix("totals: "));
    let instructions: u64 = instructions.context("callgrind counted nothing")?.trim().parse()?;
    ensure!(instructions > 0, "{name}: callgrind found nothing to count; is the binary stripped?");
    let done = String::from_utf8(output.stdout)?;
    let (operations, allocations) = done.trim().split_once(' ').context("the benchmark said nothing")?;
    let operations: f64 = operations.parse()?;
    let allocations: f64 = allocations.parse()?;
    Ok(Figures { instructions: instructions as f64 / operations, allocations: allocations / operations })
}
