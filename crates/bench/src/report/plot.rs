//! Plots: lines over a load or a size, and bars to compare targets. Plain SVG, so that they can be read anywhere.

mod axis;
mod svg;

use self::axis::Axis;
use self::svg::{Anchor, Svg};
use super::{by_scenario, format};
use crate::results::{Better, Results, Run, Series};

/// Colours that colour-blind people can tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];
const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 520.0;
/// Where the lines are drawn: left, top, right, bottom.
const AREA: [f64; 4] = [90.0, 60.0, 680.0, 450.0];

/// Every plot that the results give, as a file's name and its content.
pub fn plots(results: &Results) -> Vec<(String, String)> {
    let mut plots = Vec::new();
    for (scenario, runs) in by_scenario(results) {
        let mut titles: Vec<&str> = Vec::new();
        for series in runs.iter().flat_map(|run| &run.series) {
            if !titles.contains(&series.plot.as_str()) {
                titles.push(&series.plot);
            }
        }
        for title in titles {
            let lines: Vec<(&Run, &Series)> = runs
                .iter()
                .flat_map(|run| run.series.iter().map(move |series| (*run, series)))
                .filter(|(_, series)| series.plot == title && !series.points.is_empty())
                .collect();
            if let Some(svg) = chart(title, &lines) {
                plots.push((format!("{scenario}.{}.svg", title.to_lowercase().replace(' ', "-")), svg));
            }
        }
        if let Some(svg) = bars(scenario, &runs) {
            plots.push((format!("{scenario}.svg"), svg));
        }
    }
    plots
}

fn chart(title: &str, lines: &[(&Run, &Series)]) -> Option<String> {
    let (_, first) = lines.first()?;
    let [left, top, right, bottom] = AREA;
    let values = |pick: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(move |(_, series)| series.points.iter().map(pick))
    };
    let x = Axis::over(values(|point| point.0), left, right);
    let y = Axis::over(values(|point| point.1), bottom, top);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.text(left, 34.0, title, 18, Anchor::Start, "#111");
    for tick in y.ticks() {
        let at = y.place(tick);
        svg.line(left, at, right, at, "#ddd", 1.0);
        svg.text(left - 8.0, at + 4.0, &format::value(tick, first.y.unit), 12, Anchor::End, "#444");
    }
    for tick in x.ticks() {
        let at = x.place(tick);
        svg.line(at, bottom, at, bottom + 5.0, "#444", 1.0);
        svg.text(at, bottom + 20.0, &format::value(tick, first.x.unit), 12, Anchor::Middle, "#444");
    }
    svg.line(left, bottom, right, bottom, "#444", 1.0);
    svg.line(left, top, left, bottom, "#444", 1.0);
    svg.text((left + right) / 2.0, bottom + 46.0, &first.x.label, 13, Anchor::Middle, "#111");
    svg.text(left, top - 10.0, &first.y.label, 13, Anchor::Start, "#111");
    for (number, (run, series)) in lines.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points: Vec<(f64, f64)> = series.points.iter().map(|(a, b)| (x.place(*a), y.place(*b))).collect();
        svg.polyline(&points, colour);
        for (a, b) in &points {
            svg.circle(*a, *b, colour);
        }
        let at = top + 10.0 + 22.0 * number as f64;
        svg.line(right + 16.0, at, right + 40.0, at, colour, 2.5);
        svg.text(
            right + 48.0,
            at + 4.0,
            format!("{} {}", run.target, series.line).trim_end(),
            13,
            Anchor::Start,
            "#111",
        );
    }
    Some(svg.end())
}

/// The first figure that can be good or bad, of each target.
fn bars(scenario: &str, runs: &[&Run]) -> Option<String> {
    let headline =
        runs.iter().flat_map(|run| &run.figures).find(|figure| figure.better != Better::Neither)?;
    let rows: Vec<(&str, f64)> =
        runs.iter().filter_map(|run| Some((run.target.as_str(), run.figure(&headline.name)?))).collect();
    let largest = rows.iter().map(|(_, value)| *value).fold(0.0, f64::max);
    if rows.len() < 2 || largest <= 0.0 {
        return None;
    }
    let (left, width, top, step) = (220.0, 520.0, 70.0, 38.0);
    let mut svg = Svg::new(WIDTH, top + step * rows.len() as f64 + 20.0);
    let better = if headline.better == Better::Lower { "less is better" } else { "more is better" };
    svg.text(20.0, 34.0, &format!("{scenario}: {} ({better})", headline.name), 18, Anchor::Start, "#111");
    for (number, (target, value)) in rows.iter().enumerate() {
        let at = top + step * number as f64;
        let length = (value / largest * width).max(1.0);
        let colour = if number == 0 { COLOURS[0] } else { "#9aa5b1" };
        svg.text(left - 10.0, at + 17.0, target, 14, Anchor::End, "#111");
        svg.rectangle(left, at, length, 24.0, colour);
        svg.text(
            left + length + 8.0,
            at + 17.0,
            &format::value(*value, headline.unit),
            13,
            Anchor::Start,
            "#111",
        );
    }
    Some(svg.end())
}

#[cfg(test)]
mod tests {
    use super::plots;
    use crate::report::tests::results;
    use crate::results::Results;

    #[test]
    fn every_target_is_in_the_legend_and_every_name_is_escaped() {
        let plots = plots(&results());
        let names: Vec<_> = plots.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["fan-out.latency-over-load.svg", "fan-out.svg"]);
        for (name, svg) in &plots {
            assert!(svg.contains("Tidings") && svg.contains("a &amp; b &lt;c&gt;"), "{name}: {svg}");
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}: {svg}");
            assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        }
    }

    #[test]
    fn points_of_which_there_are_few_or_all_alike_are_drawn() {
        for points in [vec![], vec![(0.0, 0.0)], vec![(5.0, 5.0), (5.0, 5.0)], vec![(0.0, 3.0), (9.0, 0.0)]] {
            let Results { machine, mut runs } = results();
            runs.truncate(1);
            runs[0].series[0].points = points.clone();
            let plots = plots(&Results { machine, runs });
            assert_eq!(plots.len(), usize::from(!points.is_empty()));
            assert!(plots.iter().all(|(_, svg)| !svg.contains("NaN") && !svg.contains("inf")), "{plots:?}");
        }
    }
}
