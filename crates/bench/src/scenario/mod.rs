//! What is measured: each scenario begins with a fresh server and fresh subscribers, and ends with figures.

mod connecting;
mod delivery;
mod featured;
mod publishing;
mod replay;
mod rounds;
mod used;

use self::used::{Used, Watched};

use std::path::PathBuf;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::clients::{Clients, Following, Group, histogram};
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::publisher::{Publisher, Requests};
use crate::results::{Figure, Run, Unit};
use crate::schedule::Schedule;
use crate::server::Server;
use crate::servers::Servers;
use crate::target::Target;
use crate::{clock, results};

/// One in so many subscribers reads every event.
const CHECK_EVERY: usize = 100;
/// After which time without an event nothing more is waited for.
const SETTLED: Duration = Duration::from_secs(10);

/// How much is done.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Subscribers.
    pub subscribers: usize,
    /// Events a second.
    pub rate: f64,
    /// Bytes of an event's data.
    pub size: usize,
    /// For how long events are published.
    pub seconds: f64,
    /// How often each scenario is run; the medians count.
    pub rounds: usize,
    /// Where servers have their folders.
    pub data_dir: PathBuf,
    /// The processors for servers, as `taskset` takes them.
    pub server_cpus: Option<String>,
    /// The processors for clients.
    pub client_cpus: Option<String>,
    /// The processors that this process had before it was pinned to the clients': those of servers that are not pinned.
    pub unpinned: Option<String>,
    /// The command of a client process.
    pub agent: Vec<String>,
    /// The command of a supervisor, without `--folder DIR -- COMMAND…`.
    pub supervisor: Vec<String>,
    /// Gets every server that is started.
    pub servers: Servers,
}

/// A scenario by its name.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// `fan-out`
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Whether it uses what only Tidings has.
    pub tidings_only: bool,
    run: fn(&Setting<'_>) -> Result<Run, BenchError>,
}

/// Every scenario.
pub const SCENARIOS: &[Scenario] = &[
    scenario("fan-out", "one channel that all subscribers follow", false, delivery::fan_out),
    scenario("channels", "100 channels, each with a hundredth of the subscribers", false, delivery::channels),
    scenario("many", "each subscriber follows 5 of 100 channels", false, delivery::many),
    scenario("users", "each event goes to one of 1,000 users", true, delivery::users),
    scenario("load", "latency as the rate rises, in one channel", false, delivery::load),
    scenario("sizes", "events from 64 bytes to 64 KiB", false, delivery::sizes),
    scenario("stalled", "one in a hundred subscribers reads no more", false, delivery::stalled),
    scenario("backlog-4", "as fast as it goes, the publisher 4 events ahead", false, delivery::backlog_4),
    scenario("backlog-32", "as fast as it goes, the publisher 32 events ahead", false, delivery::backlog_32),
    scenario("latency-1", "one subscriber: from the publish to its arrival", false, delivery::latency_1),
    scenario("latency-1000", "1,000 subscribers, 50 events a second", false, delivery::latency_1000),
    scenario("connect", "how fast subscribers connect", false, connecting::connect),
    scenario("idle", "memory for connections, CPU while nothing happens", false, connecting::idle),
    scenario("storm", "everybody comes back for 100 events while others are served", true, replay::storm),
    scenario("publish", "64 connections publish, each waits for its answers", false, publishing::publish),
    scenario("batches", "16 connections publish 100 events at a time", true, publishing::batches),
    scenario("durable", "64 connections publish to the log on disk", true, publishing::durable),
    scenario(
        "tokens",
        "1,000 channels of 60 small events a second, one viewer each",
        true,
        publishing::tokens,
    ),
    scenario(
        "featured",
        "what others' filters, presence and durable subscriptions cost who has none",
        true,
        featured::featured,
    ),
];

/// What is run when nothing is chosen.
pub const USUAL: &[&str] = &["fan-out", "backlog-32", "latency-1", "connect", "idle", "publish"];

const fn scenario(
    name: &'static str,
    about: &'static str,
    tidings_only: bool,
    run: fn(&Setting<'_>) -> Result<Run, BenchError>,
) -> Scenario {
    Scenario { name, about, tidings_only, run }
}

/// One scenario with one target.
#[derive(Clone, Copy)]
struct Setting<'a> {
    settings: &'a Settings,
    target: &'a Target,
    say: &'a dyn Fn(&str),
}

impl Scenario {
    /// Finds one.
    pub fn named(name: &str) -> Option<Scenario> {
        SCENARIOS.iter().find(|scenario| scenario.name == name).copied()
    }

    /// Runs it with each of these targets; what goes wrong is in the results. Rounds go from target to target, so that a
    /// machine that is slower for a while is so for all. `say` is told what happens meanwhile.
    pub fn run(&self, settings: &Settings, targets: &[Target], say: &dyn Fn(&Target, &str)) -> Vec<Run> {
        let mut all: Vec<Result<Vec<Run>, BenchError>> = targets.iter().map(|_| Ok(Vec::new())).collect();
        for _ in 0..settings.rounds {
            for (target, rounds) in targets.iter().zip(&mut all) {
                if let Ok(done) = rounds {
                    match self.round(&Setting { settings, target, say: &|what| say(target, what) }) {
                        Ok(run) => done.push(run),
                        Err(error) => *rounds = Err(error),
                    }
                }
            }
        }
        let joined = |(target, rounds): (&Target, Result<Vec<Run>, BenchError>)| {
            let (run, failed) = match rounds.map(rounds::joined) {
                Ok(Some(run)) => (run, None),
                Ok(None) => (Run::empty(target), Some("no round was asked for".to_owned())),
                Err(error) => (Run::empty(target), Some(error.to_string())),
            };
            let title = if failed.is_some() { self.about.to_owned() } else { run.title };
            Run { scenario: self.name.to_owned(), title, failed, ..run }
        };
        targets.iter().zip(all).map(joined).collect()
    }

    fn round(&self, setting: &Setting<'_>) -> Result<Run, BenchError> {
        if self.tidings_only && !setting.target.tidings {
            return Err(BenchError::Unsupported("it takes what only Tidings has".to_owned()));
        }
        (self.run)(setting)
    }
}

impl Setting<'_> {
    fn server(&self) -> Result<Server, BenchError> {
        (self.say)("starting");
        Server::start(self.target, self.settings)
    }

    fn clients(&self, subscribers: usize) -> Result<Clients, BenchError> {
        Clients::start(&self.settings.agent, subscribers, self.settings.client_cpus.as_deref())
    }

    fn publisher<'s>(&'s self, server: &'s Server) -> Result<Publisher<'s>, BenchError> {
        Publisher::new(Requests::new(self.target, server))
    }

    fn run(&self, title: String, figures: Vec<Figure>) -> Run {
        Run { title, figures, ..Run::empty(self.target) }
    }

    /// Publishes by a schedule, in turn to so many channels, and waits until everything has arrived: what the first
    /// group got.
    fn open_loop(
        &self,
        server: &Server,
        clients: &mut Clients,
        load: &Load,
    ) -> Result<(Group, Used), BenchError> {
        let mut publisher = self.publisher(server)?;
        // A first event opens what is opened late: connections, caches, lazily made channels.
        clients.begin()?;
        let mut published = vec![0; load.channels as usize];
        let watched = Watched::new(server, clients)?;
        let schedule = Schedule::new(clock::now() + 100_000, load.rate, load.seconds);
        let (mut said, mut late) = (0, histogram());
        for event in 0..schedule.events {
            let due = schedule.due(event);
            let _ = late.record(wait_until(due));
            let channel = (event % u64::from(load.channels)) as u32;
            let sequence = published[channel as usize];
            publisher
                .publish(Stamp { channel, sequence, due }, load.sizes[event as usize % load.sizes.len()])?;
            published[channel as usize] += 1;
            let second = (due - schedule.begin) / 1_000_000;
            if second > said {
                said = second;
                (self.say)(&format!("publishing, {second} of {:.0} s", load.seconds));
            }
        }
        publisher.finish()?;
        let due = published.iter().zip(&load.receivers).map(|(events, receivers)| events * receivers).sum();
        clients.settle(0, due, SETTLED)?;
        let used = watched.until_now(server).sent(&late);
        let mut groups = clients.collect(&published)?;
        if groups.is_empty() {
            return Err(BenchError::Clients("there are no subscribers".to_owned()));
        }
        let group = groups.remove(0);
        Ok((group, used.with(clients, &watched)))
    }
}

/// What is published in an open loop.
struct Load {
    rate: f64,
    seconds: f64,
    channels: u32,
    /// In turn.
    sizes: Vec<usize>,
    /// Subscribers of each channel in the first group.
    receivers: Vec<u64>,
}

/// Until a moment of the shared clock: how late it is then. Sleeps but for the last moments, for sleeping longer than
/// asked is usual.
fn wait_until(due: u64) -> u64 {
    const SPIN: u64 = 60;
    loop {
        let now = clock::now();
        match due.saturating_sub(now) {
            0 => return now - due,
            1..=SPIN => std::hint::spin_loop(),
            left => std::thread::sleep(Duration::from_micros(left - SPIN)),
        }
    }
}

fn following(count: usize, channels: Vec<u32>) -> Following {
    Following { count, channels, more: String::new() }
}

fn latencies(histogram: &Histogram<u64>) -> Vec<Figure> {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64;
    if histogram.is_empty() {
        return Vec::new();
    }
    vec![
        Figure::lower("latency p50", at(0.5), Unit::Micros),
        Figure::lower("latency p90", at(0.9), Unit::Micros),
        Figure::lower("latency p99", at(0.99), Unit::Micros),
        Figure::lower("latency p99.9", at(0.999), Unit::Micros),
        Figure::lower("latency max", histogram.max() as f64, Unit::Micros),
    ]
}

/// "10,000".
fn spelled(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn axis(label: &str, unit: Unit) -> results::Axis {
    results::Axis { label: label.to_owned(), unit }
}
