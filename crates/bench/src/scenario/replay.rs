//! What comes back at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use hdrhistogram::Histogram;

use super::{CHECK_EVERY, SETTLED, Setting, Used, Watched, following, spelled, wait_until};
use crate::clients::{Clients, Following, histogram};
use crate::clock;
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::publisher::Publisher;
use crate::results::{Figure, Run, Unit};
use crate::schedule::Schedule;
use crate::server::Server;

/// Events that everybody lacks.
const LACKING: u64 = 100;
/// Subscribers of another channel, who go on meanwhile.
const LIVE: usize = 100;
/// Events a second of theirs.
const RATE: f64 = 50.0;
/// Seconds of the calm before the storm, at most: every event of it is remembered.
const CALM: f64 = 60.0;

/// Everybody comes back for a hundred events at once, while others follow another channel.
pub(super) fn storm(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let server = setting.server()?;
    let back = Following {
        count: settings.subscribers,
        channels: vec![1],
        more: format!("&last_event_id={}", lacking(setting, &server)?),
    };
    let mut clients = setting.clients(LIVE)?;
    // A second set of processes, so that connecting is done while the first ones read.
    let mut returning = setting.clients(settings.subscribers)?;
    clients.connect(&server, setting.target, 0, &[following(LIVE, vec![0])], 1)?;
    clients.begin_timeline()?;
    let mut publisher = setting.publisher(&server)?;
    let calm = settings.seconds.min(CALM);
    let schedule = Schedule::new(clock::now() + 100_000, RATE, calm);
    let goes_on = AtomicBool::new(true);
    let (live, storm) = thread::scope(|scope| {
        let live = scope.spawn(|| live(&mut publisher, &schedule, settings.size, &goes_on));
        (setting.say)("the calm before");
        wait_until(schedule.due(schedule.events));
        (setting.say)("everybody comes back");
        let storm = Storm::raise(setting, &server, &mut returning, back);
        goes_on.store(false, Ordering::Relaxed);
        (live.join(), storm)
    });
    let Ok(live) = live else {
        return Err(BenchError::Clients("a thread of the benchmark panicked".to_owned()));
    };
    let (storm, (published, late)) = (storm?, live?);
    clients.settle(0, published * LIVE as u64, SETTLED)?;
    let spans = [(schedule.begin, storm.began), (storm.began, storm.ended)];
    let group = clients.collect_spans(&[published], &spans)?.remove(0);
    let p99 = |latencies: &Histogram<u64>| latencies.value_at_quantile(0.99) as f64;
    let (quiet, busy) = (&group.spans[0], &group.spans[1]);
    let events = (LACKING * settings.subscribers as u64) as f64;
    let mut figures = vec![Figure::higher("replayed", events / storm.used.time, Unit::PerSecond)];
    if server.is_accounted() {
        let each_second = events / storm.used.cpu.max(0.01);
        figures.push(Figure::higher("replayed a CPU second", each_second, Unit::PerSecond));
    }
    if !busy.is_empty() {
        figures.push(Figure::lower("live p99 to before", p99(busy) / p99(quiet).max(1.0), Unit::Ratio));
    }
    figures.push(Figure::lower("live p99 before", p99(quiet), Unit::Micros));
    if !busy.is_empty() {
        figures.push(Figure::lower("live p99 meanwhile", p99(busy), Unit::Micros));
    }
    let mut run = setting.run(
        format!(
            "{} subscribers come back for {LACKING} events of {} bytes each, connecting included, after {calm} s in which only {LIVE} others get {RATE} events/s",
            spelled(settings.subscribers),
            settings.size
        ),
        figures,
    );
    if busy.is_empty() {
        let over = "all had come back before a live event was due: more subscribers take longer";
        run.notes.push(over.to_owned());
    }
    run.violations = storm.violations;
    run.violations.extend(group.violations);
    storm.used.sent(&late).note(&mut run);
    Ok(run)
}

/// Publishes what everybody will lack: the id after which it begins.
fn lacking(setting: &Setting<'_>, server: &Server) -> Result<String, BenchError> {
    let size = setting.settings.size;
    let mut publisher = setting.publisher(server)?;
    publisher.publish(Stamp { channel: 1, sequence: 0, due: clock::now() }, size)?;
    let answer = publisher.finish()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    let Some(id) = answer.get("id").and_then(|id| id.as_str()) else {
        return Err(BenchError::Publish(format!("the answer names no id: {answer}")));
    };
    for sequence in 1..=LACKING {
        publisher.publish(Stamp { channel: 1, sequence, due: clock::now() }, size)?;
    }
    publisher.finish()?;
    Ok(id.to_owned())
}

/// Publishes for those who go on, as long as that is wanted: how many events, and how late they were sent.
fn live(
    publisher: &mut Publisher<'_>,
    schedule: &Schedule,
    size: usize,
    goes_on: &AtomicBool,
) -> Result<(u64, Histogram<u64>), BenchError> {
    let (mut published, mut late) = (0, histogram());
    while goes_on.load(Ordering::Relaxed) {
        let due = schedule.due(published);
        let _ = late.record(wait_until(due));
        publisher.publish(Stamp { channel: 0, sequence: published, due }, size)?;
        published += 1;
    }
    publisher.finish()?;
    Ok((published, late))
}

/// All of them come back.
struct Storm {
    /// When the first one connects, by the shared clock.
    began: u64,
    /// When the last one has what it lacked.
    ended: u64,
    used: Used,
    violations: Vec<String>,
}

impl Storm {
    fn raise(
        setting: &Setting<'_>,
        server: &Server,
        returning: &mut Clients,
        back: Following,
    ) -> Result<Storm, BenchError> {
        let lacking = LACKING * back.count as u64;
        let watched = Watched::new(server, returning)?;
        let began = clock::now();
        returning.connect(server, setting.target, 0, &[back], CHECK_EVERY)?;
        returning.settle(0, lacking, SETTLED)?;
        let ended = clock::now();
        let used = watched.until_now(server);
        let group = returning.collect(&[0, LACKING])?.remove(0);
        Ok(Storm { began, ended, used: used.with(returning, &watched), violations: group.violations })
    }
}
