//! Results for people and programs: tables, documents, plots, JSON.

mod classic;
mod format;
mod markdown;
mod plot;
mod table;

use crate::results::{Machine, Results, Run};

pub use classic::{classic, classic_markdown};
pub use markdown::markdown;
pub use plot::plots;
pub use table::table;

/// The results as JSON, as they are.
pub fn json(results: &Results) -> String {
    // Nothing in them has keys that are no strings.
    serde_json::to_string_pretty(results).unwrap_or_default()
}

/// A line about the machine.
pub(crate) fn machine(machine: &Machine) -> String {
    format::machine(machine)
}

/// The runs of each scenario, in the order in which they ran.
fn by_scenario(results: &Results) -> Vec<(&str, Vec<&Run>)> {
    let mut scenarios: Vec<(&str, Vec<&Run>)> = Vec::new();
    for run in &results.runs {
        match scenarios.iter_mut().find(|(name, _)| *name == run.scenario) {
            Some((_, runs)) => runs.push(run),
            None => scenarios.push((&run.scenario, vec![run])),
        }
    }
    scenarios
}

/// The names of all figures of some runs, in the order in which they come.
fn figure_names<'a>(runs: &[&'a Run]) -> Vec<&'a str> {
    let mut names = Vec::new();
    for figure in runs.iter().flat_map(|run| &run.figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(figure.name.as_str());
        }
    }
    names
}

#[cfg(test)]
pub(crate) mod tests {
    use crate::results::{Axis, Figure, Machine, Results, Run, Series, Unit};
    use crate::target::Transport;

    /// Two targets, one of them with a loss, and a run that could not be made.
    pub(crate) fn results() -> Results {
        let run = |target: &str, cpu: f64| Run {
            scenario: "fan-out".to_owned(),
            title: "1,000 subscribers".to_owned(),
            target: target.to_owned(),
            transport: Transport::Sse,
            figures: vec![
                Figure::lower("CPU a delivery", cpu, Unit::Micros),
                Figure::lower("memory", 52e6, Unit::Bytes),
                Figure::lower("CPU", 0.12, Unit::Cores),
                Figure::lower("latency p50", 870.0, Unit::Micros),
                Figure::lower("latency p99", 3400.0, Unit::Micros),
            ],
            series: vec![Series {
                plot: "latency over load".to_owned(),
                line: "p99".to_owned(),
                x: Axis { label: "events a second".to_owned(), unit: Unit::PerSecond },
                y: Axis { label: "latency".to_owned(), unit: Unit::Micros },
                points: vec![(10.0, 200.0), (100.0, 400.0), (1000.0, 90_000.0)],
            }],
            violations: Vec::new(),
            notes: Vec::new(),
            failed: None,
        };
        let mut lossy = run("a & b <c>", 8.0);
        lossy.violations.push("3 missing".to_owned());
        let failed =
            Run { figures: Vec::new(), series: Vec::new(), failed: Some("no".to_owned()), ..run("x", 0.0) };
        let machine = Machine {
            processor: "some".to_owned(),
            cores: 2,
            memory: 8 << 30,
            kernel: "6.1".to_owned(),
            server_cpus: Some("0".to_owned()),
            client_cpus: None,
        };
        Results { machine, runs: vec![run("Tidings", 4.0), lossy, failed] }
    }
}
