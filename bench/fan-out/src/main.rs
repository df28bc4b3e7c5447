//! One channel, many subscribers, few events: what a connection and a delivery cost the server, beside a bare loop
//! that does nothing but one `send` an event and socket.
//!
//! Both are driven by the same readers in this process, one after the other, so that ratios mean something on a noisy
//! machine. Everything that is sent is counted by every reader; a share of them reads each event and checks the order.

mod bare;
mod process;
mod readers;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;

use crate::process::Server;
use crate::readers::Readers;

/// One channel, many subscribers, few events: the server beside a bare loop of sends.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many subscribers, at most 15,000: each end of a connection is a descriptor.
    #[arg(long, default_value_t = 10_000)]
    subscribers: usize,
    /// Events a second.
    #[arg(long, default_value_t = 10)]
    rate: u32,
    /// Bytes of data of an event.
    #[arg(long, default_value_t = 200)]
    size: usize,
    /// For how long events are published, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Rounds of bare and server in turn; the medians count.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// The `tidings` binary; by default the one beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Fail when a connection costs the server more user memory than this, in bytes.
    #[arg(long)]
    max_memory: Option<f64>,
    /// Be the bare loop (this program starts itself so).
    #[arg(long, hide = true)]
    be_bare: bool,
}

/// What one run has measured.
#[derive(Debug, Clone, Copy)]
struct Measured {
    /// Microseconds of the server's CPU, user and system, for one delivery.
    cpu_micros: f64,
    /// Bytes of anonymous memory for one more connection.
    memory: f64,
    /// From the time when an event was due to when a reader had it, in milliseconds: the median and the 99th percentile.
    p50: f64,
    p99: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bare,
    Tidings,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.be_bare {
        return bare::run();
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} subscribers of one channel, {} events/s of {} bytes, {} s",
        arguments.subscribers, arguments.rate, arguments.size, arguments.seconds
    )?;
    let mut runs: [Vec<Measured>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..arguments.rounds.max(1) {
        for (kind, runs) in [Kind::Bare, Kind::Tidings].into_iter().zip(&mut runs) {
            runs.push(run(kind, &arguments).with_context(|| format!("{kind:?}"))?);
        }
    }
    let [bare, tidings] = runs.map(median);
    writeln!(out, "{:<22}{:>14}{:>14}{:>10}", "", "bare send", "tidings", "ratio")?;
    let mut row = |name: &str, bare: f64, ours: f64| {
        writeln!(out, "{name:<22}{bare:>14.2}{ours:>14.2}{:>9.2}x", ours / bare)
    };
    row("CPU a delivery, µs", bare.cpu_micros, tidings.cpu_micros)?;
    row("latency p50, ms", bare.p50, tidings.p50)?;
    row("latency p99, ms", bare.p99, tidings.p99)?;
    writeln!(out, "{:<22}{:>14.0}{:>14.0}", "memory a connection, B", bare.memory, tidings.memory)?;
    if let Some(max) = arguments.max_memory {
        ensure!(
            tidings.memory <= max,
            "a connection costs {:.0} bytes, {max:.0} are allowed",
            tidings.memory
        );
    }
    Ok(())
}

fn median(runs: Vec<Measured>) -> Measured {
    let of = |pick: fn(&Measured) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Measured {
        cpu_micros: of(|m| m.cpu_micros),
        memory: of(|m| m.memory),
        p50: of(|m| m.p50),
        p99: of(|m| m.p99),
    }
}

fn run(kind: Kind, arguments: &Arguments) -> anyhow::Result<Measured> {
    let server = start(kind, arguments)?;
    let mut readers = Readers::new()?;
    let few = arguments.subscribers / 10;
    readers.connect(server.address, few)?;
    thread::sleep(Duration::from_millis(300));
    let memory_of_few = server.memory()?;
    readers.connect(server.address, arguments.subscribers - few)?;
    thread::sleep(Duration::from_millis(300));
    let memory = (server.memory()? - memory_of_few) / (arguments.subscribers - few) as f64;

    let mut publisher = Publisher::new(kind, server.address, arguments.size)?;
    let events = u64::from(arguments.rate) * u64::from(arguments.seconds);
    let period = Duration::from_secs(1) / arguments.rate;
    let begin = Instant::now();
    let cpu = server.cpu()?;
    for n in 0..events {
        let due = begin + period * u32::try_from(n)?;
        readers.read_until(due)?;
        publisher.publish(due.duration_since(begin))?;
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !readers.all_have(events)? {
        ensure!(Instant::now() < deadline, "after 30 s, {}", readers.missing(events));
        readers.read_until(Instant::now() + Duration::from_millis(20))?;
    }
    let cpu = server.cpu()? - cpu;
    let latencies = readers.latencies(begin);
    let deliveries = events as f64 * arguments.subscribers as f64;
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Ok(Measured { cpu_micros: cpu.as_secs_f64() * 1e6 / deliveries, memory, p50: at(0.5), p99: at(0.99) })
}

fn start(kind: Kind, arguments: &Arguments) -> anyhow::Result<Server> {
    let this = std::env::current_exe()?;
    let mut command = match kind {
        Kind::Bare => {
            let mut command = Command::new(&this);
            command.arg("--be-bare");
            command
        }
        Kind::Tidings => {
            let beside = this.with_file_name(format!("tidings{}", std::env::consts::EXE_SUFFIX));
            let mut command = Command::new(arguments.binary.as_ref().unwrap_or(&beside));
            let data = std::env::temp_dir().join(format!("tidings-fan-out-{}", std::process::id()));
            command.args(["serve", "--dev", "--log", "memory", "--listen", "127.0.0.1:0", "--data-dir"]);
            command.arg(data);
            command.env("TIDINGS_LIMITS__PER_ADDRESS", "20000").env("TIDINGS_LIMITS__PER_USER", "20000");
            command
        }
    };
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| {
        format!("{:?} can't be started; cargo build --release makes it", command.get_program())
    })?;
    let stdout = child.stdout.take().context("it has an output")?;
    let mut lines = BufReader::new(stdout).lines();
    let address = loop {
        let Some(line) = lines.next() else { bail!("{kind:?} ended without saying where it listens") };
        if let Some((_, address)) = line?.split_once("http://") {
            let end = address.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c)));
            break address[..end.unwrap_or(address.len())].parse::<SocketAddr>()?;
        }
    };
    // What it says from now on is of no interest, but must not fill the pipe.
    thread::spawn(move || lines.for_each(drop));
    Ok(Server::new(child, address))
}

/// Publishes over one connection, in the way that the server understands.
struct Publisher {
    kind: Kind,
    socket: BufReader<TcpStream>,
    size: usize,
    count: u64,
}

impl Publisher {
    fn new(kind: Kind, address: SocketAddr, size: usize) -> anyhow::Result<Publisher> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        Ok(Publisher { kind, socket: BufReader::new(socket), size, count: 0 })
    }

    /// Publishes the next event, which was due at this time since the beginning.
    fn publish(&mut self, due: Duration) -> anyhow::Result<()> {
        let mut data = format!("{} {} ", self.count, due.as_micros());
        data.extend(std::iter::repeat_n('x', self.size.saturating_sub(data.len())));
        self.count += 1;
        let socket = self.socket.get_mut();
        match self.kind {
            Kind::Bare => {
                let block = format!("data: {data}\nid: {:022}\n\n", self.count);
                let chunk = format!("{:x}\r\n{block}\r\n", block.len());
                write!(socket, "POST {}\r\n{chunk}", chunk.len())?;
            }
            Kind::Tidings => {
                let head =
                    "POST /publish?channel=fan HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n";
                write!(socket, "{head}Content-Length: {}\r\n\r\n{data}", data.len())?;
                self.read_answer()?;
            }
        }
        Ok(())
    }

    fn read_answer(&mut self) -> anyhow::Result<()> {
        let mut status = String::new();
        self.socket.read_line(&mut status)?;
        ensure!(status.starts_with("HTTP/1.1 200"), "publishing is answered {status:?}");
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.socket.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        Ok(())
    }
}
