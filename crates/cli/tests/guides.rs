//! What the pages of the documentation and the README tell people to try does what they say.

mod harness;

use harness::{Server, documented, run_script, stdout_of, tidings};

/// Runs the page's example with a server of `serve --dev`; it has to print what the page says.
fn prints_what_it_says(page: &str) {
    let (script, shown) = documented(page);
    assert!(shown.lines().count() > 3, "{page} says what is printed");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--dev"]);
    assert_eq!(run_script(&script, dir.path(), &server), shown, "{page}");
    server.stop();
}

#[test]
fn states_are_conflated_as_documented() {
    prints_what_it_says("docs/conflation.md");
}

#[test]
fn streams_end_as_documented() {
    prints_what_it_says("docs/ends.md");
}

#[test]
fn channels_come_and_go_as_documented() {
    prints_what_it_says("docs/live-subscriptions.md");
}

#[test]
fn the_readme_is_tried_in_a_minute() {
    let readme = include_str!("../../../README.md");
    let section = readme.split("## Try the rest in a minute").nth(1).unwrap();
    let script = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &["--dev"]);
    let there = "http://127.0.0.1:4600";
    assert!(script.contains(there));
    let shown = run_script(&script.replace(there, &server.url), dir.path(), &server);
    for said in ["data: imported\n", "event: tidings:end\n", "\"data\":\"disk full\"", "\"data\":\"paid\""] {
        assert_eq!(shown.matches(said).count(), 1, "{said}\n{shown}");
    }
    for kept_back in ["%", "door open", "problem"] {
        assert!(!shown.contains(kept_back), "{kept_back}\n{shown}");
    }
    let ids: Vec<_> = shown.lines().filter(|line| line.starts_with("{\"id\":")).collect();
    assert_eq!(ids.len(), 3, "{shown}");
    assert_eq!(ids[1], ids[2], "sent twice, stored once");
    assert!(shown.contains(r#"{"channel":"orders/17","connections":0,"#), "{shown}");
    server.stop();
}

#[test]
fn the_settings_that_are_shown_are_settings() {
    let page = include_str!("../../../docs/conflation.md");
    let settings = page.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    std::fs::write(&file, settings).unwrap();
    let shown = stdout_of(tidings().arg("check").arg("--config").arg(&file));
    assert!(shown.contains("state_only = true"), "{shown}");
}
