//! Durable subscriptions with the real binary.

mod harness;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use harness::{PATIENCE, Running, Server, documented, run_script, stdout_of};
use rustix::process::Signal;

/// A stream that is read until it has shown something.
struct Stream(TcpStream);

impl Stream {
    fn open(server: &Server, token: &str, query: &str) -> Stream {
        let mut socket = TcpStream::connect(server.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = server.address();
        write!(
            socket,
            "GET /events?{query} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\r\n"
        )
        .unwrap();
        Stream(socket)
    }

    fn until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        let mut piece = [0; 4096];
        loop {
            let shown = String::from_utf8_lossy(&read);
            if shown.contains(text) {
                return shown.into_owned();
            }
            let length = self.0.read(&mut piece).unwrap();
            assert!(length > 0, "it ended before {text:?}: {shown}");
            read.extend_from_slice(&piece[..length]);
        }
    }
}

/// The answer's body to a request.
fn ask(server: &Server, token: &str, method: &str, target: &str, body: &str) -> String {
    let mut socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (host, length) = (server.address(), body.len());
    write!(
        socket,
        "{method} {target} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn what_is_acknowledged_outlives_a_kill_and_the_rest_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &[]);
    let ada = server.token(&["--sub", "ada"]);
    let shop = server.token(&["--sub", "shop", "--publish", "$user/*"]);
    let publish = |server: &Server, data: &str| {
        stdout_of(server.client("publish").args(["--token", &shop, "--user", "ada", data]))
    };
    Stream::open(&server, &ada, "subscription=phone").until("tidings:open");
    for round in 0..4 {
        let (first, second) = (format!("{round}: first"), format!("{round}: second"));
        let id = publish(&server, &first);
        publish(&server, &second);
        let mut stream = Stream::open(&server, &ada, "subscription=phone");
        let read = stream.until(&format!("data: {second}\n"));
        assert!(read.contains(&format!("data: {first}\n")), "{read}");
        let ack = format!("{{\"subscription\":\"phone\",\"id\":\"{id}\"}}");
        assert!(ask(&server, &ada, "POST", "/acks", &ack).contains(&id));
        server.running.signal(Signal::KILL);
        server.running.wait();
        drop(server);
        server = Server::start(dir.path(), &[]);
        // What was acknowledged is, what was only written to a socket is not.
        let read = Stream::open(&server, &ada, "subscription=phone").until(&format!("data: {second}\n"));
        assert!(!read.contains(&first) && !read.contains("tidings:gap"), "{read}");
        let taken = ask(&server, &ada, "GET", "/queues?subscription=phone&take=1", "");
        assert!(taken.contains(&second) && !taken.contains(&first), "{taken}");
        let queues = ask(&server, &ada, "GET", "/queues", "");
        assert!(queues.contains("\"waiting\":0"), "{queues}");
    }
    server.stop();
}

/// How many events wait for ada's subscription; waits until it is so.
fn comes_to_wait(server: &Server, token: &str, count: usize) {
    let end = Instant::now() + PATIENCE;
    let expected = format!("\"waiting\":{count},");
    loop {
        let queues = ask(server, token, "GET", "/queues", "");
        if queues.contains(&expected) {
            return;
        }
        assert!(Instant::now() < end, "{queues}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_command_acknowledges_what_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path(), &["--retry", "100ms"]);
    let address = server.address().to_owned();
    let ada = server.token(&["--sub", "ada"]);
    let shop = server.token(&["--sub", "shop", "--publish", "$user/*"]);
    let publish = |server: &Server, data: &str| {
        stdout_of(server.client("publish").args(["--token", &shop, "--user", "ada", data]))
    };
    let subscribe = |server: &Server, more: &[&str]| {
        let mut command = server.client("subscribe");
        command.args(["--token", &ada, "--subscription", "phone"]).args(more);
        command
    };
    let first = Running::start(&mut subscribe(&server, &[]));
    first.wait_for("connected");
    drop(first);
    for data in ["1", "2", "3"] {
        publish(&server, data);
    }
    assert_eq!(stdout_of(&mut subscribe(&server, &["--count", "2"])), "$user/ada  1\n$user/ada  2");
    comes_to_wait(&server, &ada, 1);
    assert_eq!(stdout_of(&mut subscribe(&server, &["--count", "1"])), "$user/ada  3");
    comes_to_wait(&server, &ada, 0);

    // One that goes on, over a server that is killed.
    let mut going_on = Running::start(&mut subscribe(&server, &[]));
    going_on.wait_for("connected");
    publish(&server, "4");
    assert_eq!(going_on.line(), "$user/ada  4");
    comes_to_wait(&server, &ada, 0);
    server.running.signal(Signal::KILL);
    server.running.wait();
    drop(server);
    server = Server::start(dir.path(), &["--retry", "100ms", "--listen", &address]);
    publish(&server, "5");
    assert_eq!(going_on.line(), "$user/ada  5");
    comes_to_wait(&server, &ada, 0);

    // What can't be acknowledged any more is a failure, not something to be silent about.
    let admin = server.token(&["--admin"]);
    ask(&server, &admin, "DELETE", "/queues?user=ada&subscription=phone&forget=1", "");
    publish(&server, "6");
    assert_eq!(going_on.line(), "$user/ada  6");
    assert_eq!(going_on.wait().code(), Some(1));
    going_on.wait_for("are not acknowledged, and come again");
    server.stop();
}

#[test]
fn the_example_of_the_documentation_runs() {
    let (script, _) = documented("docs/queues.md");
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&dir.path().join("data"), &[]);
    let shown = run_script(&script, dir.path(), &server);
    assert!(shown.contains("\"waiting\":2"), "{shown}");
    let stream = std::fs::read_to_string(dir.path().join("stream.txt")).unwrap();
    assert!(stream.contains("data: your order is there\n"), "{shown}");
    assert!(!stream.contains("on its way"), "{stream}");
    server.stop();
}
