//! `tidings bench`, with this server and with servers that do it wrong.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Running, Server, run, stderr, stdout_of, tidings};
use rustix::process::Signal;
use serde_json::Value;

mod harness;

#[test]
fn a_short_run_measures_and_checks_this_server() {
    let folder = tempfile::tempdir().unwrap();
    let (svg, document) = (folder.path().join("plots"), folder.path().join("results.md"));
    let out = stdout_of(
        tidings()
            .args(["bench", "--scenario", "fan-out", "--scenario", "channels", "--scenario", "load"])
            .args(["--subscribers", "100", "--seconds", "1", "--json", "-", "--svg"])
            .arg(&svg)
            .arg("--markdown")
            .arg(&document),
    );
    let results: Value = serde_json::from_str(&out).unwrap();
    let runs = results["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    for run in runs {
        assert_eq!(run["failed"], Value::Null, "{run}");
        assert_eq!(run["violations"], serde_json::json!([]), "{run}");
        let figure = |name: &str| {
            let figures = run["figures"].as_array().unwrap().iter();
            figures.clone().find(|figure| figure["name"] == name).and_then(|figure| figure["value"].as_f64())
        };
        assert!(figure("deliveries").unwrap() > 0.0 && figure("latency p99").unwrap() > 0.0, "{run}");
    }
    assert!(svg.join("load.latency-over-load.svg").exists());
    assert!(std::fs::read_to_string(document).unwrap().contains("](plots/load.latency-over-load.svg)"));
}

#[test]
fn a_server_that_asks_for_a_token_is_measured_with_one() {
    let dir = tempfile::tempdir().unwrap();
    let server =
        Server::start_with(dir.path(), &["--log", "memory"], &[("TIDINGS_LIMITS__PER_USER", "1000")]);
    let token = server.token(&["--sub", "bench", "--subscribe", "**", "--publish", "**", "--admin"]);
    let mut measure = tidings();
    measure.args([
        "bench",
        "--url",
        &format!("http://{}", server.address()),
        "--seconds",
        "1",
        "--json",
        "-",
    ]);
    for scenario in ["publish", "batches", "tokens", "latency-1"] {
        measure.args(["--scenario", scenario]);
    }
    let results: Value = serde_json::from_str(&stdout_of(measure.env("TIDINGS_TOKEN", token))).unwrap();
    for run in results["runs"].as_array().unwrap() {
        assert_eq!(run["failed"], Value::Null, "{run}");
    }
    server.stop();
}

#[test]
fn publishing_and_replay_are_measured() {
    let out = stdout_of(tidings().args([
        "bench",
        "--scenario",
        "publish",
        "--scenario",
        "batches",
        "--scenario",
        "durable",
        "--scenario",
        "storm",
        "--scenario",
        "backlog-4",
        "--scenario",
        "users",
        "--scenario",
        "featured",
        "--subscribers",
        "1000",
        "--seconds",
        "1",
    ]));
    for scenario in ["publish", "batches", "durable", "storm", "backlog-4", "users", "featured"] {
        assert!(out.contains(&format!("{scenario}: ")), "{out}");
    }
}

#[test]
fn what_can_t_be_measured_is_said() {
    for (arguments, code, what) in [
        (&["--scenario", "fast"][..], 2, "there is no scenario \"fast\""),
        (&["--target", "/nowhere.toml"], 2, "/nowhere.toml can't be read"),
        (&["--url", "nowhere"], 2, "--url"),
        (
            &["--url", "http://127.0.0.1:9", "--scenario", "latency-1"],
            1,
            "no server answers at 127.0.0.1:9: Connection refused",
        ),
    ] {
        let output = run(tidings().arg("bench").args(arguments));
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(stderr(&output).contains(what), "{arguments:?}: {}", stderr(&output));
    }
}

/// A server that sends each event as often as it is told, in an order it is told.
fn faulty(send: Send) -> String {
    serve(send, "HTTP/1.1 200 OK\r\n\r\n", |block| vec![block.to_owned()])
}

/// What is sent for an event, by its number.
type Send = fn(number: usize, event: &str) -> Vec<String>;
/// The pieces in which a block of the stream is written.
type Frame = fn(block: &str) -> Vec<String>;

/// A server that answers subscribers with this head.
fn serve(send: Send, head: &'static str, frame: Frame) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let subscribers: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let subscribers = subscribers.clone();
            thread::spawn(move || answer(socket, &subscribers, send, head, frame));
        }
    });
    format!("http://{address}")
}

fn answer(
    mut socket: TcpStream,
    subscribers: &Mutex<Vec<TcpStream>>,
    send: Send,
    greeting: &str,
    frame: Frame,
) {
    socket.set_nodelay(true).unwrap();
    let mut bytes = Vec::new();
    let mut number = 0;
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            let mut piece = [0; 4096];
            match socket.read(&mut piece) {
                Ok(length @ 1..) => bytes.extend_from_slice(&piece[..length]),
                _ => return,
            }
            continue;
        };
        if head.starts_with("GET /events") {
            // A proxy may send a head in pieces too.
            let (first, second) = greeting.split_at(9);
            socket.write_all(first.as_bytes()).unwrap();
            thread::sleep(Duration::from_millis(20));
            socket.write_all(second.as_bytes()).unwrap();
            socket.write_all(frame(":ok\n\n").concat().as_bytes()).unwrap();
            subscribers.lock().unwrap().push(socket);
            return;
        }
        let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
        let length: usize = length.map_or(0, |length| length.parse().unwrap());
        if body.len() < length {
            let mut piece = [0; 4096];
            match socket.read(&mut piece) {
                Ok(length @ 1..) => bytes.extend_from_slice(&piece[..length]),
                _ => return,
            }
            continue;
        }
        for event in send(number, &body[..length]) {
            for subscriber in subscribers.lock().unwrap().iter_mut() {
                for piece in frame(&format!("data: {event}\n\n")) {
                    let _ = subscriber.write_all(piece.as_bytes());
                }
            }
        }
        number += 1;
        bytes.drain(..head.len() + 4 + length);
        socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    }
}

/// Measures such a server with three subscribers, each of which counts, and one of which reads every event.
fn measure(name: &str, url: &str) -> Output {
    measure_with(name, url, &[])
}

fn measure_with(name: &str, url: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(format!("{name}.toml"));
    let target = format!(
        "name = \"{name}\"\nurl = \"{url}\"\nsubscribe = \"/events/{{channel}}\"\n[publish]\npath = \"/publish\"\n"
    );
    std::fs::write(&file, target).unwrap();
    let arguments = ["bench", "--scenario", "fan-out", "--subscribers", "3", "--seconds", "1", "--target"];
    run(tidings().args(arguments).arg(&file).args(more))
}

/// Chunks of one to five bytes, so that each mark, number and event is cut somewhere; each with its write or several
/// in one, in turn.
fn cut(block: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let (mut rest, mut seed) = (block, block.len());
    while !rest.is_empty() {
        seed = (seed * 1_103_515_245 + 12_345) & 0x7fff_ffff;
        let (chunk, after) = rest.split_at((1 + seed / 65_536 % 5).min(rest.len()));
        let piece = format!("{:x}\r\n{chunk}\r\n", chunk.len());
        if seed & 0x10_0000 == 0 {
            pieces.push(piece);
        } else if let Some(last) = pieces.last_mut() {
            last.push_str(&piece);
        }
        rest = after;
    }
    pieces
}

#[test]
fn a_server_that_cuts_its_chunks_anywhere_passes() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let output = measure("cutting", &serve(|_, event| vec![event.to_owned()], head, cut));
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let lossy = serve(|number, event| if number == 4 { vec![] } else { vec![event.to_owned()] }, head, cut);
    let output = measure("lossy", &lossy);
    assert!(stderr(&output).contains("1 missing"), "{}", stderr(&output));
}

#[test]
fn a_server_that_loses_or_doubles_events_fails_the_run() {
    let honest = measure("honest", &faulty(|_, event| vec![event.to_owned()]));
    assert_eq!(honest.status.code(), Some(0), "{}", stderr(&honest));
    // What is lost is waited for.
    for (name, url, what) in [
        (
            "lossy",
            faulty(|number, event| if number == 4 { vec![] } else { vec![event.to_owned()] }),
            "missing",
        ),
        ("doubling", faulty(|number, event| vec![event.to_owned(); 1 + usize::from(number == 4)]), "doubled"),
        (
            // One event in place of another: the counts are right.
            "swapping",
            faulty(|number, event| match number {
                4 => vec![],
                5 => vec![event.to_owned(); 2],
                _ => vec![event.to_owned()],
            }),
            "doubled",
        ),
    ] {
        let output = measure(name, &url);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(stderr(&output).contains(what), "{name}: {}", stderr(&output));
    }
}

#[test]
fn a_publisher_that_is_held_up_is_noted() {
    // As much as sockets hold, and more.
    let slow = faulty(|_, event| {
        thread::sleep(Duration::from_millis(250));
        vec![event.to_owned()]
    });
    let output = measure_with("slow", &slow, &["--size", "1048576"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(out.contains("ms or more after it was due"), "{out}");
}

/// A target that is this server, started by a script that says its process's id and processors in this folder first.
fn scripted(folder: &Path) -> PathBuf {
    let file = folder.join("target.toml");
    let binary = env!("CARGO_BIN_EXE_tidings");
    let script = format!(
        "grep Cpus_allowed_list /proc/self/status > {0}/cpus; echo $$ > {0}/pid.new; mv {0}/pid.new {0}/pid; \
         exec {binary} serve --dev --log memory --listen 127.0.0.1:$PORT --data-dir $TMP/data",
        folder.display()
    );
    let target = format!(
        "name = \"scripted\"\ncommand = [\"sh\", \"-c\", '''{script}''']\nready = \"/readyz\"\n\
         subscribe = \"/events?channel={{channel}}\"\n[publish]\npath = \"/publish?channel={{channel}}\"\n\
         headers = {{ Content-Type = \"text/plain\" }}\n"
    );
    std::fs::write(&file, target).unwrap();
    file
}

#[test]
fn a_benchmark_that_is_ended_leaves_nothing_behind() {
    for (signal, code) in
        [(Signal::INT, Some(130)), (Signal::TERM, Some(143)), (Signal::HUP, Some(129)), (Signal::KILL, None)]
    {
        let folder = tempfile::tempdir().unwrap();
        let tmp = folder.path().join("tmp");
        std::fs::create_dir(&tmp).unwrap();
        // A signal that is ignored at the start stays so: under nohup SIGHUP, behind a script's `&` SIGINT.
        let mut bench = Running::start(
            Command::new("env")
                .args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_tidings")])
                .env("TMPDIR", &tmp)
                .args(["bench", "--scenario", "idle", "--subscribers", "10", "--target"])
                .arg(scripted(folder.path())),
        );
        let pid = until(|| std::fs::read_to_string(folder.path().join("pid")).ok());
        let server = PathBuf::from(format!("/proc/{}", pid.trim()));
        assert!(server.exists() && tmp.read_dir().unwrap().count() == 1);
        bench.signal(signal);
        assert_eq!(bench.wait().code(), code, "{signal:?}");
        let is_gone = || !server.exists() && tmp.read_dir().unwrap().count() == 0;
        // Who is killed can't wait for it.
        assert!(signal == Signal::KILL || is_gone(), "{signal:?}");
        until(|| is_gone().then_some(()));
    }
}

/// Asks until there is something.
fn until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < end, "it did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn clients_that_are_pinned_do_not_pin_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let allowed = |status: &str| {
        status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
    };
    let here = allowed(&std::fs::read_to_string("/proc/self/status").unwrap());
    let first = here.split([',', '-']).next().unwrap();
    stdout_of(
        tidings()
            .args(["bench", "--scenario", "latency-1", "--seconds", "1", "--client-cpus", first, "--target"])
            .arg(scripted(folder.path())),
    );
    assert_eq!(allowed(&std::fs::read_to_string(folder.path().join("cpus")).unwrap()), here);
}

#[test]
fn a_server_that_fails_to_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    for (command, what) in [
        (r#"["sh", "-c", "echo no licence; exit 3"]"#, "it ended with exit status: 3: no licence"),
        (r#"["/nowhere/server"]"#, "\"/nowhere/server\" can't be started: No such file"),
    ] {
        let file = folder.path().join("target.toml");
        let target =
            format!("name = \"x\"\ncommand = {command}\nsubscribe = \"/\"\n[publish]\npath = \"/\"\n");
        std::fs::write(&file, target).unwrap();
        let output = run(tidings().args(["bench", "--scenario", "latency-1", "--target"]).arg(&file));
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(what), "{}", stderr(&output));
    }
}

#[test]
fn a_log_in_memory_is_not_passed_off_as_durable() {
    let durable = |folder: &Path| {
        let arguments = ["bench", "--scenario", "durable", "--seconds", "1", "--data-dir"];
        stdout_of(tidings().args(arguments).arg(folder))
    };
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let out = durable(memory.path());
    assert!(out.contains(&format!("the log was in {}, which is memory", memory.path().display())), "{out}");
    assert_eq!(memory.path().read_dir().unwrap().count(), 0);
    // Relative, as people type it; a build's folder is on a disk.
    assert!(!durable(Path::new(".")).contains("which is memory"));
    let output = run(tidings().args(["bench", "--data-dir", "/nowhere"]));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--data-dir /nowhere: No such file"), "{}", stderr(&output));
}

#[test]
fn ratios_that_are_worse_than_committed_fail() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ratios.toml");
    let write = |ratio: &str, tolerance: &str| {
        let text = format!("[latency-1]\n\"latency p50\" = {{ ratio = {ratio}, tolerance = {tolerance} }}\n");
        std::fs::write(&file, text).unwrap();
    };
    let bench = |more: &[&str]| {
        let mut command = tidings();
        command.args(["bench", "--seconds", "1", "--target", "tidings", "--target"]);
        run(command.arg(scripted(folder.path())).arg("--baseline").arg(&file).args(more))
    };
    write("0.001", "0.2");
    let worse = bench(&["--rounds", "2"]);
    assert_eq!(worse.status.code(), Some(1));
    let said = stderr(&worse);
    assert!(said.contains("latency-1, latency p50: ") && said.contains("0.001 is committed"), "{said}");

    let blessed = bench(&["--bless"]);
    assert!(blessed.status.success(), "{}", stderr(&blessed));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(!text.contains("ratio = 0.001") && text.contains("tolerance = 0.2 }"), "{text}");

    std::fs::write(&file, "[latency-1]\n\"speed\" = { ratio = 1, tolerance = 1 }\n").unwrap();
    let unknown = bench(&["--bless"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("latency-1, speed: not measured"), "{}", stderr(&unknown));

    // As much noise as a busy machine ever makes.
    write("1", "1000");
    let good = bench(&[]);
    assert!(good.status.success(), "{}", stderr(&good));

    let one = run(tidings().args(["bench", "--baseline"]).arg(&file));
    assert_eq!(one.status.code(), Some(2));
    assert!(stderr(&one).contains("two targets"), "{}", stderr(&one));
}
