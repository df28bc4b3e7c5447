//! What `docs/filters.md` shows is what filters do.

use std::path::Path;

use serde_json::Value;
use tidings_hub::Filter;
use tidings_wire::{Number, TagValue, Tags};

/// The rows of every table whose first heading this is, without the code marks.
fn rows(first: &str) -> Vec<Vec<String>> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/filters.md");
    let text = std::fs::read_to_string(file).unwrap().replace("\\|", "\u{0}");
    let mut rows = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        let cells: Vec<String> =
            line.split('|').map(|cell| cell.trim().trim_matches('`').replace('\u{0}', "|")).collect();
        match cells.get(1) {
            None => inside = false,
            Some(heading) if heading == first => inside = true,
            Some(rule) if rule == "---" => {}
            Some(_) if inside => rows.push(cells[1..cells.len() - 1].to_vec()),
            Some(_) => {}
        }
    }
    rows
}

fn tags(json: &str) -> Tags {
    let value = |value: &Value| match value {
        Value::String(text) => TagValue::Text(text.as_str().into()),
        Value::Bool(value) => TagValue::Bool(*value),
        other => TagValue::Number(Number::new(other.as_f64().unwrap()).unwrap()),
    };
    let all: Value = serde_json::from_str(json).unwrap();
    Tags::new(all.as_object().unwrap().iter().map(|(name, tag)| (name.as_str().into(), value(tag)))).unwrap()
}

#[test]
fn its_examples_pass_or_not() {
    let rows = rows("tags");
    assert!(rows.len() > 20);
    for row in rows {
        let [event, filter, passes] = &row[..] else { panic!("{row:?}") };
        let filter: Filter = filter.parse().unwrap_or_else(|bad| panic!("{row:?}: {bad}"));
        assert_eq!(filter.matches(&tags(event)), passes == "yes", "{row:?}");
    }
}

#[test]
fn its_mistakes_are_where_it_says() {
    let rows = rows("filter");
    assert!(rows.len() >= 5);
    for row in rows {
        let [filter, column, says] = &row[..] else { panic!("{row:?}") };
        let bad = filter.parse::<Filter>().unwrap_err();
        assert_eq!(
            (bad.column.to_string(), bad.wrong.to_string()),
            (column.clone(), says.clone()),
            "{row:?}"
        );
    }
}
