//! What events cost on their way to many, and how long that takes.

use std::time::{Duration, Instant};

use super::{
    CHECK_EVERY, Load, SETTLED, Setting, Used, Watched, axis, following, latencies, spelled, wait_until,
};
use crate::clients::{Following, Group};
use crate::clock;
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::results::{Figure, Run, Series, Unit};
use crate::server::Server;
use crate::target::Target;

/// Channels of the scenarios with many.
const CHANNELS: u32 = 100;
/// Channels of a subscriber that has several.
const SEVERAL: u32 = 5;
/// With so many subscribers what a server makes once no longer counts; `idle` has the slope.
const MANY: usize = 5000;
/// Users that events are sent to.
const USERS: usize = 1000;

/// Who follows what, and what is published.
struct Plan {
    title: String,
    following: Vec<Following>,
    load: Load,
}

impl Plan {
    /// One channel that all follow.
    fn one_channel(title: String, subscribers: usize, rate: f64, seconds: f64, sizes: Vec<usize>) -> Plan {
        let receivers = vec![subscribers as u64];
        let load = Load { rate, seconds, channels: 1, sizes, receivers };
        Plan { title, following: vec![following(subscribers, vec![0])], load }
    }
}

pub(super) fn fan_out(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let (subscribers, rate, size) = (settings.subscribers, settings.rate, settings.size);
    let title = format!(
        "{} subscribers of one channel, {rate} events/s of {size} bytes, {} s",
        spelled(subscribers),
        settings.seconds
    );
    let plan = Plan::one_channel(title, subscribers, rate, settings.seconds, vec![size]);
    measured(setting, plan)
}

pub(super) fn channels(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let each = (settings.subscribers / CHANNELS as usize).max(1);
    // As many deliveries a second as with one channel.
    let rate = settings.rate * f64::from(CHANNELS);
    let plan = Plan {
        title: format!(
            "{CHANNELS} channels of {} subscribers, {rate} events/s of {} bytes in all, {} s",
            spelled(each),
            settings.size,
            settings.seconds
        ),
        following: (0..CHANNELS).map(|channel| following(each, vec![channel])).collect(),
        load: Load {
            rate,
            seconds: settings.seconds,
            channels: CHANNELS,
            sizes: vec![settings.size],
            receivers: vec![each as u64; CHANNELS as usize],
        },
    };
    measured(setting, plan)
}

pub(super) fn many(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let each = (settings.subscribers / CHANNELS as usize).max(1);
    let step = CHANNELS / SEVERAL;
    let of = |first: u32| (0..SEVERAL).map(|n| (first + n * step) % CHANNELS).collect::<Vec<_>>();
    let rate = settings.rate * f64::from(step);
    let plan = Plan {
        title: format!(
            "{} subscribers of {SEVERAL} of {CHANNELS} channels, {rate} events/s of {} bytes in all, {} s",
            spelled(each * CHANNELS as usize),
            settings.size,
            settings.seconds
        ),
        following: (0..CHANNELS).map(|first| following(each, of(first))).collect(),
        load: Load {
            rate,
            seconds: settings.seconds,
            channels: CHANNELS,
            sizes: vec![settings.size],
            receivers: vec![each as u64 * u64::from(SEVERAL); CHANNELS as usize],
        },
    };
    measured(setting, plan)
}

pub(super) fn users(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let Some(users) = setting.target.users.as_ref() else {
        return Err(BenchError::Unsupported("it takes a server whose tokens can be signed here".to_owned()));
    };
    let settings = setting.settings;
    let each = (settings.subscribers / USERS).max(1);
    let rate = settings.rate * USERS as f64 / 10.0;
    let target: &Target = &users.target;
    let plan = Plan {
        title: format!(
            "{} users with {each} connections, {rate} events/s of {} bytes to one of them in turn, {} s",
            spelled(USERS),
            settings.size,
            settings.seconds
        ),
        following: (0..USERS as u32)
            .map(|user| Following {
                count: each,
                channels: vec![user],
                more: format!("&token={}", (users.token)(&crate::clients::channel(user))),
            })
            .collect(),
        load: Load {
            rate,
            seconds: settings.seconds,
            channels: USERS as u32,
            sizes: vec![settings.size],
            receivers: vec![each as u64; USERS],
        },
    };
    measured(&Setting { target, ..*setting }, plan)
}

pub(super) fn sizes(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let subscribers = (settings.subscribers / 10).max(1);
    let sizes = [64, 256, 1024, 200, 64, 4096, 512, 16_384, 128, 65_536];
    let title = format!(
        "{} subscribers of one channel, {} events/s of 64 bytes to 64 KiB in turn, {} s",
        spelled(subscribers),
        settings.rate,
        settings.seconds
    );
    let plan = Plan::one_channel(title, subscribers, settings.rate, settings.seconds, sizes.to_vec());
    measured(setting, plan)
}

pub(super) fn latency_1(setting: &Setting<'_>) -> Result<Run, BenchError> {
    latency(setting, 1, 200.0)
}

pub(super) fn latency_1000(setting: &Setting<'_>) -> Result<Run, BenchError> {
    latency(setting, 1000, 50.0)
}

fn latency(setting: &Setting<'_>, subscribers: usize, rate: f64) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let title = format!(
        "{} subscribers of one channel, {rate} events/s of {} bytes, {} s; all of them are timed",
        spelled(subscribers),
        settings.size,
        settings.seconds
    );
    let plan = Plan::one_channel(title, subscribers, rate, settings.seconds, vec![settings.size]);
    delivered(setting, plan, 1).map(|(run, _)| run)
}

pub(super) fn load(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let subscribers = (settings.subscribers / 10).max(1);
    let mut lines = [("p50", Vec::new()), ("p99", Vec::new())];
    let mut cpu = Vec::new();
    let (mut violations, mut notes) = (Vec::new(), Vec::new());
    let mut last = None;
    for factor in [1.0, 3.0, 10.0, 30.0, 100.0] {
        let rate = settings.rate * factor;
        let seconds = (settings.seconds / 2.0).max(1.0);
        let plan = Plan::one_channel(String::new(), subscribers, rate, seconds, vec![settings.size]);
        let (run, used) = delivered(setting, plan, CHECK_EVERY)?;
        for (quantile, points) in &mut lines {
            points.extend(run.figure(&format!("latency {quantile}")).map(|value| (rate, value)));
        }
        cpu.push((rate, used.cpu / used.time));
        violations.extend(run.violations.iter().map(|what| format!("at {rate} events/s: {what}")));
        notes.extend(run.notes.iter().map(|what| format!("at {rate} events/s: {what}")));
        last = Some(run);
    }
    let title = format!(
        "{} subscribers of one channel, {} to {} events/s of {} bytes; the figures are of the highest rate",
        spelled(subscribers),
        settings.rate,
        settings.rate * 100.0,
        settings.size
    );
    let mut run = setting.run(title, last.map(|run| run.figures).unwrap_or_default());
    (run.violations, run.notes) = (violations, notes);
    let x = axis("events a second", Unit::PerSecond);
    run.series = lines
        .into_iter()
        .map(|(line, points)| Series {
            plot: "latency over load".to_owned(),
            line: line.to_owned(),
            x: x.clone(),
            y: axis("latency", Unit::Micros),
            points,
        })
        .collect();
    run.series.push(Series {
        plot: "CPU of the server over load".to_owned(),
        line: String::new(),
        x,
        y: axis("CPU", Unit::Cores),
        points: cpu,
    });
    Ok(run)
}

/// Delivers, and measures what a connection holds on the way.
fn measured(setting: &Setting<'_>, plan: Plan) -> Result<Run, BenchError> {
    delivered(setting, plan, CHECK_EVERY).map(|(run, _)| run)
}

fn delivered(setting: &Setting<'_>, plan: Plan, check_every: usize) -> Result<(Run, Used), BenchError> {
    let server = setting.server()?;
    let subscribers: usize = plan.following.iter().map(|following| following.count).sum();
    let mut clients = setting.clients(subscribers)?;
    let empty = server.memory().own;
    (setting.say)("connecting");
    clients.connect(&server, setting.target, 0, &plan.following, check_every)?;
    std::thread::sleep(Duration::from_millis(300));
    let full = server.memory().own;
    let (group, used) = setting.open_loop(&server, &mut clients, &plan.load)?;
    let mut figures = delivery_figures(&server, &group, &used);
    if server.is_accounted() && subscribers >= MANY {
        let each = full.saturating_sub(empty) as f64 / subscribers as f64;
        figures.push(Figure::lower("memory a connection", each, Unit::Bytes));
    }
    if server.is_accounted() {
        figures.push(Figure::lower("memory", server.memory().all as f64, Unit::Bytes));
        figures.push(Figure::lower("CPU", used.cpu / used.time, Unit::Cores));
    }
    figures.extend(latencies(&group.latencies));
    figures.push(Figure::neither("deliveries", group.counted as f64, Unit::Count));
    figures.push(Figure::neither(
        "bytes a delivery",
        group.bytes as f64 / group.counted.max(1) as f64,
        Unit::Bytes,
    ));
    let mut run = setting.run(plan.title, figures);
    run.violations = group.violations;
    used.note(&mut run);
    Ok((run, used))
}

fn delivery_figures(server: &Server, group: &Group, used: &Used) -> Vec<Figure> {
    if !server.is_accounted() {
        return Vec::new();
    }
    let each = used.cpu * 1e6 / group.counted.max(1) as f64;
    vec![Figure::lower("CPU a delivery", each, Unit::Micros)]
}

pub(super) fn backlog_4(setting: &Setting<'_>) -> Result<Run, BenchError> {
    backlog(setting, 4)
}

pub(super) fn backlog_32(setting: &Setting<'_>) -> Result<Run, BenchError> {
    backlog(setting, 32)
}

/// As fast as it goes: the publisher is never more than `ahead` events ahead of the average subscriber.
fn backlog(setting: &Setting<'_>, ahead: u64) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let server = setting.server()?;
    let mut clients = setting.clients(settings.subscribers)?;
    (setting.say)("connecting");
    clients.connect(&server, setting.target, 0, &[following(settings.subscribers, vec![0])], CHECK_EVERY)?;
    let mut publisher = setting.publisher(&server)?;
    clients.begin()?;
    let watched = Watched::new(&server, &mut clients)?;
    clients.watch(true)?;
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(settings.seconds);
    let (mut published, mut progress) = (0, 0);
    let mut said = 0;
    let mut moved = Instant::now();
    while Instant::now() < end {
        while published - progress < ahead {
            let stamp = Stamp { channel: 0, sequence: published, due: clock::now() };
            publisher.publish(stamp, settings.size)?;
            published += 1;
        }
        if let Some(newest) = clients.progress(Duration::from_millis(100)) {
            progress = newest.max(progress);
            moved = Instant::now();
        } else if moved.elapsed() > SETTLED {
            break;
        }
        if begin.elapsed().as_secs() > said {
            said = begin.elapsed().as_secs();
            (setting.say)(&format!("publishing, {said} of {:.0} s", settings.seconds));
        }
    }
    clients.watch(false)?;
    publisher.finish()?;
    clients.settle(0, published * settings.subscribers as u64, SETTLED)?;
    let used = watched.until_now(&server);
    let group = clients.collect(&[published])?.remove(0);
    let used = used.with(&clients, &watched);
    let mut figures = vec![Figure::higher("deliveries", group.counted as f64 / used.time, Unit::PerSecond)];
    if server.is_accounted() {
        let each_second = group.counted as f64 / used.cpu.max(0.01);
        figures.push(Figure::higher("deliveries a CPU second", each_second, Unit::PerSecond));
        figures.push(Figure::neither("CPU", used.cpu / used.time, Unit::Cores));
        figures.push(Figure::lower("memory", server.memory().all as f64, Unit::Bytes));
    }
    figures.push(Figure::higher("bytes", group.bytes as f64 / used.time, Unit::PerSecond));
    figures.extend(latencies(&group.latencies));
    let mut run = setting.run(
        format!(
            "{} subscribers of one channel, events of {} bytes, the publisher {ahead} ahead, {} s",
            spelled(settings.subscribers),
            settings.size,
            settings.seconds
        ),
        figures,
    );
    run.violations = group.violations;
    used.note(&mut run);
    Ok(run)
}

/// One in a hundred reads no more: the others' latencies before and after, and the server's memory.
pub(super) fn stalled(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let others = settings.subscribers - settings.subscribers / 100;
    let stalled = (settings.subscribers / 100).max(1);
    let server = setting.server()?;
    let mut clients = setting.clients(settings.subscribers)?;
    (setting.say)("connecting");
    clients.connect(&server, setting.target, 0, &[following(others, vec![0])], CHECK_EVERY)?;
    clients.connect(&server, setting.target, 1, &[following(stalled, vec![0])], 0)?;
    // Large enough that the kernel's buffers are full before the end.
    let size = settings.size.max(2000);
    let load = || Load {
        rate: settings.rate,
        seconds: settings.seconds,
        channels: 1,
        sizes: vec![size],
        receivers: vec![others as u64],
    };
    let (before, used) = setting.open_loop(&server, &mut clients, &load())?;
    clients.stall(1)?;
    // Fills their sockets before it counts.
    let mut publisher = setting.publisher(&server)?;
    for sequence in 0..200 {
        wait_until(clock::now() + 10_000);
        publisher.publish(Stamp { channel: 0, sequence, due: clock::now() }, size)?;
    }
    publisher.finish()?;
    std::thread::sleep(Duration::from_secs(1));
    let memory_before = server.memory().own;
    // The channel's events begin anew for the checkers, who have seen others.
    let (after, used_after) = setting.open_loop(&server, &mut clients, &load())?;
    let memory_after = server.memory().own;
    let p99 = |group: &Group| group.latencies.value_at_quantile(0.99) as f64;
    let growth = memory_after as f64 - memory_before as f64;
    let mut run = setting.run(
        format!(
            "{} subscribers of one channel, {} of whom stop reading, {} events/s of {size} bytes, {} s",
            spelled(settings.subscribers),
            spelled(stalled),
            settings.rate,
            settings.seconds
        ),
        vec![
            Figure::lower("others' p99 to before", p99(&after) / p99(&before).max(1.0), Unit::Ratio),
            Figure::lower("others' p99 before", p99(&before), Unit::Micros),
            Figure::lower("others' p99 meanwhile", p99(&after), Unit::Micros),
            Figure::lower("memory grown", growth.max(0.0), Unit::Bytes),
        ],
    );
    run.violations = before.violations;
    run.violations.extend(after.violations);
    used.or(used_after).note(&mut run);
    Ok(run)
}
