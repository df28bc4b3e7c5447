//! The real binary: commands that end, and a server on a free port with a data directory of its own.

// Each test file uses its part of this.
#![allow(dead_code, unreachable_pub)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longer than anything here takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary, in an environment without any setting.
pub fn tidings() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command.env("NO_PROXY", "127.0.0.1");
    command
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// What a command printed, which has to have succeeded.
pub fn stdout_of(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process whose output is read as it comes.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Everything that it wrote, on both outputs.
    written: Arc<Mutex<String>>,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let written = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn({
            let written = written.clone();
            move || {
                for line in out.lines().map_while(Result::ok) {
                    written.lock().unwrap().push_str(&format!("{line}\n"));
                    let _ = sender.send(line);
                }
            }
        });
        let mut errors = child.stderr.take().unwrap();
        thread::spawn({
            let written = written.clone();
            move || {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = errors.read(&mut piece) {
                    written.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
                }
            }
        });
        Running { child, lines, written }
    }

    /// The next line of its standard output.
    pub fn line(&self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("no line in time:\n{}", self.written()),
            Err(RecvTimeoutError::Disconnected) => panic!("it ended:\n{}", self.written()),
        }
    }

    /// What it wrote so far, on both outputs.
    pub fn written(&self) -> String {
        self.written.lock().unwrap().clone()
    }

    /// Waits until it has written something.
    pub fn wait_for(&self, text: &str) {
        let end = Instant::now() + PATIENCE;
        while !self.written().contains(text) {
            assert!(Instant::now() < end, "{text:?} did not come:\n{}", self.written());
            thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn write(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    pub fn close_input(&mut self) {
        drop(self.child.stdin.take());
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it ended.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "it did not end:\n{}", self.written());
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server.
pub struct Server {
    pub running: Running,
    pub data_dir: PathBuf,
    pub url: String,
}

impl Server {
    /// On a free port.
    pub fn start(data_dir: &Path, arguments: &[&str]) -> Server {
        Server::start_with(data_dir, arguments, &[])
    }

    pub fn start_with(data_dir: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Server {
        let listen: &[&str] =
            if arguments.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut command = tidings();
        command.arg("serve").args(listen).arg("--data-dir").arg(data_dir).args(arguments);
        command.envs(environment.iter().copied());
        let running = Running::start(&mut command);
        let first = running.line();
        let url =
            first.strip_prefix("Tidings is listening on ").unwrap_or_else(|| panic!("{first}")).to_owned();
        Server { running, data_dir: data_dir.to_owned(), url }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        let address = self.url.strip_prefix("http://").unwrap();
        address.split('/').next().unwrap()
    }

    /// A command for this server.
    pub fn client(&self, command: &str) -> Command {
        let mut client = tidings();
        client.args([command, "--url", &self.url]);
        client
    }

    /// A token by the command line, from the server's own data directory.
    pub fn token(&self, arguments: &[&str]) -> String {
        stdout_of(tidings().arg("token").arg("--data-dir").arg(&self.data_dir).args(arguments))
    }

    /// The answer's head to a request, as it is on the wire.
    pub fn request(&self, head: &str) -> String {
        let mut socket = TcpStream::connect(self.address()).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(socket, "{head}\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address()).unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut piece = [0; 1024];
            let length = socket.read(&mut piece).unwrap();
            assert!(length > 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..length]);
        }
        String::from_utf8(answer).unwrap()
    }

    /// Stops it in order.
    pub fn stop(mut self) -> String {
        self.running.signal(Signal::TERM);
        let status = self.running.wait();
        assert!(status.success(), "{status}\n{}", self.running.written());
        self.running.written()
    }
}

/// The first example of a page of the documentation: a script, and what the page says that it prints.
pub fn documented(page: &str) -> (String, String) {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(page);
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once("```sh\n").unwrap();
    let (script, rest) = rest.split_once("```").unwrap();
    let shown = rest.split_once("\n```\n").and_then(|(_, shown)| shown.split_once("```"));
    (script.to_owned(), shown.map_or(String::new(), |(shown, _)| shown.to_owned()))
}

/// Runs a script of the documentation as a person would, with this binary on the path, until it ends well; what it
/// printed.
pub fn run_script(script: &str, dir: &Path, server: &Server) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_tidings")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("timeout");
    shell.arg(PATIENCE.as_secs().to_string()).args(["bash", "-euc", script]).current_dir(dir);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            shell.env_remove(name);
        }
    }
    shell.env("PATH", path).env("NO_PROXY", "127.0.0.1").env("URL", &server.url);
    let output = run(shell.env("TIDINGS_URL", &server.url));
    let printed = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(output.status.success(), "{}: {}\n{printed}", output.status, stderr(&output));
    printed
}
