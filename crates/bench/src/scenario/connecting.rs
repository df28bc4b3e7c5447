//! What connections cost.

use std::thread;
use std::time::Duration;

use super::{Setting, Watched, axis, following, latencies, spelled};
use crate::error::BenchError;
use crate::results::{Figure, Run, Series, Unit};

pub(super) fn connect(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let subscribers = setting.settings.subscribers;
    let server = setting.server()?;
    let mut clients = setting.clients(subscribers)?;
    (setting.say)("connecting");
    // The first ones pay for what is made once.
    clients.connect(&server, setting.target, 0, &[following(100.min(subscribers), vec![0])], 0)?;
    let watched = Watched::new(&server, &mut clients)?;
    let connected = clients.connect(&server, setting.target, 1, &[following(subscribers, vec![0])], 0)?;
    let used = watched.until_now(&server);
    clients.collect(&[])?;
    let used = used.with(&clients, &watched);
    let mut figures =
        vec![Figure::higher("connects", connected.count as f64 / connected.seconds, Unit::PerSecond)];
    if server.is_accounted() {
        let each = used.cpu * 1e6 / connected.count as f64;
        figures.push(Figure::lower("CPU a connect", each, Unit::Micros));
    }
    figures.extend(latencies(&connected.latencies));
    let title = format!(
        "{} subscribers connect, 128 at a time, until each has its first bytes",
        spelled(subscribers)
    );
    let mut run = setting.run(title, figures);
    used.note(&mut run);
    Ok(run)
}

pub(super) fn idle(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let server = setting.server()?;
    if !server.is_accounted() {
        return Err(BenchError::Unsupported("it takes a server whose process is known".to_owned()));
    }
    let mut clients = setting.clients(settings.subscribers)?;
    let mut points = Vec::new();
    let mut connected = 0;
    for (group, share) in [1, 4, 7, 10].into_iter().enumerate() {
        (setting.say)("connecting");
        let wanted = (settings.subscribers * share / 10).max(connected + 1);
        clients.connect(&server, setting.target, group, &[following(wanted - connected, vec![0])], 0)?;
        connected = wanted;
        thread::sleep(Duration::from_millis(500));
        points.push((connected as f64, server.memory().own as f64));
    }
    let (first, last) = (points[0], points[points.len() - 1]);
    let slope = (last.1 - first.1) / (last.0 - first.0).max(1.0);
    // Over at least one heartbeat of fifteen seconds.
    let seconds = settings.seconds.max(16.0);
    let watched = Watched::new(&server, &mut clients)?;
    for second in 0..seconds as u64 {
        (setting.say)(&format!("idle, {second} of {seconds:.0} s"));
        thread::sleep(Duration::from_secs(1));
    }
    let used = watched.until_now(&server);
    clients.collect(&[])?;
    let used = used.with(&clients, &watched);
    let mut run = setting.run(
        format!("{} subscribers, {seconds:.0} s without an event", spelled(settings.subscribers)),
        vec![
            Figure::lower("memory a connection", slope, Unit::Bytes),
            Figure::lower("CPU while idle", used.cpu / used.time, Unit::Cores),
            Figure::lower("memory", server.memory().all as f64, Unit::Bytes),
        ],
    );
    run.series.push(Series {
        plot: "memory over connections".to_owned(),
        line: String::new(),
        x: axis("connections", Unit::Count),
        y: axis("the server's own memory", Unit::Bytes),
        points,
    });
    used.note(&mut run);
    Ok(run)
}
