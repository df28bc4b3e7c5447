//! A document of all results.

use std::path::PathBuf;

use super::table::{ratio, remarks, shown};
use super::{by_scenario, figure_names, format};
use crate::results::{Results, Run};

/// The results as Markdown, with these plots (their paths as the document is to name them).
pub fn markdown(results: &Results, plots: &[PathBuf]) -> String {
    let mut text = String::from("# Results\n\n");
    text.push_str(&format!("Measured with `tidings bench` on: {}.\n\n", format::machine(&results.machine)));
    text.push_str(
        "Both ends on one machine, over loopback. Latency counts from when an event was meant to be sent; every subscriber counts its events, \
one in a hundred reads each and checks the order. In brackets: the ratio to the first row.\n",
    );
    for (scenario, runs) in by_scenario(results) {
        let title = runs.iter().find(|run| run.failed.is_none()).unwrap_or(&runs[0]).title.as_str();
        text.push_str(&format!("\n## {scenario}\n\n{title}.\n\n"));
        let done: Vec<&Run> = runs.iter().copied().filter(|run| run.failed.is_none()).collect();
        let names = figure_names(&done);
        let mut rows = Vec::new();
        for (at, run) in done.iter().enumerate() {
            let cell = |name: &&str| {
                let ratio = if at == 0 { String::new() } else { ratio(run, done[0], name) };
                let shown = shown(run, name);
                if ratio.is_empty() { shown } else { format!("{shown} ({ratio})") }
            };
            rows.push(std::iter::once(run.target.clone()).chain(names.iter().map(cell)).collect());
        }
        if !rows.is_empty() {
            let head = std::iter::once("").chain(names.iter().copied()).map(str::to_owned).collect();
            text.push_str(&rows_in_markdown(head, rows));
        }
        let said: Vec<String> = runs
            .iter()
            .flat_map(|run| remarks(run).into_iter().map(|line| format!("- {}: {line}\n", run.target)))
            .collect();
        if !said.is_empty() {
            text.push('\n');
            text.extend(said);
        }
        for plot in plots {
            let name = plot.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if name.starts_with(&format!("{scenario}.")) {
                text.push_str(&format!("\n![{scenario}]({})\n", plot.display()));
            }
        }
    }
    text
}

pub(super) fn rows_in_markdown(head: Vec<String>, rows: Vec<Vec<String>>) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = vec!["---:".to_owned(); head.len() - 1];
    let rule = format!("| --- | {} |\n", rule.join(" | "));
    std::iter::once(line(&head)).chain([rule]).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::markdown;
    use crate::report::tests::results;

    #[test]
    fn a_document_has_tables_ratios_plots_and_what_went_wrong() {
        let text = markdown(&results(), &["plots/fan-out.latency.svg".into(), "plots/idle.svg".into()]);
        assert!(text.contains("| Tidings | 4 µs | 49.6 MiB |"), "{text}");
        assert!(text.contains("| a & b <c> | 8 µs (2x) |"), "{text}");
        assert!(text.contains("- x: FAILED: no\n"), "{text}");
        assert!(text.contains("](plots/fan-out.latency.svg)") && !text.contains("idle.svg"), "{text}");
    }
}
