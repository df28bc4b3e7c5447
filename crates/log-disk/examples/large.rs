//! How soon a large log is open again, also after its process was killed, and how fast it is read.
//!
//!     cargo run --release -p tidings-log-disk --example large -- DIRECTORY [megabytes] [channels]
//!
//! The first run fills the directory and then kills itself; the next one measures.

use std::sync::Arc;
use std::time::Instant;

use tidings_hub::log::suite::wait;
use tidings_hub::log::{Log, NewRecord, Order, ReadLimit, Selection};
use tidings_hub::{Timestamp, View};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_wire::{Channel, Event, Pattern, Sequence};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dir = arguments.first().ok_or("a directory, please")?;
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let (megabytes, channels) = (number(1, 1_000)?, number(2, 10_000)?);
    let channel = |n: u64| format!("orders/{n}").parse::<Channel>();
    let fresh = !std::path::Path::new(dir).join("tidings.db").exists();

    let start = Instant::now();
    let log = DiskLog::open(DiskLogConfig::new(DataDir::open(dir)?), Timestamp::now())?;
    let stats = log.stats();
    report(&format!(
        "open in {:.1} ms: {} records in {} channels, {:?}",
        start.elapsed().as_secs_f64() * 1e3,
        stats.records,
        stats.channels,
        log.recovery()
    ));
    if fresh {
        let data = "x".repeat(280);
        let mut n: u64 = 0;
        while log.stats().bytes < megabytes << 20 {
            let batch = (0..5_000)
                .map(|_| {
                    n += 1;
                    let event = Event::new(channel(n * 7_919 % channels)?.into(), data.as_str().into());
                    Ok(NewRecord { time: Timestamp::now(), event: Arc::new(event) })
                })
                .collect::<Result<_, tidings_wire::BadName>>()?;
            wait(log.append(batch))?;
        }
        report(&format!("filled at {:.0} records/s", n as f64 / start.elapsed().as_secs_f64()));
        std::process::abort();
    }

    let mut after = Sequence::START;
    let (start, mut records) = (Instant::now(), 0);
    while records < 500_000 && after < log.head().sequence {
        let view = View::from("**".parse::<Pattern>()?);
        let limit = ReadLimit { through: log.head().sequence, records: 1_000, bytes: 1 << 20 };
        let page = log.read(&[Selection { view, after }], Order::Oldest, limit, Timestamp(0))?;
        records += page.records.len();
        after = page.through;
    }
    report(&format!("all channels: {:.0} records/s", records as f64 / start.elapsed().as_secs_f64()));

    let (start, mut records) = (Instant::now(), 0);
    for n in 0..5_000 {
        let after = Sequence(log.head().sequence.0 / 2);
        let limit = ReadLimit { through: log.head().sequence, records: 100, bytes: 1 << 20 };
        let selections: Vec<Selection> = (0..3)
            .map(|more| Ok(Selection { view: View::from(channel((n * 3 + more) % channels)?), after }))
            .collect::<Result<_, tidings_wire::BadName>>()?;
        records += log.read(&selections, Order::Oldest, limit, Timestamp(0))?.records.len();
    }
    let elapsed = start.elapsed().as_secs_f64();
    report(&format!(
        "three channels of a returning client: {:.0} pages/s, {:.0} records/s",
        5_000.0 / elapsed,
        records as f64 / elapsed
    ));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a report on the terminal is all it is for")]
fn report(line: &str) {
    println!("{line}");
}
