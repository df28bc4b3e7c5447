//! The subscribers, as the benchmark sees them: one or several client processes, told what to do all at once.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::agent::message::{Connect, Order, Report, Wire};
use crate::error::BenchError;
use crate::scan::Violations;
use crate::server::Server;
use crate::target::{Target, Values};

/// Subscribers of one process: a process has 20,000 descriptors at most on many systems.
const EACH: usize = 15_000;
/// Connections from one address to one port: the kernel has 28,000 ports for them by default.
const FROM_ONE_ADDRESS: usize = 25_000;
/// How long a client process may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// The client processes. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Clients {
    agents: Vec<Agent>,
    cpu: f64,
}

#[derive(Debug)]
struct Agent {
    child: Child,
    orders: ChildStdin,
    reports: Receiver<Report>,
}

/// Subscribers that ask for the same channels.
#[derive(Debug, Clone)]
pub(crate) struct Following {
    pub(crate) count: usize,
    /// Numbers of channels.
    pub(crate) channels: Vec<u32>,
    /// Added to the query: `&last_event_id=…`.
    pub(crate) more: String,
}

/// What all subscribers of a group got.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) subscribers: u64,
    pub(crate) counted: u64,
    pub(crate) bytes: u64,
    pub(crate) latencies: Histogram<u64>,
    /// Those of each span that was asked for.
    pub(crate) spans: Vec<Histogram<u64>>,
    pub(crate) violations: Vec<String>,
}

/// How connecting went.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) count: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Histogram<u64>,
}

impl Clients {
    /// Starts as many processes as so many subscribers take. `agent` is the command of one.
    pub(crate) fn start(
        agent: &[String],
        subscribers: usize,
        cpus: Option<&str>,
    ) -> Result<Clients, BenchError> {
        let count = subscribers.div_ceil(EACH).max(1);
        let agents = (0..count).map(|_| Agent::start(agent, cpus)).collect::<Result<_, _>>()?;
        Ok(Clients { agents, cpu: 0.0 })
    }

    /// Connects subscribers and waits until each has its first bytes.
    pub(crate) fn connect(
        &mut self,
        server: &Server,
        target: &Target,
        group: usize,
        following: &[Following],
        check_every: usize,
    ) -> Result<Connected, BenchError> {
        let count = self.agents.len();
        let all: usize = following.iter().map(|following| following.count).sum();
        let several = all > FROM_ONE_ADDRESS;
        for (number, agent) in self.agents.iter_mut().enumerate() {
            let mut wires = Vec::new();
            for following in following {
                // The first processes take what can't be shared evenly.
                let share = following.count / count + usize::from(number < following.count % count);
                if share > 0 {
                    wires.push(wire(server, target, following, share)?);
                }
            }
            let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
            agent.order(&Order::Connect(Box::new(Connect {
                group,
                address: server.address,
                source: several.then(|| Ipv4Addr::new(127, 0, 0, last)),
                transport: target.transport,
                mark: target.mark.clone(),
                check_every,
                in_flight: 128,
                wires,
            })))?;
        }
        let mut connected = Connected { count: 0, seconds: 0.0, latencies: histogram() };
        for agent in &mut self.agents {
            match agent.report(PATIENCE)? {
                Report::Connected { count, micros, latencies } => {
                    connected.count += count;
                    connected.seconds = connected.seconds.max(micros as f64 / 1e6);
                    add(&mut connected.latencies, &latencies);
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(connected)
    }

    /// Counts from here on.
    pub(crate) fn begin(&mut self) -> Result<(), BenchError> {
        self.all_begun(&Order::Begin { timeline: false })
    }

    /// The same, and remembers when each event was due that is checked, for [`Clients::collect_spans`].
    pub(crate) fn begin_timeline(&mut self) -> Result<(), BenchError> {
        self.all_begun(&Order::Begin { timeline: true })
    }

    /// The subscribers of a group read no more.
    pub(crate) fn stall(&mut self, group: usize) -> Result<(), BenchError> {
        self.all_begun(&Order::Stall { group })
    }

    fn all_begun(&mut self, order: &Order) -> Result<(), BenchError> {
        for agent in &mut self.agents {
            agent.order(order)?;
        }
        for agent in &mut self.agents {
            match agent.report(PATIENCE)? {
                Report::Begun => {}
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// Whether to be told how many events the average subscriber of the first group has.
    pub(crate) fn watch(&mut self, watching: bool) -> Result<(), BenchError> {
        // What was said of a round before.
        while self.agents[0].reports.try_recv().is_ok() {}
        self.agents.iter_mut().try_for_each(|agent| agent.order(&Order::Watch(watching)))
    }

    /// The newest such number of the first process, which stands for all; waits for one.
    pub(crate) fn progress(&mut self, timeout: Duration) -> Option<u64> {
        let mut newest = None;
        let mut wait = timeout;
        while let Ok(Report::Progress(progress)) = self.agents[0].reports.recv_timeout(wait) {
            newest = Some(progress);
            wait = Duration::ZERO;
        }
        newest
    }

    /// Events that all subscribers of a group have since [`Clients::begin`], and how many were cut off.
    pub(crate) fn status(&mut self, group: usize) -> Result<(u64, u64), BenchError> {
        for agent in &mut self.agents {
            agent.order(&Order::Status)?;
        }
        let mut sums = (0, 0);
        for agent in &mut self.agents {
            match agent.report(PATIENCE)? {
                Report::Status { counted, closed } => {
                    sums.0 += counted.get(group).copied().unwrap_or_default();
                    sums.1 += closed.get(group).copied().unwrap_or_default();
                }
                other => return Err(unexpected(&other)),
            }
        }
        Ok(sums)
    }

    /// Waits until a group has so many events, or has got none for some seconds; how many it has.
    pub(crate) fn settle(&mut self, group: usize, due: u64, patience: Duration) -> Result<u64, BenchError> {
        let mut moved = Instant::now();
        let mut last = 0;
        loop {
            let (counted, _) = self.status(group)?;
            if counted >= due || moved.elapsed() > patience {
                return Ok(counted);
            }
            if counted != last {
                (last, moved) = (counted, Instant::now());
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// What each group got since [`Clients::begin`], judged by how many events each channel had.
    pub(crate) fn collect(&mut self, published: &[u64]) -> Result<Vec<Group>, BenchError> {
        self.collect_spans(published, &[])
    }

    /// The same, with the latencies of what was due in each of these spans of time.
    pub(crate) fn collect_spans(
        &mut self,
        published: &[u64],
        spans: &[(u64, u64)],
    ) -> Result<Vec<Group>, BenchError> {
        for agent in &mut self.agents {
            agent.order(&Order::Collect { published: published.to_vec(), spans: spans.to_vec() })?;
        }
        let mut groups: Vec<Group> = Vec::new();
        let mut violations: Vec<(Violations, [u64; 4])> = Vec::new();
        let mut cpu = 0.0;
        for agent in &mut self.agents {
            let (reports, used) = match agent.report(PATIENCE)? {
                Report::Collected { groups, cpu } => (groups, cpu),
                other => return Err(unexpected(&other)),
            };
            cpu += used;
            for (number, report) in reports.into_iter().enumerate() {
                if groups.len() <= number {
                    groups.push(Group::new(spans.len()));
                    violations.push(Default::default());
                }
                let (group, (broken, counts)) = (&mut groups[number], &mut violations[number]);
                group.subscribers += report.subscribers;
                group.counted += report.counted;
                group.bytes += report.bytes;
                add(&mut group.latencies, &report.latencies);
                for (sum, span) in group.spans.iter_mut().zip(&report.spans) {
                    add(sum, span);
                }
                broken.add(report.violations);
                for (sum, count) in
                    counts.iter_mut().zip([report.closed, report.lacking, report.missing, report.excess])
                {
                    *sum += count;
                }
            }
        }
        for (group, (broken, [closed, lacking, missing, excess])) in groups.iter_mut().zip(violations) {
            if broken.any() {
                group.violations.push(broken.to_string());
            }
            if closed > 0 {
                group.violations.push(format!("the server closed {closed} streams"));
            }
            if missing > 0 {
                group.violations.push(format!("{lacking} subscribers lack {missing} events"));
            }
            if excess > 0 {
                group.violations.push(format!("{excess} events came that were not published, or twice"));
            }
        }
        self.cpu = cpu;
        Ok(groups)
    }

    /// Seconds of CPU that the processes have used, as of the last [`Clients::collect`].
    pub(crate) fn cpu(&self) -> f64 {
        self.cpu
    }
}

impl Group {
    fn new(spans: usize) -> Group {
        Group {
            subscribers: 0,
            counted: 0,
            bytes: 0,
            latencies: histogram(),
            spans: vec![histogram(); spans],
            violations: Vec::new(),
        }
    }
}

impl Agent {
    fn start(agent: &[String], cpus: Option<&str>) -> Result<Agent, BenchError> {
        let failed = BenchError::system("a client process can't be started");
        let mut argv = agent.to_vec();
        if let Some(cpus) = cpus {
            argv.splice(0..0, ["taskset".to_owned(), "-c".to_owned(), cpus.to_owned()]);
        }
        let mut command = Command::new(&argv[0]);
        // A group of its own: a terminal's Ctrl-C is for who started it, whose end ends it too.
        command.args(&argv[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(failed)?;
        let (Some(orders), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let (sender, reports) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                let report = serde_json::from_str(&line)
                    .unwrap_or_else(|_| Report::Failed { what: format!("a client process says {line:?}") });
                if sender.send(report).is_err() {
                    return;
                }
            }
        });
        Ok(Agent { child, orders, reports })
    }

    fn order(&mut self, order: &Order) -> Result<(), BenchError> {
        let mut line = serde_json::to_vec(order).map_err(|error| BenchError::Clients(error.to_string()))?;
        line.push(b'\n');
        self.orders.write_all(&line).map_err(BenchError::system("a client process has ended"))
    }

    fn report(&mut self, patience: Duration) -> Result<Report, BenchError> {
        loop {
            match self.reports.recv_timeout(patience) {
                // What was on its way when watching ended.
                Ok(Report::Progress(_)) => {}
                Ok(Report::Failed { what }) => return Err(BenchError::Clients(what)),
                Ok(report) => return Ok(report),
                Err(RecvTimeoutError::Timeout) => {
                    let what = format!("a client process did not answer for {} s", patience.as_secs());
                    return Err(BenchError::Clients(what));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(BenchError::Clients("a client process has ended".to_owned()));
                }
            }
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn unexpected(report: &Report) -> BenchError {
    BenchError::Clients(format!("a client process says what was not asked: {report:?}"))
}

fn wire(server: &Server, target: &Target, following: &Following, count: usize) -> Result<Wire, BenchError> {
    let subscribe = &target.subscribe;
    let (first, rest) = following.channels.split_first().unwrap_or((&0, &[]));
    let name = channel(*first);
    let values = Values { channel: &name, ..Values::default() };
    let mut path = format!("{}{}", server.base, subscribe.path.fill_path(&values));
    for number in rest {
        let Some(more) = &subscribe.more else {
            let what = format!("{} has no subscribe_more: a subscriber of it has one channel", target.name);
            return Err(BenchError::Unsupported(what));
        };
        path.push_str(&more.fill_path(&Values { channel: &channel(*number), ..Values::default() }));
    }
    path.push_str(&following.more);
    let headers = subscribe.headers.iter().map(|(name, value)| (name.clone(), value.fill(&values)));
    Ok(Wire {
        count,
        channels: following.channels.clone(),
        host: server.host(),
        path,
        headers: headers.collect(),
        hello: subscribe.hello.as_ref().map(|hello| hello.fill(&values)),
        cursor: subscribe.cursor.clone(),
    })
}

/// A channel's name.
pub(crate) fn channel(number: u32) -> String {
    format!("bench-{number}")
}

/// From 1 µs to as much as it takes, with three digits.
pub(crate) fn histogram() -> Histogram<u64> {
    match Histogram::new(3) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("three digits are allowed"),
    }
}

fn add(histogram: &mut Histogram<u64>, values: &[(u64, u64)]) {
    for (value, count) in values {
        // It grows by itself.
        let _ = histogram.record_n(*value, *count);
    }
}
