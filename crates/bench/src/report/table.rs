//! Tables for a terminal.

use super::{by_scenario, figure_names, format};
use crate::results::{Results, Run};

/// So many targets have a column each; of more, each has a row.
const COLUMNS: usize = 4;

/// All results as text.
pub fn table(results: &Results) -> String {
    let mut text = String::new();
    for (scenario, runs) in by_scenario(results) {
        let title = runs.iter().find(|run| run.failed.is_none()).unwrap_or(&runs[0]).title.as_str();
        text.push_str(&format!("{scenario}: {title}\n"));
        let done: Vec<&Run> = runs.iter().copied().filter(|run| run.failed.is_none()).collect();
        if !done.is_empty() {
            let rows = if done.len() > COLUMNS { a_row_each(&done) } else { a_column_each(&done) };
            text.push_str(&aligned(&rows));
        }
        for run in &runs {
            for line in remarks(run) {
                text.push_str(&format!("  {}: {line}\n", run.target));
            }
        }
        text.push('\n');
    }
    text.push_str(&format::machine(&results.machine));
    text.push('\n');
    text
}

/// What is to be said of a run beside its figures.
pub(super) fn remarks(run: &Run) -> Vec<String> {
    let failed = run.failed.iter().map(|why| format!("FAILED: {why}"));
    let violations = run.violations.iter().map(|what| format!("VIOLATION: {what}"));
    failed.chain(violations).chain(run.notes.iter().cloned()).collect()
}

fn a_column_each(runs: &[&Run]) -> Vec<Vec<String>> {
    let mut head = vec![String::new()];
    for (at, run) in runs.iter().enumerate() {
        head.push(run.target.clone());
        if at > 0 {
            head.push(String::new());
        }
    }
    let mut rows = vec![head];
    for name in figure_names(runs) {
        let mut row = vec![name.to_owned()];
        for (at, run) in runs.iter().enumerate() {
            row.push(shown(run, name));
            if at > 0 {
                row.push(ratio(run, runs[0], name));
            }
        }
        rows.push(row);
    }
    rows
}

fn a_row_each(runs: &[&Run]) -> Vec<Vec<String>> {
    let names = figure_names(runs);
    let mut rows =
        vec![std::iter::once(String::new()).chain(names.iter().map(|name| (*name).to_owned())).collect()];
    for run in runs {
        let figures = names.iter().map(|name| shown(run, name));
        rows.push(std::iter::once(run.target.clone()).chain(figures).collect());
    }
    rows
}

/// A figure, or a dash.
pub(super) fn shown(run: &Run, name: &str) -> String {
    let figure = run.figures.iter().find(|figure| figure.name == name);
    figure.map_or_else(|| "-".to_owned(), format::figure)
}

/// A figure of one run to that of another.
pub(super) fn ratio(run: &Run, base: &Run, name: &str) -> String {
    let pair = run.figure(name).zip(base.figure(name));
    pair.and_then(|(value, base)| format::ratio(value, base)).unwrap_or_default()
}

/// The first column to the left, the others to the right.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            line.push_str("  ");
            line.push_str(&if column == 0 { format!("{cell}{padding}") } else { format!("{padding}{cell}") });
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::table;
    use crate::report::tests::results;

    #[test]
    fn a_table_shows_figures_ratios_and_what_went_wrong() {
        let text = table(&results());
        assert!(text.starts_with("fan-out: 1,000 subscribers\n"), "{text}");
        assert!(text.contains("  CPU a delivery      4 µs       8 µs  2x\n"), "{text}");
        assert!(text.contains("  a & b <c>: VIOLATION: 3 missing\n"), "{text}");
        assert!(text.contains("  x: FAILED: no\n"), "{text}");
        assert!(text.contains("servers on processors 0, clients on (any)"), "{text}");
    }
}
