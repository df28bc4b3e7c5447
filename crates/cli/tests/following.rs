//! Streams that end, states that are passed over, and what is kept: by the real binary.

mod harness;

use harness::{Running, Server, run, stderr, stdout_of};
use serde_json::{Value, json};

fn objects(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// Publishes a step of an import; its id.
fn progress(server: &Server, done: u32, more: &[&str]) -> String {
    let data = format!("{{\"done\":{done}}}");
    stdout_of(server.client("publish").args(["import/1", &data, "--json", "--key", "progress"]).args(more))
}

#[test]
fn a_subscriber_ends_with_the_import_that_it_follows() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let mut subscriber = Running::start(server.client("subscribe").args(["import/1", "--json"]));
    subscriber.wait_for("connected");
    let first = progress(&server, 25, &[]);
    assert_eq!(objects(&subscriber.line())[0]["id"], first);
    progress(&server, 50, &[]);
    progress(&server, 75, &[]);
    let end = progress(&server, 100, &["--end"]);
    let status = subscriber.wait();
    assert_eq!(status.code(), Some(0), "{}", subscriber.written());
    subscriber.wait_for("there is nothing more to come");
    let mut last = json!(null);
    while last["id"] != end {
        let line = objects(&subscriber.line()).remove(0);
        assert!(line["data"]["done"].as_u64() > last["data"]["done"].as_u64(), "in order: {line}");
        last = line;
    }
    assert_eq!(last["data"]["done"], 100);

    for (arguments, expected) in [
        (&["--history", "latest"][..], "import/1  {\"done\":100}"),
        (&["--last-event-id", &first, "--only"], "import/1  {\"done\":100}"),
        (&["--last-event-id", &end], ""),
        (&["--last-event-id", "-begins-like-a-flag"], ""),
        (&["--history", "2"], "import/1  {\"done\":75}\nimport/1  {\"done\":100}"),
    ] {
        let shown = stdout_of(server.client("subscribe").arg("import/1").args(arguments));
        assert_eq!(shown, expected, "{arguments:?}");
    }
    let late = run(server.client("publish").args(["import/1", "too late"]));
    assert_eq!(late.status.code(), Some(1));
    assert!(stderr(&late).contains("its last event was published"), "{}", stderr(&late));
    server.stop();
}

#[test]
fn what_was_passed_over_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let first = progress(&server, 0, &[]);
    for done in 1..=4 {
        progress(&server, done, &[]);
    }
    stdout_of(server.client("publish").args(["import/1", "--end"]));
    let resume = |more: &[&str]| {
        run(server.client("subscribe").args(["import/1", "--last-event-id", &first]).args(more))
    };
    let shown = resume(&[]);
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "import/1  {\"done\":4}\n");
    assert!(stderr(&shown).contains("3 events were passed over"), "{}", stderr(&shown));
    let shown = resume(&["--json", "--quiet"]);
    assert_eq!(stderr(&shown), "");
    let shown = objects(&String::from_utf8(shown.stdout).unwrap());
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert_eq!(shown[0]["data"]["done"], 4);
    assert_eq!(shown[1], json!({"event": "tidings:skipped", "data": {"count": 3}}));
    server.stop();
}

#[test]
fn what_is_kept_is_printed_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let ids: Vec<_> = ["a/1", "a/2", "a/1", "b", "a/2"]
        .iter()
        .enumerate()
        .map(|(n, channel)| stdout_of(server.client("publish").args([channel, n.to_string().as_str()])))
        .collect();
    let history = |arguments: &[&str]| run(server.client("history").args(arguments));
    let shown = |arguments: &[&str]| {
        let output = history(arguments);
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(shown(&["a/*"]), "a/1  0\na/2  1\na/1  2\na/2  4\n");
    assert_eq!(shown(&["a/2", "b", "--order", "desc"]), "a/2  4\nb  3\na/2  1\n");
    assert_eq!(shown(&["**", "--after", &ids[1], "--until", &ids[3]]), "a/1  2\nb  3\n");
    let kept = objects(&shown(&["a/1", "--json"]));
    assert_eq!(
        (&kept[0]["id"], &kept[0]["data"], &kept[1]["id"]),
        (&json!(ids[0]), &json!("0"), &json!(ids[2]))
    );

    for (order, flag, pages) in [
        ("asc", "--after", ["a/1  0\na/2  1\n", "a/1  2\na/2  4\n"]),
        ("desc", "--until", ["a/2  4\na/1  2\n", "a/2  1\na/1  0\n"]),
    ] {
        let two = ["a/*", "--limit", "2", "--order", order];
        let first = history(&two);
        assert_eq!(String::from_utf8_lossy(&first.stdout), pages[0]);
        let said = stderr(&first);
        let next =
            said.trim().split(&format!("there is more: {flag} ")).nth(1).unwrap_or_else(|| panic!("{said}"));
        assert_eq!(shown(&[&two[..], &[flag, next]].concat()), pages[1]);
    }

    let unknown = history(&["a/*", "--after", "nonsense", "--json"]);
    assert!(
        unknown.status.success() && stderr(&unknown).contains("events are missing here"),
        "{}",
        stderr(&unknown)
    );
    let lines = objects(&String::from_utf8(unknown.stdout).unwrap());
    assert_eq!(
        (&lines[0]["event"], &lines[0]["data"]["reason"], lines.len()),
        (&json!("tidings:gap"), &json!("unknown"), 5)
    );
    assert_eq!(history(&["a/*", "--until", "nonsense"]).status.code(), Some(1));
    server.stop();
}

#[test]
fn more_is_printed_than_one_answer_has() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let mut publisher = Running::start(server.client("publish").args(["numbers", "--stdin", "--json"]));
    publisher.write(&(0..2500).map(|n| format!("{n}\n")).collect::<String>());
    publisher.close_input();
    assert!(publisher.wait().success(), "{}", publisher.written());
    let numbers = |arguments: &[&str]| -> Vec<u32> {
        let shown = stdout_of(server.client("history").args(["numbers", "--limit"]).args(arguments));
        shown.lines().map(|line| line.strip_prefix("numbers  ").unwrap().parse().unwrap()).collect()
    };
    assert_eq!(numbers(&["2100"]), (0..2100).collect::<Vec<_>>());
    assert_eq!(numbers(&["100000", "--order", "desc"]), (0..2500).rev().collect::<Vec<_>>());
    server.stop();
}
