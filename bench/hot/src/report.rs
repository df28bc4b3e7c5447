//! What is measured beside what it was.

use std::fmt;

use crate::baseline::{Baseline, Figures};

/// How much more instructions are too many. Runs of one binary differ by less than a hundredth of it.
const TOLERANCE: f64 = 0.10;
/// What lists that grow once in a while may make of an allocation. Half of one in a hundred operations is still one
/// that was not there before.
const GROWTH: f64 = 0.005;

#[derive(Debug)]
pub(crate) struct Report {
    lines: Vec<Line>,
    /// Names of the baseline that nothing has any more.
    gone: Vec<String>,
}

#[derive(Debug)]
struct Line {
    name: &'static str,
    now: Figures,
    before: Option<Figures>,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    /// It takes so much less that the baseline would let a good part of that be lost again.
    Better,
    Slower,
    Allocates,
    Unknown,
}

impl Line {
    fn change(&self) -> Option<f64> {
        self.before.map(|before| self.now.instructions / before.instructions - 1.0)
    }

    fn verdict(&self) -> Verdict {
        let (Some(before), Some(change)) = (self.before, self.change()) else { return Verdict::Unknown };
        if self.now.allocations > before.allocations + GROWTH {
            return Verdict::Allocates;
        }
        match change {
            change if change > TOLERANCE => Verdict::Slower,
            change if change < -TOLERANCE => Verdict::Better,
            _ if self.now.allocations < before.allocations - GROWTH => Verdict::Better,
            _ => Verdict::Same,
        }
    }
}

impl Report {
    /// `whole`: everything was measured, so that what is missing is gone.
    pub(crate) fn new(measured: &[(&'static str, Figures)], baseline: &Baseline, whole: bool) -> Report {
        let line = |(name, now): &(&'static str, Figures)| {
            let before = baseline.0.get(*name).copied();
            Line { name, now: *now, before }
        };
        let lines: Vec<Line> = measured.iter().map(line).collect();
        let known = |name: &String| lines.iter().any(|line| line.name == name);
        let gone = baseline.0.keys().filter(|name| whole && !known(name)).cloned().collect();
        Report { lines, gone }
    }

    /// Whether a change that brings this may not land as it is.
    pub(crate) fn is_worse(&self) -> bool {
        let bad = |line: &Line| !matches!(line.verdict(), Verdict::Same | Verdict::Better);
        !self.gone.is_empty() || self.lines.iter().any(bad)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| one operation | instructions | baseline | change | allocations | baseline | |")?;
        writeln!(f, "| --- | ---: | ---: | ---: | ---: | ---: | --- |")?;
        for line in &self.lines {
            let Figures { instructions, allocations } = line.now;
            write!(f, "| {} | {instructions:.1} |", line.name)?;
            match (line.before, line.change()) {
                (Some(before), Some(change)) => {
                    write!(f, " {:.1} | {:+.1} % |", before.instructions, change * 100.0)?;
                    write!(f, " {allocations:.3} | {:.3} |", before.allocations)?;
                }
                _ => write!(f, " | | {allocations:.3} | |")?,
            }
            let verdict = match line.verdict() {
                Verdict::Same => "",
                Verdict::Better => "less: renew the baseline",
                Verdict::Slower => "**more instructions**",
                Verdict::Allocates => "**more allocations**",
                Verdict::Unknown => "**not in the baseline**",
            };
            writeln!(f, " {verdict} |")?;
        }
        for name in &self.gone {
            writeln!(f, "{name:?} is in the baseline and not measured any more")?;
        }
        if self.is_worse() {
            writeln!(
                f,
                "\nIf this is meant: cargo run --release -p tidings-hot -- --bless, and say in the commit why."
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(now: (f64, f64), before: Option<(f64, f64)>) -> Verdict {
        let figures = |(instructions, allocations)| Figures { instructions, allocations };
        Line { name: "a", now: figures(now), before: before.map(figures) }.verdict()
    }

    #[test]
    fn a_tenth_more_or_an_allocation_more_is_worse() {
        let before = Some((100.0, 1.0));
        assert_eq!(verdict((109.0, 1.0), before), Verdict::Same);
        assert_eq!(verdict((91.0, 1.004), before), Verdict::Same);
        assert_eq!(verdict((111.0, 1.0), before), Verdict::Slower);
        assert_eq!(verdict((50.0, 1.01), before), Verdict::Allocates);
        assert_eq!(verdict((89.0, 1.0), before), Verdict::Better);
        assert_eq!(verdict((100.0, 0.0), before), Verdict::Better);
        assert_eq!(verdict((100.0, 0.0), None), Verdict::Unknown);
    }

    #[test]
    fn what_is_not_measured_any_more_is_worse() {
        let figures = Figures { instructions: 1.0, allocations: 0.0 };
        let baseline = Baseline([("a".to_owned(), figures), ("b".to_owned(), figures)].into());
        assert!(Report::new(&[("a", figures)], &baseline, true).is_worse());
        assert!(!Report::new(&[("a", figures)], &baseline, false).is_worse());
    }
}
