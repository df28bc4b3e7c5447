//! How many durable publishes a second the log takes, how many syncs they cost, and how soon it is open again.
//!
//!     cargo run --release -p tidings-log-disk --example durable -- [publishers] [seconds] [channels] [directory]
//!
//! Measured on two cores that were busy with other work (load 8, a sync took 4 ms instead of 0.2): 12,000–14,000
//! publishes a second with 64 in flight, 25,000 with 512, 50 and 250 of them to a sync; 38,000–46,000 with 64 in
//! flight on a file system in memory. The writer takes about 8 µs for each.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_hub::log::{Caps, Log, MemoryLog, MemoryLogConfig, NewRecord, Retention};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_wire::{Channel, Epoch, Event};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (publishers, seconds, channels) = (number(64)?, number(5)?, number(100)?);
    let dir: PathBuf = std::env::args().nth(4).map_or_else(|| "target/durable-log".into(), Into::into);
    let channels: Arc<[Channel]> =
        (0..channels).map(|n| format!("orders/{n}").parse()).collect::<Result<_, _>>()?;
    let kept =
        Retention { total: Caps { count: Some(1_000_000), ..Caps::default() }, ..Retention::default() };
    let unlimited = Retention::default();
    let time = Duration::from_secs(seconds);

    let memory = MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: kept.clone() });
    run("memory, one event at a time", Arc::new(memory), publishers, time, &channels)?;
    for (name, retention) in [("disk", unlimited.clone()), ("disk, a million kept", kept)] {
        let config = DiskLogConfig { retention, ..DiskLogConfig::new(DataDir::open(&dir)?) };
        run(name, Arc::new(DiskLog::open(config, Timestamp::now())?), publishers, time, &channels)?;
        report(&format!("{:.0} MB in the database", size_of(&dir)? as f64 / 1e6));
    }
    let dir = DataDir::open(&dir)?;
    let start = Instant::now();
    let log = DiskLog::open(DiskLogConfig::new(dir), Timestamp::now())?;
    report(&format!("open again in {:.1} ms, {:?}", start.elapsed().as_secs_f64() * 1e3, log.recovery()));
    Ok(())
}

fn run(
    name: &str,
    log: Arc<dyn Log>,
    publishers: u64,
    time: Duration,
    channels: &Arc<[Channel]>,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let before = log.stats();
    let start = Instant::now();
    let (published, mut latencies) = runtime.block_on(async {
        let tasks: Vec<_> = (0..publishers)
            .map(|publisher| {
                let (log, channels) = (log.clone(), channels.clone());
                tokio::spawn(async move {
                    let mut latencies = Vec::new();
                    let mut n = publisher;
                    while start.elapsed() < time {
                        let channel = channels[n as usize % channels.len()].clone();
                        let event = Arc::new(Event::new(channel.into(), "x".repeat(200).as_str().into()));
                        let sent = Instant::now();
                        if log.append(vec![NewRecord { time: Timestamp::now(), event }]).await.is_err() {
                            break;
                        }
                        latencies.push(sent.elapsed());
                        n += publishers * 7 + 1;
                    }
                    latencies
                })
            })
            .collect();
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await.unwrap_or_default());
        }
        (all.len() as u64, all)
    });
    let elapsed = start.elapsed().as_secs_f64();
    let stats = log.stats();
    let syncs = stats.syncs - before.syncs;
    latencies.sort();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
    report(&format!(
        "{name}: {:.0} publishes/s with {publishers} in flight, {syncs} syncs ({:.1} publishes each), \
         p50 {:?}, p99 {:?}, worst {:?}",
        published as f64 / elapsed,
        published as f64 / syncs.max(1) as f64,
        at(0.5),
        at(0.99),
        at(1.0 - 1e-9),
    ));
    log.close();
    Ok(())
}

fn size_of(dir: &std::path::Path) -> std::io::Result<u64> {
    Ok(std::fs::metadata(dir.join("tidings.db"))?.len())
}

#[allow(clippy::print_stdout, reason = "a report on the terminal is all it is for")]
fn report(line: &str) {
    println!("{line}");
}
