//! Ratios that are committed: figures of one server to those of another, measured side by side.
//!
//! Absolute figures of different machines, or of one that is shared at different times, can't be compared; what two
//! servers reach in turn within a few minutes can. The second one is the measure, and hardly ever changes.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::report;
use crate::results::{Better, Results, Run};
use crate::scenario::SCENARIOS;

const HEAD: &str = "\
# A ratio that is worse than here by more than its tolerance (0.15: 15 %) fails `tidings bench --baseline FILE`;
# --bless writes the ratios anew, and tolerances stay. Whoever does that says in the commit what made them worse, or better.
";

/// The ratios that a file holds, by scenario and figure.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(transparent)]
pub struct Ratios(BTreeMap<String, BTreeMap<String, Committed>>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Committed {
    ratio: f64,
    /// By what part it may be worse.
    tolerance: f64,
}

/// Why there are no ratios to compare with.
#[derive(Debug, thiserror::Error)]
pub enum RatiosError {
    /// The file can't be read.
    #[error("the ratios {} can't be read: {error}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It isn't TOML, or not of this form.
    #[error("the ratios {} are wrong: {what}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What and where.
        what: String,
    },
}

/// A committed ratio beside what was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    scenario: String,
    figure: String,
    committed: Committed,
    better: Better,
    /// Nothing if one of the two has no such figure, or nothing to divide by.
    measured: Option<f64>,
}

impl Ratios {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// When it can't be read or is wrong; the error says where.
    pub fn read(file: &Path) -> Result<Ratios, RatiosError> {
        let text = fs::read_to_string(file)
            .map_err(|error| RatiosError::Unreadable { file: file.to_owned(), error })?;
        Ratios::parse(&text).map_err(|what| RatiosError::Malformed { file: file.to_owned(), what })
    }

    fn parse(text: &str) -> Result<Ratios, String> {
        let ratios: Ratios = toml::from_str(text).map_err(|error| error.to_string())?;
        for (scenario, figures) in &ratios.0 {
            if !SCENARIOS.iter().any(|known| known.name == scenario) {
                return Err(format!("there is no scenario {scenario:?}"));
            }
            for (figure, Committed { ratio, tolerance }) in figures {
                // Neither may be NaN.
                if !(*ratio >= 0.0 && *tolerance >= 0.0) {
                    return Err(format!("{scenario}: {figure:?} takes a ratio and a tolerance from 0 on"));
                }
            }
        }
        Ok(ratios)
    }

    /// The scenarios that it has ratios of, in the order in which they are run.
    pub fn scenarios(&self) -> impl Iterator<Item = &'static str> {
        SCENARIOS.iter().map(|scenario| scenario.name).filter(|name| self.0.contains_key(*name))
    }

    /// Every ratio of the scenarios that were run, beside the first target's figure to the second's.
    pub fn compare(&self, results: &Results) -> Vec<Compared> {
        let mut all = Vec::new();
        for (scenario, figures) in &self.0 {
            let runs: Vec<&Run> = results.runs.iter().filter(|run| run.scenario == *scenario).collect();
            let [first, second, ..] = runs[..] else { continue };
            for (name, committed) in figures {
                let figure = first.figures.iter().find(|figure| figure.name == *name);
                let measured = figure.zip(second.figure(name)).map(|(figure, base)| figure.value / base);
                all.push(Compared {
                    scenario: scenario.clone(),
                    figure: name.clone(),
                    committed: *committed,
                    better: figure.map_or(Better::Neither, |figure| figure.better),
                    measured: measured.filter(|ratio| ratio.is_finite()),
                });
            }
        }
        all
    }

    /// The file's text with what was measured in place of what was committed, and where that was.
    pub fn renewed(&self, compared: &[Compared], results: &Results) -> String {
        let mut ratios = self.0.clone();
        for Compared { scenario, figure, measured, .. } in compared {
            let committed = ratios.get_mut(scenario).and_then(|figures| figures.get_mut(figure));
            if let (Some(committed), Some(measured)) = (committed, measured) {
                committed.ratio = *measured;
            }
        }
        let names: Vec<&str> = results.runs.iter().take(2).map(|run| run.target.as_str()).collect();
        let mut text = format!(
            "# Figures of {}.\n#\n{HEAD}#\n# Measured on: {}.\n",
            names.join(", to those of "),
            report::machine(&results.machine)
        );
        for (scenario, figures) in ratios {
            // Writing to memory doesn't fail.
            let _ = writeln!(text, "\n[{scenario}]");
            for (figure, Committed { ratio, tolerance }) in figures {
                let _ = writeln!(text, "{figure:?} = {{ ratio = {ratio:.3}, tolerance = {tolerance} }}");
            }
        }
        text
    }
}

impl Compared {
    /// Whether both targets have such a figure, of which either more or less is better.
    pub fn is_measured(&self) -> bool {
        self.measured.is_some() && self.better != Better::Neither
    }

    /// Whether it is as good as it has to be.
    pub fn is_good(&self) -> bool {
        let Committed { ratio, tolerance } = self.committed;
        match (self.measured, self.better) {
            (Some(measured), Better::Lower) => measured <= ratio * (1.0 + tolerance),
            (Some(measured), Better::Higher) => measured * (1.0 + tolerance) >= ratio,
            _ => false,
        }
    }
}

impl fmt::Display for Compared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Compared { scenario, figure, committed, better, measured } = self;
        write!(f, "{scenario}, {figure}: ")?;
        match (measured, better) {
            (None, _) => return write!(f, "not measured, {:.3} is committed", committed.ratio),
            (_, Better::Neither) => return write!(f, "neither more nor less of it is better"),
            (Some(measured), _) => write!(f, "{measured:.3}, {:.3} is committed", committed.ratio)?,
        }
        let than = if *better == Better::Lower { "more" } else { "less" };
        write!(f, " (up to {:.0} % {than} is tolerated)", committed.tolerance * 100.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Ratios;
    use crate::report::tests::results;

    /// Of two targets, of which the first takes 4 µs of CPU a delivery and the second 8, and which are alike otherwise.
    const RATIOS: &str = r#"
        [fan-out]
        "CPU a delivery" = { ratio = 0.5, tolerance = 0.1 }
        "latency p50" = { ratio = 0.92, tolerance = 0.1 }
        [idle]
        "memory a connection" = { ratio = 2, tolerance = 0.1 }
    "#;

    fn bad(ratios: &str) -> Vec<String> {
        let compared = Ratios::parse(ratios).unwrap().compare(&results());
        compared.iter().filter(|one| !one.is_good()).map(ToString::to_string).collect()
    }

    #[test]
    fn a_ratio_fails_where_it_is_worse_than_is_tolerated() {
        assert_eq!(bad(RATIOS), [""; 0]);
        assert_eq!(bad(&RATIOS.replace("0.5", "0.6")), [""; 0], "better");
        assert_eq!(
            bad(&RATIOS.replace("0.92", "0.9")),
            ["fan-out, latency p50: 1.000, 0.900 is committed (up to 10 % more is tolerated)"]
        );
        let gone = bad(&RATIOS.replace("latency p50", "latency p42"));
        assert_eq!(gone, ["fan-out, latency p42: not measured, 0.920 is committed"]);
    }

    #[test]
    fn where_more_is_better_less_fails() {
        let mut results = results();
        for run in &mut results.runs {
            for figure in &mut run.figures {
                figure.better = crate::results::Better::Higher;
            }
        }
        let good = |ratio: &str| {
            let ratios = Ratios::parse(&RATIOS.replace("0.5", ratio)).unwrap();
            ratios.compare(&results).iter().all(super::Compared::is_good)
        };
        assert!(good("0.5") && good("0.1") && good("0.54"));
        assert!(!good("0.56"));
    }

    #[test]
    fn a_renewed_file_keeps_its_tolerances_and_what_was_not_run() {
        let ratios = Ratios::parse(RATIOS).unwrap();
        let text = ratios.renewed(&ratios.compare(&results()), &results());
        assert!(text.starts_with("# Figures of Tidings, to those of a & b <c>.\n"), "{text}");
        assert!(text.contains("# Measured on: some, 2 processors"), "{text}");
        let renewed = Ratios::parse(&text).unwrap();
        assert_eq!(renewed, Ratios::parse(&RATIOS.replace("0.92", "1.0")).unwrap());
        assert_eq!(ratios.scenarios().collect::<Vec<_>>(), ["fan-out", "idle"]);
    }

    #[test]
    fn mistakes_are_said() {
        let wrong = |text: &str| Ratios::parse(text).unwrap_err();
        assert!(wrong("[fast]\nx = { ratio = 1, tolerance = 1 }").contains("no scenario \"fast\""));
        assert!(wrong(&RATIOS.replace("tolerance = 0.1", "tolerance = -1")).contains("tolerance from 0 on"));
        assert!(wrong(&RATIOS.replace("ratio = 2", "ration = 2")).contains("ration"));
    }
}
