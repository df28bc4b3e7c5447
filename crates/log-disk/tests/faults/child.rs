//! The process that is killed: it publishes, and says what was acknowledged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_hub::log::suite::wait;
use tidings_hub::log::{AppendError, Log, NewRecord};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig, SyncPolicy};
use tidings_wire::{Channel, Event, Targets};

/// How many publishers a child has.
pub(crate) const PUBLISHERS: u64 = 6;
/// The channels they publish to.
pub(crate) const CHANNELS: [&str; 4] = ["a", "a/x", "b", "c/d/e"];
/// The keys that some have.
pub(crate) const KEYS: [&str; 3] = ["x", "x/y", "z"];

/// The `n`th event of a publisher. Some are in two channels, some are large, some have a key.
pub(crate) fn event(publisher: u64, n: u64) -> Event {
    let channel = |at: u64| CHANNELS[at as usize % CHANNELS.len()].parse::<Channel>().unwrap();
    let mut targets = vec![channel(publisher + n)];
    if n.is_multiple_of(3) {
        targets.push(channel(publisher + n + 1));
    }
    let padding = "x".repeat(if n.is_multiple_of(50) { 20_000 } else { 50 });
    let key = n.is_multiple_of(5).then(|| KEYS[n as usize % KEYS.len()].parse().unwrap());
    let data = format!("{publisher} {n} {padding}").as_str().into();
    Event { key, ..Event::new(Targets::new(targets).unwrap(), data) }
}

/// `child DIR SYNC FIRST…`: opens the log and publishes; each publisher begins with the number that is given for it.
/// A line on its standard input ends it in order.
pub(crate) fn main(arguments: &[String]) -> ExitCode {
    let sync = match arguments[1].as_str() {
        "always" => SyncPolicy::Always,
        "never" => SyncPolicy::Never,
        every => SyncPolicy::Every(Duration::from_millis(every.parse().expect("milliseconds"))),
    };
    let opened = DataDir::open(&arguments[0]).and_then(|dir| {
        let config = DiskLogConfig { sync, reserve_bytes: 1 << 20, ..DiskLogConfig::new(dir) };
        DiskLog::open(config, Timestamp::now())
    });
    let log = match opened {
        Ok(log) => Arc::new(log),
        Err(error) => {
            say(&format!("refused {error}"));
            return ExitCode::from(3);
        }
    };
    say("ready");
    let stop = Arc::new(AtomicBool::new(false));
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let (log, stop) = (log.clone(), stop.clone());
            let first = arguments[2 + publisher as usize].parse().expect("a number");
            std::thread::spawn(move || publish(&log, publisher, first, &stop))
        })
        .collect();
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.join().expect("a publisher ends");
    }
    log.close();
    say("closed");
    ExitCode::SUCCESS
}

fn publish(log: &DiskLog, publisher: u64, first: u64, stop: &AtomicBool) {
    let mut n = first;
    while !stop.load(Ordering::Relaxed) {
        let record = NewRecord { time: Timestamp(1_000 + n), event: Arc::new(event(publisher, n)) };
        match wait(log.append(vec![record])) {
            Ok(positions) => {
                let position = positions[0];
                say(&format!("ack {} {} {publisher} {n}", position.epoch.0, position.sequence.0));
                n += 1;
            }
            Err(AppendError::Full) => {
                say("full");
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(AppendError::NotStored(why)) => {
                say(&format!("not stored {why}"));
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => {
                say(&format!("error {error}"));
                return;
            }
        }
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be gone.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// A running child.
pub(crate) struct Running {
    process: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    pub(crate) said: Vec<String>,
}

impl Running {
    /// Starts a child on a directory, and waits until it has opened the log or has ended.
    pub(crate) fn start(dir: &Path, sync: &str, first: &[u64], environment: &[(&str, String)]) -> Running {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("child")
            .arg(dir)
            .arg(sync)
            .args(first.iter().map(u64::to_string))
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let input = process.stdin.take();
        let mut running = Running { process, input, lines, said: Vec::new() };
        if let Ok(line) = running.lines.recv_timeout(Duration::from_secs(60)) {
            running.said.push(line);
        }
        running
    }

    /// Lets it run until it has said so many lines, or ended.
    pub(crate) fn run_for(&mut self, lines: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let until = self.said.len() + lines;
        while self.said.len() < until {
            assert!(Instant::now() < deadline, "the child neither publishes nor ends");
            match self.lines.recv_timeout(Duration::from_secs(60)) {
                Ok(line) => self.said.push(line),
                Err(_) => return,
            }
        }
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.rest()
    }

    /// Ends it in order.
    pub(crate) fn stop(mut self) -> (ExitStatus, Vec<String>) {
        drop(self.input.take());
        let status = self.process.wait().unwrap();
        (status, self.rest())
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return (status, self.rest());
            }
            assert!(Instant::now() < deadline, "the child does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn rest(&mut self) -> Vec<String> {
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(10)) {
            self.said.push(line);
        }
        std::mem::take(&mut self.said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
