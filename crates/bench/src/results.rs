//! What was measured, in one shape for every scenario, so that tables, plots and documents need to know none of them.

use serde::Serialize;

use crate::target::{Target, Transport};

/// All that one call of the benchmark measured.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Where.
    pub machine: Machine,
    /// Each scenario with each target, in the order in which they ran.
    pub runs: Vec<Run>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name.
    pub processor: String,
    /// How many processors the system shows.
    pub cores: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The processors that servers ran on, as `taskset` lists them, if they were pinned.
    pub server_cpus: Option<String>,
    /// The same of the clients.
    pub client_cpus: Option<String>,
}

/// One scenario with one target.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// The scenario's name: `fan-out`.
    pub scenario: String,
    /// What was done, in a line: "10,000 subscribers of one channel, 10 events/s of 200 bytes, 10 s".
    pub title: String,
    /// The target's name.
    pub target: String,
    /// How its subscribers got events.
    pub transport: Transport,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// Lines for plots.
    pub series: Vec<Series>,
    /// What went wrong with events: a gap, a double, disorder. A run that has any has failed.
    pub violations: Vec<String>,
    /// What to know when reading the figures.
    pub notes: Vec<String>,
    /// Why there are no figures, if it could not be run.
    pub failed: Option<String>,
}

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// "latency p99", "CPU a delivery"; the same for every target.
    pub name: String,
    /// The median of the rounds.
    pub value: f64,
    /// Of what.
    pub unit: Unit,
    /// Which direction is good.
    pub better: Better,
}

/// What a figure or an axis counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Things.
    Count,
    /// Things a second.
    PerSecond,
    /// Microseconds.
    Micros,
    /// Bytes.
    Bytes,
    /// A share of one core, where 1 is all of it.
    Cores,
    /// One thing for each other thing.
    Ratio,
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// Less is.
    Lower,
    /// More is.
    Higher,
    /// Neither: it says what was done.
    Neither,
}

/// A line of a plot. Lines of one plot, of all targets, are drawn together.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The plot's title: "latency over load".
    pub plot: String,
    /// What tells this line from others of the same target: "p99". May be empty.
    pub line: String,
    /// The horizontal axis: "events a second".
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
}

/// An axis.
#[derive(Debug, Clone, Serialize)]
pub struct Axis {
    /// What it shows.
    pub label: String,
    /// In what.
    pub unit: Unit,
}

impl Figure {
    /// A figure of which less is better.
    pub fn lower(name: &str, value: f64, unit: Unit) -> Figure {
        Figure { name: name.to_owned(), value, unit, better: Better::Lower }
    }

    /// A figure of which more is better.
    pub fn higher(name: &str, value: f64, unit: Unit) -> Figure {
        Figure { name: name.to_owned(), value, unit, better: Better::Higher }
    }

    /// A figure that says what was done.
    pub fn neither(name: &str, value: f64, unit: Unit) -> Figure {
        Figure { name: name.to_owned(), value, unit, better: Better::Neither }
    }
}

impl Run {
    /// With nothing in it yet.
    pub(crate) fn empty(target: &Target) -> Run {
        Run {
            scenario: String::new(),
            title: String::new(),
            target: target.name.clone(),
            transport: target.transport,
            figures: Vec::new(),
            series: Vec::new(),
            violations: Vec::new(),
            notes: Vec::new(),
            failed: None,
        }
    }

    /// A figure's value, by its name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|figure| figure.name == name).map(|figure| figure.value)
    }

    /// Whether every event came once and in order, as far as was looked.
    pub fn is_good(&self) -> bool {
        self.failed.is_none() && self.violations.is_empty()
    }
}
