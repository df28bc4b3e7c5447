//! The table that tutorials show: memory, CPU and latency of a server with so many connections.

use super::format;
use super::markdown::rows_in_markdown;
use super::table::{aligned, remarks, shown};
use crate::results::Results;

/// Its columns.
const COLUMNS: [&str; 4] = ["memory", "CPU", "latency p50", "latency p99"];

/// The classic table as text.
pub fn classic(results: &Results) -> String {
    let mut rows = vec![head()];
    rows.extend(body(results));
    format!("{}{}\n{}\n", aligned(&rows), said(results), format::machine(&results.machine))
}

/// The classic table as Markdown.
pub fn classic_markdown(results: &Results) -> String {
    let title = results.runs.first().map_or("", |run| run.title.as_str());
    format!(
        "# The classic table\n\n{title}.\n\n{}\n{}Measured with `tidings bench --classic` on: {}.\n",
        rows_in_markdown(head(), body(results).collect()),
        said(results),
        format::machine(&results.machine)
    )
}

fn head() -> Vec<String> {
    ["", "transport"].into_iter().chain(COLUMNS).map(str::to_owned).collect()
}

fn body(results: &Results) -> impl Iterator<Item = Vec<String>> {
    results.runs.iter().filter(|run| run.failed.is_none()).map(|run| {
        let named = [run.target.clone(), format::transport(run.transport).to_owned()];
        named.into_iter().chain(COLUMNS.map(|name| shown(run, name))).collect()
    })
}

fn said(results: &Results) -> String {
    let lines = results
        .runs
        .iter()
        .flat_map(|run| remarks(run).into_iter().map(|line| format!("- {}: {line}\n", run.target)));
    let text: String = lines.collect();
    if text.is_empty() { text } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::{classic, classic_markdown};
    use crate::report::tests::results;

    #[test]
    fn the_classic_table_names_transports() {
        let text = classic(&results());
        assert!(
            text.contains("SSE") && text.contains("49.6 MiB") && text.contains("- x: FAILED: no"),
            "{text}"
        );
        assert!(classic_markdown(&results()).contains("| Tidings | SSE | 49.6 MiB | 12 % |"));
    }
}
