//! stub
#![allow(missing_docs)]
use crate::results::*;
use std::path::PathBuf;
pub fn json(r: &Results) -> String {
    serde_json::to_string_pretty(r).unwrap_or_default()
}
pub fn table(r: &Results) -> String {
    let mut s = String::new();
    for run in &r.runs {
        s += &format!("{} {}: {}\n", run.scenario, run.target, run.title);
        for f in &run.figures {
            s += &format!("   {:<26} {:>14.2} {:?}\n", f.name, f.value, f.unit);
        }
        for v in &run.violations {
            s += &format!("   VIOLATION {v}\n");
        }
        for v in &run.notes {
            s += &format!("   note {v}\n");
        }
        if let Some(f) = &run.failed {
            s += &format!("   FAILED {f}\n");
        }
    }
    s
}
pub fn classic(r: &Results) -> String {
    table(r)
}
pub fn classic_markdown(r: &Results) -> String {
    table(r)
}
pub fn markdown(r: &Results, _p: &[PathBuf]) -> String {
    table(r)
}
pub fn plots(_r: &Results) -> Vec<(String, String)> {
    Vec::new()
}
