//! What comes back at once.

use std::time::Instant;

use super::{CHECK_EVERY, Load, SETTLED, Setting, following, spelled};
use crate::clients::{Clients, Following, Group};
use crate::clock;
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::results::{Figure, Run, Unit};
use crate::server::Server;

/// Events that everybody lacks.
const LACKING: u64 = 100;
/// Subscribers of another channel, who go on meanwhile.
const LIVE: usize = 100;
/// Events a second of theirs.
const RATE: f64 = 50.0;

/// Everybody comes back for a hundred events at once, while others follow another channel.
pub(super) fn storm(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let server = setting.server()?;
    let mut clients = setting.clients(settings.subscribers + LIVE)?;
    let mut publisher = setting.publisher(&server)?;
    publisher.publish(Stamp { channel: 1, sequence: 0, due: clock::now() }, settings.size)?;
    let answer = publisher.finish()?;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
    let Some(id) = answer.get("id").and_then(|id| id.as_str()) else {
        return Err(BenchError::Publish(format!("the answer names no id: {answer}")));
    };
    for sequence in 1..=LACKING {
        publisher.publish(Stamp { channel: 1, sequence, due: clock::now() }, settings.size)?;
    }
    publisher.finish()?;
    clients.connect(&server, setting.target, 0, &[following(LIVE, vec![0])], 1)?;
    let quiet = live(setting, &server, &mut clients, || Ok(()))?;
    (setting.say)("everybody comes back");
    let mut replayed = (0.0, 0.0);
    let back =
        Following { count: settings.subscribers, channels: vec![1], more: format!("&last_event_id={id}") };
    // A second set of processes, so that connecting is done while the first ones read.
    let mut returning = setting.clients(settings.subscribers)?;
    let mut violations = Vec::new();
    let (target, server) = (setting.target, &server);
    let lacking = LACKING * settings.subscribers as u64;
    let busy = live(setting, server, &mut clients, || {
        let (cpu, began) = (server.cpu(), Instant::now());
        returning.connect(server, target, 0, &[back], CHECK_EVERY)?;
        returning.settle(0, lacking, SETTLED)?;
        replayed = (began.elapsed().as_secs_f64(), server.cpu_since(cpu));
        let group = returning.collect(&[0, LACKING])?.remove(0);
        violations = group.violations;
        Ok(())
    })?;
    let events = lacking as f64;
    let p99 = |group: &Group| group.latencies.value_at_quantile(0.99) as f64;
    let mut figures = vec![Figure::higher("replayed", events / replayed.0, Unit::PerSecond)];
    if server.is_accounted() {
        figures.push(Figure::higher("replayed a CPU second", events / replayed.1.max(0.01), Unit::PerSecond));
    }
    figures.extend([
        Figure::lower("live p99 to before", p99(&busy) / p99(&quiet).max(1.0), Unit::Ratio),
        Figure::lower("live p99 before", p99(&quiet), Unit::Micros),
        Figure::lower("live p99 meanwhile", p99(&busy), Unit::Micros),
    ]);
    let mut run = setting.run(
        format!(
            "{} subscribers come back for {LACKING} events of {} bytes each, connecting included, while {LIVE} others get {RATE} events/s",
            spelled(settings.subscribers),
            settings.size
        ),
        figures,
    );
    run.violations = violations;
    run.violations.extend(quiet.violations);
    run.violations.extend(busy.violations);
    Ok(run)
}

/// What those get who go on, while something else is done.
fn live(
    setting: &Setting<'_>,
    server: &Server,
    clients: &mut Clients,
    meanwhile: impl FnOnce() -> Result<(), BenchError> + Send,
) -> Result<Group, BenchError> {
    let load = Load {
        rate: RATE,
        seconds: setting.settings.seconds,
        channels: 1,
        sizes: vec![setting.settings.size],
        receivers: vec![LIVE as u64],
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(meanwhile);
        let quiet = Setting { say: &|_| {}, ..*setting };
        let group = quiet.open_loop(server, clients, &load).map(|(group, _)| group)?;
        match other.join() {
            Ok(done) => done.map(|()| group),
            Err(_) => Err(BenchError::Clients("a thread of the benchmark panicked".to_owned())),
        }
    })
}
