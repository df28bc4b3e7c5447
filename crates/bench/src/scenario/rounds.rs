//! Several rounds of one run, as one.

use crate::results::{Figure, Run, Series};

/// The median of each figure and of each point of a line; all that went wrong or is to be said in any round. Nothing
/// for no rounds.
pub(super) fn joined(rounds: Vec<Run>) -> Option<Run> {
    let mut run = rounds.first()?.clone();
    run.figures = figures(&rounds);
    for series in &mut run.series {
        let same = |other: &&Series| (&other.plot, &other.line) == (&series.plot, &series.line);
        let others: Vec<&Series> = rounds.iter().filter_map(|round| round.series.iter().find(same)).collect();
        for (at, point) in series.points.iter_mut().enumerate() {
            point.1 = median(others.iter().filter_map(|other| other.points.get(at)).map(|(_, y)| *y));
        }
    }
    for round in rounds.into_iter().skip(1) {
        run.violations.extend(round.violations);
        for note in round.notes {
            if !run.notes.contains(&note) {
                run.notes.push(note);
            }
        }
    }
    Some(run)
}

/// Those that any round has, in the order in which they come.
fn figures(rounds: &[Run]) -> Vec<Figure> {
    let mut figures: Vec<Figure> = Vec::new();
    for figure in rounds.iter().flat_map(|round| &round.figures) {
        if !figures.iter().any(|known| known.name == figure.name) {
            let value = median(rounds.iter().filter_map(|round| round.figure(&figure.name)));
            figures.push(Figure { value, ..figure.clone() });
        }
    }
    figures
}

/// The value in the middle; of an even number, the mean of the two that are.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        Some(upper) if values.len().is_multiple_of(2) => f64::midpoint(values[middle - 1], *upper),
        Some(value) => *value,
        None => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::joined;
    use crate::results::{Axis, Figure, Run, Series, Unit};
    use crate::target::Transport;

    fn round(cpu: f64, points: &[f64], note: &str) -> Run {
        let axis = Axis { label: String::new(), unit: Unit::Count };
        Run {
            scenario: "load".to_owned(),
            title: String::new(),
            target: String::new(),
            transport: Transport::Sse,
            figures: vec![Figure::lower("CPU", cpu, Unit::Cores)],
            series: vec![Series {
                plot: "latency over load".to_owned(),
                line: "p99".to_owned(),
                x: axis.clone(),
                y: axis,
                points: points.iter().enumerate().map(|(at, y)| (at as f64, *y)).collect(),
            }],
            violations: vec![format!("{cpu} lost")],
            notes: vec!["always".to_owned(), note.to_owned()],
            failed: None,
        }
    }

    #[test]
    fn of_an_even_number_the_mean_of_the_middle_counts() {
        let rounds = [9.0, 1.0, 2.0, 4.0].map(|cpu| round(cpu, &[], "")).to_vec();
        assert_eq!(joined(rounds).unwrap().figure("CPU"), Some(3.0));
        let rounds = [9.0, 1.0, 2.0].map(|cpu| round(cpu, &[], "")).to_vec();
        assert_eq!(joined(rounds).unwrap().figure("CPU"), Some(2.0));
        assert!(joined(Vec::new()).is_none());
    }

    #[test]
    fn every_point_has_its_median_and_nothing_said_is_lost() {
        let mut last = round(3.0, &[30.0, 9.0], "late");
        last.figures.push(Figure::lower("live p99", 7.0, Unit::Micros));
        let run =
            joined(vec![round(1.0, &[10.0, 8.0], "busy"), round(2.0, &[20.0, 1.0], "busy"), last]).unwrap();
        assert_eq!(run.series[0].points, [(0.0, 20.0), (1.0, 8.0)]);
        assert_eq!(run.notes, ["always", "busy", "late"]);
        assert_eq!(run.violations, ["1 lost", "2 lost", "3 lost"]);
        assert_eq!((run.figure("CPU"), run.figure("live p99")), (Some(2.0), Some(7.0)));
    }
}
