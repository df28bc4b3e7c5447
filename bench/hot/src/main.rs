//! Counts the instructions and allocations of the hot path, and compares them with what they were.
//!
//! Instructions are the same on a busy machine and an idle one, so a check of them can be strict where one of time
//! can't. Each benchmark runs in a process of its own under callgrind, which counts only what [`meter::Meter::count`]
//! is given: neither the preparation nor the kernel.

mod baseline;
mod benchmark;
mod callgrind;
mod meter;
mod report;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;

use self::baseline::{Baseline, Figures};
use self::benchmark::Benchmark;
use self::meter::Meter;
use self::report::Report;

/// Counts the instructions and allocations of the hot path.
#[derive(Debug, Parser)]
#[command(name = "tidings-hot")]
struct Args {
    /// Fail if anything takes over 10 % more instructions than the baseline says, or allocates more.
    #[arg(long)]
    check: bool,
    /// Write what is measured to the baseline.
    #[arg(long, conflicts_with = "check")]
    bless: bool,
    /// Measure only what has this in its name.
    #[arg(long, value_name = "TEXT", conflicts_with = "bless")]
    only: Option<String>,
    /// Do one benchmark, in this process; what is measured runs so.
    #[arg(long, value_name = "NAME")]
    run: Option<String>,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let mut out = io::stdout();
    if let Some(name) = &args.run {
        let benchmark = benchmark::all().find(|benchmark| benchmark.name == name);
        let meter = run(benchmark.context("there is no such benchmark")?);
        writeln!(out, "{} {}", meter.operations, meter.allocations)?;
        return Ok(ExitCode::SUCCESS);
    }
    let only = args.only.as_deref().unwrap_or_default();
    let chosen: Vec<_> = benchmark::all().filter(|benchmark| benchmark.name.contains(only)).collect();
    let measured = measure(&chosen)?;
    if args.bless {
        Baseline::bless(&measured)?;
    }
    let baseline = Baseline::read()?;
    let report = Report::new(&measured, &baseline, args.only.is_none());
    write!(out, "{report}")?;
    Ok(if args.check && report.is_worse() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Does one benchmark.
fn run(benchmark: &Benchmark) -> Meter {
    let mut meter = Meter::default();
    let mut once = (benchmark.prepare)();
    for _ in 0..benchmark.warm_up {
        once(&mut meter);
    }
    meter.switch_on();
    for _ in 0..benchmark.rounds {
        once(&mut meter);
    }
    meter
}

/// Does all, as many at a time as there are cores: they don't disturb each other's counts.
fn measure(benchmarks: &[&'static Benchmark]) -> Result<Vec<(&'static str, Figures)>> {
    let results: Vec<_> = benchmarks.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((benchmark, result)) = benchmarks.get(at).zip(results.get(at)) else { return };
                    if let Ok(mut result) = result.lock() {
                        *result = Some(callgrind::figures(benchmark.name));
                    }
                }
            });
        }
    });
    let results = results.into_iter().map(|result| result.into_inner().ok().flatten());
    benchmarks
        .iter()
        .zip(results)
        .map(|(benchmark, figures)| Ok((benchmark.name, figures.context("a benchmark panicked")??)))
        .collect()
}
