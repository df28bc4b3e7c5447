//! The server from start to stop.

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::{Running, Server, run, stderr, stdout_of, tidings};
use rustix::process::Signal;
use serde_json::Value;

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn an_event_goes_from_one_command_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let subscriber = Running::start(server.client("subscribe").args(["orders/*", "--json"]));
    subscriber.wait_for("connected");
    let id = stdout_of(server.client("publish").args(["orders/7", "paid", "--event", "status"]));
    let event = json(&subscriber.line());
    assert_eq!(event["id"], id);
    assert_eq!(
        (&event["channel"], &event["event"], &event["data"]),
        (&"orders/7".into(), &"status".into(), &"paid".into())
    );
    assert!(event["time"].is_u64(), "{event}");

    stdout_of(server.client("publish").args(["orders/7", r#"{"n": 1.0e2}"#, "--json"]));
    assert!(subscriber.line().contains(r#""data":{"n":1.0e2}"#), "JSON stays as it was spelled");
    stdout_of(server.client("publish").args(["--broadcast", "to all"]));
    assert_eq!(json(&subscriber.line())["data"], "to all");
    stdout_of(server.client("publish").args(["elsewhere", "x"]));
    stdout_of(server.client("publish").args(["orders/8", "{\"a\":\"text\"}"]));
    assert_eq!(json(&subscriber.line())["data"], "{\"a\":\"text\"}", "a text stays a text");

    let history = ["subscribe", "--url", &server.url, "orders/*", "--history", "1", "--only", "--count", "2"];
    assert_eq!(stdout_of(tidings().args(history)), "orders/7  {\"n\":1.0e2}\norders/8  {\"a\":\"text\"}");
    let after = ["subscribe", "--url", &server.url, "orders/*", "--last-event-id", &id, "--count", "1"];
    assert_eq!(stdout_of(tidings().args(after)), "orders/7  {\"n\":1.0e2}");
    server.stop();
}

#[test]
fn a_publish_under_a_key_is_stored_once_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let publish = |server: &Server, data: &str| {
        run(server.client("publish").args(["orders/7", data, "--idempotency-key", "payment 1"]))
    };
    let server = Server::start(dir.path(), &["--dev"]);
    let first = publish(&server, "paid");
    assert!(first.status.success(), "{}", stderr(&first));
    // Not in order: what was answered is remembered like what was stored.
    server.running.signal(Signal::KILL);
    drop(server);
    let server = Server::start(dir.path(), &["--dev"]);
    assert_eq!(publish(&server, "paid").stdout, first.stdout);
    let other = publish(&server, "refunded");
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("take another"), "{}", stderr(&other));
    stdout_of(server.client("publish").args(["orders/7", "paid"]));
    let all = stdout_of(server.client("subscribe").args(["orders/7", "--earliest", "--count", "2"]));
    assert_eq!(all, "orders/7  paid\norders/7  paid");
    let id = String::from_utf8(first.stdout).unwrap();
    let after = ["orders/7", "--last-event-id", id.trim(), "--count", "1"];
    assert_eq!(stdout_of(server.client("subscribe").args(after)), "orders/7  paid", "the id is good");
    server.stop();
}

#[test]
fn tags_choose_on_streams_and_polls() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let chosen = r#"priority > 3 && region in ["eu", "us"]"#;
    let subscriber =
        Running::start(server.client("subscribe").args(["alerts", "--filter", chosen, "--json"]));
    subscriber.wait_for("connected");
    let tagged = |data: &str, tags: &[&str]| {
        let tags = tags.iter().flat_map(|tag| ["--tag", tag]);
        stdout_of(server.client("publish").args(["alerts", data]).args(tags))
    };
    tagged("untagged", &[]);
    tagged("low", &["priority=1", "region=eu"]);
    tagged("text", &["priority=\"5\"", "region=eu"]);
    let high = tagged("high", &["priority=5", "region=eu"]);
    assert_eq!(json(&subscriber.line())["id"], high);
    let end = stdout_of(server.client("publish").args(["alerts", "--end"]));
    let target = "/events?poll=1&channel=alerts&only=1&filter=priority+%3E+3";
    let answer = server.request(&format!("GET {target}&last_event_id=earliest HTTP/1.1"));
    let polled = json(answer.split("\r\n\r\n").nth(1).unwrap());
    assert_eq!(polled["events"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&polled["events"][0]["data"], &polled["last_event_id"]),
        (&"high".into(), &end.as_str().into())
    );
    let over = server.request(&format!("GET {target}&last_event_id={end} HTTP/1.1"));
    assert!(over.starts_with("HTTP/1.1 204 "), "{over}");
    let refused = run(server.client("subscribe").args(["alerts", "--filter", "priority = 3"]));
    assert!(stderr(&refused).contains("column 10"), "{}", stderr(&refused));
    server.stop();
}

#[test]
fn each_line_of_the_input_is_an_event() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev", "--log", "memory"]);
    let mut publisher = Running::start(server.client("publish").args(["log", "--stdin"]));
    let mut ids = Vec::new();
    publisher.write("first\n");
    ids.push(publisher.line());
    publisher.write("second\n\nfourth");
    let subscribe =
        |count: &str| stdout_of(server.client("subscribe").args(["log", "--earliest", "--count", count]));
    ids.extend([publisher.line(), publisher.line()]);
    assert_eq!(subscribe("3"), "log  first\nlog  second\nlog");
    drop(publisher);
    ids.dedup();
    assert_eq!(ids.len(), 3);
    let many: String = (0..2500).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let mut publisher = Running::start(server.client("publish").args(["numbers", "--stdin", "--json"]));
    publisher.write(&many);
    (0..2500).for_each(|_| drop(publisher.line()));
    let read =
        stdout_of(server.client("subscribe").args(["numbers", "--earliest", "--json", "--count", "2500"]));
    let numbers: Vec<u64> = read.lines().map(|line| json(line)["data"]["n"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..2500).collect::<Vec<_>>());
}

#[test]
fn a_subscriber_resumes_by_itself_when_the_server_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev", "--retry", "100ms"]);
    let address = server.address().to_owned();
    let subscriber = Running::start(server.client("subscribe").args(["a", "--json"]));
    subscriber.wait_for("connected");
    let mut server = Some(server);
    for round in 0..3 {
        let running = server.take().unwrap();
        stdout_of(running.client("publish").args(["a", &format!("{round} before")]));
        assert_eq!(json(&subscriber.line())["data"], format!("{round} before"));
        running.running.signal(Signal::KILL);
        drop(running);
        let again = Server::start(dir.path(), &["--dev", "--retry", "100ms", "--listen", &address]);
        stdout_of(again.client("publish").args(["a", &format!("{round} after")]));
        assert_eq!(json(&subscriber.line())["data"], format!("{round} after"));
        server = Some(again);
    }
    assert!(!subscriber.written().contains("missing"), "{}", subscriber.written());
}

#[test]
fn a_log_in_memory_says_that_events_are_missing_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev", "--log", "memory", "--retry", "100ms"]);
    let address = server.address().to_owned();
    let subscriber = Running::start(server.client("subscribe").args(["a", "--json"]));
    subscriber.wait_for("connected");
    stdout_of(server.client("publish").args(["a", "x"]));
    subscriber.line();
    server.running.signal(Signal::KILL);
    drop(server);
    let again =
        Server::start(dir.path(), &["--dev", "--log", "memory", "--retry", "100ms", "--listen", &address]);
    assert_eq!(json(&subscriber.line())["event"], "tidings:gap");
    stdout_of(again.client("publish").args(["a", "y"]));
    assert_eq!(json(&subscriber.line())["data"], "y");
}

#[test]
fn a_stop_drains() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Server::start(dir.path(), &["--dev", "--drain", "2s"]);
        let subscriber = Running::start(server.client("subscribe").args(["a", "--quiet"]));
        let told = Running::start(server.client("subscribe").arg("a"));
        told.wait_for("connected");
        server.running.signal(signal);
        told.wait_for("the server is stopping");
        let status = server.running.wait();
        assert_eq!(status.code(), Some(0), "{}", server.running.written());
        assert!(server.running.written().contains("drained"), "{}", server.running.written());
        assert_eq!(subscriber.written(), "", "--quiet");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &["--dev", "--drain", "1h"]);
    // A request that does not end, which a drain waits for; the answer says that the server has begun to read it.
    let mut socket = TcpStream::connect(server.address()).unwrap();
    let head = "POST /publish?channel=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    server.running.signal(Signal::TERM);
    server.running.wait_for("stopping");
    server.running.signal(Signal::TERM);
    assert_eq!(server.running.wait().code(), Some(1), "{}", server.running.written());
    assert!(server.running.written().contains("second signal"), "{}", server.running.written());
}

#[test]
fn a_data_directory_is_one_servers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let second = run(tidings().args(["serve", "--listen", "127.0.0.1:0", "--data-dir"]).arg(dir.path()));
    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    assert!(
        said.contains("in use by another process") && said.contains(&*dir.path().to_string_lossy()),
        "{said}"
    );
    server.stop();
    Server::start(dir.path(), &[]).stop();
}

#[test]
fn an_address_in_use_is_said_with_what_to_do() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let server = Server::start(one.path(), &[]);
    let second = run(tidings().args(["serve", "--listen", server.address(), "--data-dir"]).arg(two.path()));
    assert_eq!(second.status.code(), Some(1));
    assert!(
        stderr(&second).contains(&format!("can't listen on {}", server.address())),
        "{}",
        stderr(&second)
    );
}

#[test]
fn dev_says_so_and_has_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    server.running.wait_for("anybody on this machine may do anything");
    server.running.wait_for(&format!("curl '{}/publish?channel=demo/hello' -d", server.url));
    let page = server.request("GET / HTTP/1.1");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("text/html"), "{page}");
    let refused =
        run(tidings().args(["serve", "--dev", "--listen", "0.0.0.0:0", "--data-dir"]).arg(dir.path()));
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("--dev: dev lets anybody do anything, so listen must be on loopback"));
}

#[test]
fn a_base_path_and_an_internal_address_hold_for_everything() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = ["--dev", "--base-path", "/push", "--internal-listen", "127.0.0.1:0"];
    let server = Server::start(dir.path(), &arguments);
    assert!(server.url.ends_with("/push"), "{}", server.url);
    let second = server.running.line();
    let internal = second.strip_prefix("and, with everything, on ").unwrap().to_owned();
    let refused = run(server.client("publish").args(["a", "x"]));
    assert_eq!(refused.status.code(), Some(1), "publishing is internal");
    let subscriber = Running::start(server.client("subscribe").arg("a"));
    subscriber.wait_for("connected");
    stdout_of(tidings().args(["publish", "--url", &internal, "a", "x"]));
    assert_eq!(subscriber.line(), "a  x");
}

#[test]
fn logs_are_json_unless_a_person_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let written = server.stop();
    let logged: Vec<Value> = written.lines().filter(|line| line.starts_with('{')).map(json).collect();
    assert!(logged.iter().any(|line| line["message"] == "listening" && line["level"] == "INFO"), "{written}");
    let human = Server::start(dir.path(), &["--log-format", "human"]).stop();
    assert!(human.lines().any(|line| line.contains("INFO") && line.contains("listening")), "{human}");
    assert!(!human.contains("{\""), "{human}");
    let quiet = Server::start(dir.path(), &["--log-level", "error"]).stop();
    assert_eq!(quiet.lines().count(), 1, "{quiet}");
}

#[test]
fn a_publish_that_runs_when_the_stop_begins_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev"]);
    let mut publisher = Running::start(server.client("publish").args(["a", "--stdin"]));
    publisher.write("first\n");
    publisher.line();
    let lines: String = (0..500).map(|n| format!("{n}\n")).collect();
    publisher.write(&lines);
    publisher.close_input();
    server.stop();
    publisher.wait();
    let acknowledged =
        publisher.written().lines().filter(|line| !line.starts_with("tidings:") && line.len() == 22).count();
    let again = Server::start(dir.path(), &["--dev"]);
    let count = acknowledged.to_string();
    let read = stdout_of(again.client("subscribe").args(["a", "--earliest", "--count", &count]));
    assert_eq!(read.lines().count(), acknowledged);
    assert!(acknowledged >= 1);
}

#[test]
fn a_name_is_an_address_to_listen_on() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &["--dev", "--listen", "localhost:0"]);
    stdout_of(server.client("publish").args(["orders/7", "paid"]));
    let url = format!("http://localhost:{}", server.address().rsplit(':').next().unwrap());
    assert_eq!(stdout_of(tidings().args(["history", "orders/7", "--url", &url])), "orders/7  paid");
    server.stop();
}

#[test]
fn where_no_server_is_it_is_asked_whether_it_runs() {
    let hint = "is a server running at http://127.0.0.1:1? `tidings serve --dev` starts one; --url or TIDINGS_URL says where it is";
    let nowhere = ["--url", "http://127.0.0.1:1"];
    let failed = run(tidings().args(["publish", "orders/7", "paid"]).args(nowhere));
    assert!(stderr(&failed).contains(hint), "{}", stderr(&failed));
    // It goes on trying, and asks once.
    let subscriber = Running::start(tidings().args(["subscribe", "orders/7"]).args(nowhere));
    subscriber.wait_for(hint);
    let said = subscriber.written();
    assert!(said.contains("trying again in"), "{said}");
}

#[test]
fn with_dev_a_parameter_that_is_nearly_known_is_said_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    for (mode, is_said) in [(&["--dev"][..], true), (&[], false)] {
        let server = Server::start(dir.path(), mode);
        let token = server.token(&["--sub", "ada"]);
        for query in ["chanel=canary-a", "tokn=canary-b&_=1&cachebuster=2"] {
            let answer = server
                .request(&format!("GET /events?poll=1&{query} HTTP/1.1\r\nAuthorization: Bearer {token}"));
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        let written = server.stop();
        for name in ["chanel", "tokn"] {
            assert_eq!(written.contains(name), is_said, "{name}: {written}");
        }
        assert!(!written.contains("canary") && !written.contains("cachebuster"), "{written}");
    }
}
