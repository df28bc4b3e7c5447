//! The suite that every log runs, and what is the disk's own.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;
use tidings_hub::Timestamp;
use tidings_hub::log::suite::{Logs, wait};
use tidings_hub::log::{Caps, Log, NewRecord, Retention};
use tidings_wire::{Channel, Event, Pattern, Position, Sequence, Targets};

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
        let (dir, _) = self.dirs.last().unwrap();
        check_keys(&dir.path().join("tidings.db"));
        self.open()
    }
}

/// Every record with a key is found by it in each channel that has it, and no row of a key outlives the place of its
/// record.
fn check_keys(file: &Path) {
    let database = rusqlite::Connection::open(file).unwrap();
    let pairs = |sql: &str| -> BTreeSet<(i64, i64)> {
        let mut statement = database.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    };
    // Read as a number, a name is the channel's.
    let keyed = pairs("SELECT CAST(name AS INTEGER), seq FROM keyed");
    let places = pairs("SELECT channel, seq FROM places WHERE targets < 0");
    let held = pairs(
        "SELECT channel, seq FROM places JOIN channels ON id = channel WHERE targets < 0 AND seq > gone",
    );
    assert!(keyed.is_subset(&places), "{keyed:?} is more than {places:?}");
    assert!(held.is_subset(&keyed), "{held:?} is more than {keyed:?}");
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

#[test]
fn no_row_of_a_key_is_left_of_what_was_removed() {
    let mut logs = OnDisk::new();
    let caps = |count| Caps { count: Some(count), ..Caps::default() };
    let rules = vec![("capped/*".parse().unwrap(), caps(2))];
    let log = logs.create(Retention { rules, ..Retention::default() });
    let channels = ["capped/1", "capped/2", "kept"].map(|name| name.parse::<Channel>().unwrap());
    for n in 0..30 {
        let to = Targets::new(channels[..1 + n % 3].iter().cloned()).unwrap();
        let event = Event { key: Some(format!("k{}", n % 4).parse().unwrap()), ..Event::new(to, "x".into()) };
        wait(log.append(vec![NewRecord { time: Timestamp(1), event: Arc::new(event) }])).unwrap();
    }
    // One that two channels have lost already, and the third has not.
    wait(log.delete(Position { sequence: Sequence(3), ..log.head() })).unwrap();
    let log = logs.reopen(log);
    wait(log.purge("kept".parse().unwrap())).unwrap();
    log.retain(Timestamp(2));
    let log = logs.reopen(log);
    assert_eq!(log.stats().records, 2);
    wait(log.purge("capped/1".parse().unwrap())).unwrap();
    wait(log.purge("capped/2".parse().unwrap())).unwrap();
    log.retain(Timestamp(3));
    log.close();
    let database = rusqlite::Connection::open(logs.dirs[0].0.path().join("tidings.db")).unwrap();
    for table in ["keyed", "places"] {
        let rows: i64 =
            database.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}
