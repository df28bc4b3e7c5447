//! The suite that every log runs, and what is the disk's own.

use std::sync::Arc;

use tempfile::TempDir;
use tidings_hub::Timestamp;
use tidings_hub::log::suite::{Logs, wait};
use tidings_hub::log::{Caps, Log, NewRecord, Retention};
use tidings_wire::{Channel, Event, Pattern, Sequence};

use crate::{DataDir, DiskLog, DiskLogConfig, SyncPolicy};

/// Each log in a directory of its own.
struct OnDisk {
    dirs: Vec<(TempDir, Retention)>,
}

impl OnDisk {
    fn new() -> OnDisk {
        OnDisk { dirs: Vec::new() }
    }

    fn open(&self) -> Arc<dyn Log> {
        let (dir, retention) = self.dirs.last().unwrap();
        let config = DiskLogConfig {
            retention: retention.clone(),
            // The suite is about what is answered; what outlives a loss of power has tests of its own.
            sync: SyncPolicy::Never,
            reserve_bytes: 0,
            ..DiskLogConfig::new(DataDir::open(dir.path()).unwrap())
        };
        Arc::new(DiskLog::open(config, Timestamp(1_763_645_351_000)).unwrap())
    }
}

impl Logs for OnDisk {
    fn create(&mut self, retention: Retention) -> Arc<dyn Log> {
        self.dirs.push((tempfile::tempdir().unwrap(), retention));
        self.open()
    }

    fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        log.close();
        drop(log);
        self.open()
    }
}

tidings_hub::log_suite!(OnDisk::new());

#[test]
fn what_forgotten_channels_lost_counts_for_unknown_ones_and_patterns() {
    let mut logs = OnDisk::new();
    let caps = Caps { count: Some(0), ..Caps::default() };
    let log = logs.create(Retention { default: caps, ..Retention::default() });
    let channel = |n: u64| format!("user/{n}").parse::<Channel>().unwrap();
    let floor = |log: &dyn Log, channel: Channel| log.floor(&[channel.into()]);
    // Sixteen are remembered in tests.
    for n in 1..=16 + 10 {
        let event = Arc::new(Event::new(channel(n).into(), "x".into()));
        wait(log.append(vec![NewRecord { time: Timestamp(n), event }])).unwrap();
    }
    let check = |log: &dyn Log| {
        assert_eq!(floor(log, channel(5)), Sequence(10), "forgotten");
        assert_eq!(floor(log, channel(11)), Sequence(11), "remembered");
        assert_eq!(floor(log, "never".parse().unwrap()), Sequence(10), "may be a forgotten one");
        let pattern: Pattern = "other/**".parse().unwrap();
        assert_eq!(log.floor(&[pattern.into()]), Sequence(10));
    };
    log.retain(Timestamp(100));
    log.retain(Timestamp(100));
    check(&*log);
    let log = logs.reopen(log);
    check(&*log);
    // One of them comes back, and does not claim to have lost nothing.
    let event = Arc::new(Event::new(channel(5).into(), "x".into()));
    wait(log.append(vec![NewRecord { time: Timestamp(50), event: event.clone() }])).unwrap();
    assert_eq!(floor(&*log, channel(5)), Sequence(27));
    let log = logs.reopen(log);
    assert_eq!(floor(&*log, channel(5)), Sequence(27));
}
