//! What publishing costs.

use super::{CHECK_EVERY, SETTLED, Setting, Watched, following, latencies, wait_until};
use crate::clients::histogram;
use crate::clock;
use crate::error::BenchError;
use crate::file_system;
use crate::payload::Stamp;
use crate::publisher::{Lines, Requests, closed_loop};
use crate::results::{Figure, Run, Unit};
use crate::schedule::Schedule;

/// Channels, and events a second of each, as a model's tokens come.
const TOKENS: (u32, f64) = (1000, 60.0);
/// Bytes of such an event.
const TOKEN_SIZE: usize = 40;

pub(super) fn publish(setting: &Setting<'_>) -> Result<Run, BenchError> {
    published(setting, 64, 1)
}

pub(super) fn batches(setting: &Setting<'_>) -> Result<Run, BenchError> {
    published(setting, 16, 100)
}

pub(super) fn durable(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let Some(target) = setting.target.durable.as_deref() else {
        return Err(BenchError::Unsupported(
            "it takes a server that is started with its log on disk".to_owned(),
        ));
    };
    let mut run = published(&Setting { target, ..*setting }, 64, 1)?;
    if file_system::is_in_memory(&setting.settings.data_dir) {
        let folder = setting.settings.data_dir.display();
        run.notes.push(format!(
            "the log was in {folder}, which is memory (tmpfs), where a sync costs nothing: name a folder on a disk with --data-dir"
        ));
    }
    Ok(run)
}

fn published(setting: &Setting<'_>, connections: usize, batch: usize) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let server = setting.server()?;
    let requests = Requests::new(setting.target, &server);
    (setting.say)("warming up");
    closed_loop(&requests, connections, batch, settings.size, 0.5)?;
    (setting.say)("publishing");
    let (commits, watched) = (commits(setting, &requests), Watched::alone(&server));
    let reached = closed_loop(&requests, connections, batch, settings.size, settings.seconds)?;
    let used = watched.until_now(&server);
    let mut figures =
        vec![Figure::higher("publishes", reached.events as f64 / reached.seconds, Unit::PerSecond)];
    if server.is_accounted() {
        let each = used.cpu * 1e6 / reached.events.max(1) as f64;
        figures.push(Figure::lower("CPU a publish", each, Unit::Micros));
        figures.push(Figure::neither("CPU", used.cpu / reached.seconds, Unit::Cores));
    }
    if let (Some(before), Some(after)) = (commits, self::commits(setting, &requests))
        && after > before
    {
        figures.push(Figure::higher(
            "publishes a sync",
            reached.events as f64 / (after - before),
            Unit::Ratio,
        ));
    }
    figures.extend(latencies(&reached.latencies));
    let what = if batch > 1 { format!("{batch} events at a time") } else { "one event at a time".to_owned() };
    let title = format!(
        "{connections} connections publish {what}, of {} bytes, nobody listens, {} s",
        settings.size, settings.seconds
    );
    let mut run = setting.run(title, figures);
    used.note(&mut run);
    Ok(run)
}

/// How often Tidings has synced its log.
fn commits(setting: &Setting<'_>, requests: &Requests<'_>) -> Option<f64> {
    if !setting.target.tidings {
        return None;
    }
    let stats: serde_json::Value = serde_json::from_slice(&requests.get("/stats")?).ok()?;
    stats.get("log")?.get("syncs")?.as_f64()
}

pub(super) fn tokens(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let (channels, each) = TOKENS;
    let server = setting.server()?;
    let mut clients = setting.clients(channels as usize)?;
    (setting.say)("connecting");
    let viewers: Vec<_> = (0..channels).map(|channel| following(1, vec![channel])).collect();
    clients.connect(&server, setting.target, 0, &viewers, CHECK_EVERY / 10)?;
    let mut lines = Lines::new(&Requests::new(setting.target, &server), channels)?;
    clients.begin()?;
    let watched = Watched::new(&server, &mut clients)?;
    let schedule = Schedule::new(clock::now() + 100_000, each * f64::from(channels), settings.seconds);
    let (mut published, mut late) = (vec![0; channels as usize], histogram());
    for event in 0..schedule.events {
        let due = schedule.due(event);
        let _ = late.record(wait_until(due));
        let channel = (event % u64::from(channels)) as u32;
        let sequence = published[channel as usize];
        lines.publish(Stamp { channel, sequence, due }, TOKEN_SIZE)?;
        published[channel as usize] += 1;
    }
    clients.settle(0, schedule.events, SETTLED)?;
    let used = watched.until_now(&server).sent(&late);
    let group = clients.collect(&published)?.remove(0);
    let used = used.with(&clients, &watched);
    let mut figures = latencies(&group.latencies);
    if server.is_accounted() {
        figures.push(Figure::lower("CPU", used.cpu / used.time, Unit::Cores));
        let each = used.cpu * 1e6 / group.counted.max(1) as f64;
        figures.push(Figure::lower("CPU an event", each, Unit::Micros));
    }
    let title = format!(
        "{channels} channels of {each} events/s of {TOKEN_SIZE} bytes, each published as one NDJSON request, one viewer each, {} s",
        settings.seconds
    );
    let mut run = setting.run(title, figures);
    run.violations = group.violations;
    used.note(&mut run);
    Ok(run)
}
