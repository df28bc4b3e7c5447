//! What the documentation says about settings is what the command does.

mod harness;

use std::path::Path;

use harness::{stdout_of, tidings};

fn documentation() -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    std::fs::read_to_string(file).unwrap()
}

#[test]
fn every_setting_is_documented_with_its_default() {
    let documentation = documentation();
    let shown = stdout_of(tidings().arg("check"));
    let mut settings = 0;
    // A rule for some channels has a row of its own; what stands in it is no default of others.
    let (rules, sections): (Vec<&str>, Vec<&str>) =
        shown.split("\n\n").partition(|section| section.starts_with("[[retention]]\nchannels = "));
    assert_eq!(rules.len(), 1, "{shown}");
    for rule in rules {
        let value = |name: &str| {
            let line = rule.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
            line.and_then(|line| line.split('#').next()).unwrap_or_default().trim()
        };
        let said = |row: &str| {
            row.starts_with('|')
                && row.contains(&format!("`{}`", value("channels")))
                && row.contains(&format!("`{}`", value("age")))
                && row.contains(&format!("`{}`", value("count")))
        };
        assert!(documentation.lines().any(said), "this rule is not in docs/configuration.md:\n{rule}");
    }
    for line in sections.iter().flat_map(|section| section.lines()).filter(|line| line.contains(" = ")) {
        let (setting, _) = line.split_once('#').unwrap();
        let (name, value) = setting.split_once(" = ").unwrap();
        let value = if name == "workers" { "the cores".to_owned() } else { format!("`{}`", value.trim()) };
        let said = |row: &str| {
            let mut cells = row.split('|').map(str::trim).skip(1);
            let names = cells.next().unwrap_or_default();
            let is_this = names.trim_matches('`').rsplit('.').next() == Some(name);
            is_this && cells.next().is_some_and(|default| default.starts_with(&value))
        };
        assert!(
            documentation.lines().any(said),
            "{name} with the default {value} is not in docs/configuration.md"
        );
        settings += 1;
    }
    assert!(settings > 20, "{shown}");
}

#[test]
fn its_examples_are_right() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    let documentation = documentation();
    let examples = documentation.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let mut seen = 0;
    for example in examples {
        std::fs::write(&file, example).unwrap();
        stdout_of(tidings().arg("check").arg("--config").arg(&file));
        seen += 1;
    }
    assert!(seen >= 2);
}
