//! What an opened log takes up from the one before it, and what it refuses.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidings_hub::log::suite::wait;
use tidings_hub::log::{
    AppendError, Caps, Durability, Located, Log, NewRecord, Once, Order, ReadError, ReadLimit, Retention,
    Selection, TailItem,
};
use tidings_hub::{Timestamp, View};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig, OpenError, Recovery, SyncPolicy};
use tidings_wire::{
    Channel, ConnectionId, Data, Epoch, Event, Exclude, Number, Pattern, Position, Sequence, TagValue, Tags,
    Targets,
};

const NOW: Timestamp = Timestamp(1_763_645_351_000);

fn config(dir: &Path) -> DiskLogConfig {
    DiskLogConfig { reserve_bytes: 0, ..DiskLogConfig::new(DataDir::open(dir).unwrap()) }
}

fn open(dir: &Path) -> DiskLog {
    DiskLog::open(config(dir), NOW).unwrap()
}

fn event(channel: &str, data: &str) -> NewRecord {
    let channel = Channel::stored(channel).unwrap();
    NewRecord { time: Timestamp(1_000), event: Arc::new(Event::new(channel.into(), data.into())) }
}

fn append(log: &DiskLog, count: usize) -> Position {
    let batch = (0..count).map(|n| event("a", &n.to_string())).collect();
    *wait(log.append(batch)).unwrap().last().unwrap()
}

fn read(log: &DiskLog, view: &str) -> Result<Vec<(Position, Event)>, ReadError> {
    let view: View = view.parse::<Pattern>().unwrap().into();
    let limit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };
    let selection = Selection { view, after: Sequence::START };
    let page = log.read(&[selection], Order::Oldest, limit, Timestamp(0))?;
    Ok(page.records.into_iter().map(|record| (record.position, (*record.event).clone())).collect())
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
    }
    to
}

#[test]
fn an_orderly_end_keeps_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    assert_eq!(log.recovery(), &Recovery::New);
    let position = append(&log, 3);
    assert_eq!(position.epoch, Epoch(1_763_645_351), "the time of its beginning, in seconds");
    drop(log);
    let log = DiskLog::open(config(dir.path()), NOW.plus(Duration::from_secs(60))).unwrap();
    assert_eq!(log.recovery(), &Recovery::Clean);
    assert_eq!(log.head(), position);
    assert_eq!(append(&log, 1), Position { sequence: Sequence(4), ..position });
}

#[test]
fn another_end_forks_at_what_is_found() {
    for sync in [SyncPolicy::Always, SyncPolicy::Never, SyncPolicy::Every(Duration::from_millis(5))] {
        let dir = tempfile::tempdir().unwrap();
        let log = DiskLog::open(DiskLogConfig { sync, ..config(dir.path()) }, NOW).unwrap();
        let old = append(&log, 3);
        let killed = copy(dir.path());
        drop(log);
        // The clock may not have gone on, or have gone back.
        let log = DiskLog::open(config(killed.path()), Timestamp(0)).unwrap();
        assert_eq!(log.recovery(), &Recovery::Unclean);
        assert_eq!(log.head(), Position { epoch: Epoch(old.epoch.0 + 1), ..old });
        let new = append(&log, 1);
        assert_eq!(new.sequence, Sequence(4));
        assert_eq!(log.locate(old), Located::Here(Sequence(3)));
        assert_eq!(log.locate(Position { sequence: Sequence(4), ..old }), Located::PastFork(Sequence(3)));
        assert_eq!(log.locate(new), Located::Here(Sequence(4)));
        let epochs: Vec<Epoch> =
            read(&log, "a").unwrap().iter().map(|(position, _)| position.epoch).collect();
        assert_eq!(epochs, [old.epoch, old.epoch, old.epoch, new.epoch]);
        let mut tail = log.tail(Sequence(2)).unwrap();
        let items = tail.next(Duration::from_secs(10)).unwrap().unwrap();
        let positions: Vec<Position> = items
            .iter()
            .map(|item| match item {
                TailItem::Stored(record) => record.position,
                other => panic!("{other:?} is no record"),
            })
            .collect();
        assert_eq!(positions, [old, new]);
    }
}

#[test]
fn a_restored_copy_is_known_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let early = append(&log, 3);
    drop(log);
    let backup = copy(dir.path());
    let log = open(dir.path());
    let late = append(&log, 4);
    drop(log);
    fs::copy(backup.path().join("tidings.db"), dir.path().join("tidings.db")).unwrap();
    let log = open(dir.path());
    assert_eq!(log.recovery(), &Recovery::Lost { found: early, expected: late });
    assert!(log.head().epoch > late.epoch);
    assert_eq!(log.locate(late), Located::PastFork(early.sequence));
    assert_eq!(log.locate(early), Located::Here(early.sequence));
    // The same of a whole directory can't be known; who restores one removes the mark.
    fs::remove_file(backup.path().join("head")).unwrap();
    let log = open(backup.path());
    assert_eq!(log.recovery(), &Recovery::Unmarked);
    assert!(log.head().epoch > early.epoch);
    assert_eq!(log.locate(late), Located::PastFork(early.sequence));
}

#[test]
fn a_lost_database_is_known_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let last = append(&log, 3);
    drop(log);
    fs::remove_file(dir.path().join("tidings.db")).unwrap();
    let log = open(dir.path());
    assert!(matches!(log.recovery(), Recovery::Lost { expected, .. } if *expected == last));
    assert_eq!(log.locate(last), Located::PastFork(Sequence::START));
    assert!(append(&log, 1).epoch > last.epoch);
}

#[test]
fn a_restored_epoch_that_only_the_mark_knows_is_past_the_fork() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 3);
    drop(log);
    let backup = copy(dir.path());
    // Two epochs more, then the first one's database comes back.
    let mut seen = Vec::new();
    for _ in 0..2 {
        let log = open(dir.path());
        seen.push(append(&log, 2));
        let killed = copy(dir.path());
        drop(log);
        for name in ["tidings.db", "tidings.db-wal", "head"] {
            let _ = fs::remove_file(dir.path().join(name));
            let _ = fs::copy(killed.path().join(name), dir.path().join(name));
        }
    }
    let _ = fs::remove_file(dir.path().join("tidings.db-wal"));
    fs::copy(backup.path().join("tidings.db"), dir.path().join("tidings.db")).unwrap();
    let log = open(dir.path());
    assert!(matches!(log.recovery(), Recovery::Lost { .. }), "{:?}", log.recovery());
    for position in seen {
        assert_eq!(log.locate(position), Located::PastFork(Sequence(3)));
    }
}

#[test]
fn policies_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let every = Duration::from_millis(100);
    for (sync, durability) in [
        (SyncPolicy::Always, Durability::Synced),
        (SyncPolicy::Every(every), Durability::SyncedEvery(every)),
        (SyncPolicy::Never, Durability::Unsynced),
    ] {
        let log = DiskLog::open(DiskLogConfig { sync, ..config(dir.path()) }, NOW).unwrap();
        assert_eq!(log.durability(), durability);
    }
}

#[test]
fn it_syncs_every_so_often_when_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let sync = SyncPolicy::Every(Duration::from_millis(1));
    let log = DiskLog::open(DiskLogConfig { sync, ..config(dir.path()) }, NOW).unwrap();
    append(&log, 1);
    for _ in 0..10_000 {
        if log.stats().syncs > 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("nothing was synced");
}

#[test]
fn many_appends_share_a_sync() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let appending: Vec<_> = (0..2_000).map(|n| log.append(vec![event("a", &n.to_string())])).collect();
    for append in appending {
        wait(append).unwrap();
    }
    let stats = log.stats();
    assert!(stats.commits <= 200, "{} commits", stats.commits);
    assert!(stats.syncs >= stats.commits, "a commit without a sync");
}

#[test]
fn a_full_queue_is_busy_and_empties() {
    let dir = tempfile::tempdir().unwrap();
    let log = DiskLog::open(DiskLogConfig { queue_bytes: 100_000, ..config(dir.path()) }, NOW).unwrap();
    let large = "x".repeat(40_000);
    let appending: Vec<_> = (0..500).map(|_| log.append(vec![event("a", &large)])).collect();
    let answers: Vec<_> = appending.into_iter().map(wait).collect();
    let busy = answers.iter().filter(|answer| **answer == Err(AppendError::Busy)).count();
    let stored = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(busy > 0 && stored > 0 && busy + stored == 500, "{busy} busy, {stored} stored");
    assert_eq!(log.head().sequence.0, stored as u64);
    // A batch that is larger than the whole queue has its turn when nothing else waits.
    wait(log.append(vec![event("a", &"x".repeat(200_000))])).unwrap();
}

#[test]
fn lowered_caps_hold_after_the_next_retention() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 2_500);
    drop(log);
    let retention =
        Retention { default: Caps { count: Some(10), ..Caps::default() }, ..Retention::default() };
    let log = DiskLog::open(DiskLogConfig { retention, ..config(dir.path()) }, NOW).unwrap();
    log.retain(NOW);
    assert_eq!(read(&log, "a").unwrap().len(), 10);
    assert_eq!(
        (log.stats().records, log.floor(&[View::Channel("a".parse().unwrap())])),
        (10, Sequence(2_490))
    );
    drop(log);
    let log = open(dir.path());
    assert_eq!(read(&log, "**").unwrap().len(), 10);
}

#[test]
fn a_file_of_another_program_is_refused_and_left_alone() {
    for content in [
        &b"SQLite format 3\0 but not really, only much longer than a header has to be".repeat(20)[..],
        b"text",
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("tidings.db");
        fs::write(&file, content).unwrap();
        let error = DiskLog::open(config(dir.path()), NOW).err().expect("it is refused");
        assert!(matches!(error, OpenError::NotALog { .. } | OpenError::Damaged { .. }), "{error:?}");
        assert_eq!(fs::read(&file).unwrap(), content);
    }
}

// Files as they were written by the version that made the format. `cargo test --test faults -- fixture DIR` writes
// those of the present format; a new format gets a new folder, and the old ones stay.

fn fixture(name: &str) -> TempDir {
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name))
}

fn to(names: &[&str]) -> Targets {
    Targets::new(names.iter().map(|name| Channel::stored(name).unwrap())).unwrap()
}

/// What every format has. The rest is told from its head.
fn check_first(log: &DiskLog) -> Epoch {
    assert_eq!(log.recovery(), &Recovery::Clean);
    let epoch = Epoch(1_763_645_351);
    let rich = Event {
        event: "order.paid".parse().unwrap(),
        data: Data::Json(r#"{"sum":1.50}"#.into()),
        retry: Some(5_000),
        ttl: Some(u32::MAX),
        exclude: Exclude {
            user: Some("7".parse().unwrap()),
            client: Some("tab".parse().unwrap()),
            connection: Some(ConnectionId(7)),
        },
        ..Event::new(to(&["orders/7", "$user/7", "$all"]), "".into())
    };
    let at = |sequence| Position { epoch, sequence: Sequence(sequence) };
    let plain = |name: &str, data: &str| Event::new(to(&[name]), data.into());
    let expected = [
        (at(3), plain("orders/7", "kept\nin two lines")),
        (at(4), rich.clone()),
        (at(7), plain("news", "last")),
    ];
    assert_eq!(read(log, "**").unwrap()[..3], expected);
    assert_eq!(read(log, "$user/7").unwrap(), [(at(4), rich)]);
    let floor = |name: &str| log.floor(&[View::Channel(name.parse().unwrap())]).0;
    assert_eq!((floor("purged"), floor("orders/7"), floor("news")), (2, 0, 0));
    assert_eq!(log.locate(Position { epoch: Epoch(1), sequence: Sequence(3) }), Located::Unknown);
    epoch
}

/// The newest records of a channel with a key.
fn keyed(log: &DiskLog, channel: &str, key: &str) -> Result<Vec<u64>, ReadError> {
    let records = log.keyed(&channel.parse().unwrap(), &key.parse().unwrap(), Sequence::START, 10)?;
    Ok(records.iter().map(|record| record.position.sequence.0).collect())
}

#[test]
fn the_first_format_is_read_and_brought_up_to_date() {
    let dir = fixture("format-1");
    let log = open(dir.path());
    let epoch = check_first(&log);
    assert_eq!(log.head(), Position { epoch, sequence: Sequence(7) });
    drop(log);
    let log = open(dir.path());
    check_first(&log);
    assert_eq!(log.ended(&"news".parse().unwrap()), None);
    assert_eq!(append(&log, 1).sequence, Sequence(8));
    // What the first format did not know.
    let end = Event { key: "k".parse().ok(), end: true, ..Event::new(to(&["news", "b"]), "x".into()) };
    wait(log.append(vec![NewRecord { time: NOW, event: Arc::new(end) }])).unwrap();
    drop(log);
    let log = open(dir.path());
    check_first(&log);
    assert_eq!(keyed(&log, "news", "k").unwrap(), [9]);
    assert_eq!(log.ended(&"news".parse().unwrap()), Some(Sequence(9)));
    assert_eq!(log.ended(&"orders/7".parse().unwrap()), None);
}

#[test]
fn the_second_format_is_read() {
    let dir = fixture("format-2");
    let log = open(dir.path());
    let epoch = check_first(&log);
    let at = |sequence| Position { epoch, sequence: Sequence(sequence) };
    assert_eq!(log.head(), at(11));
    assert_eq!(log.note("a name"), Ok(Some(b"a value".to_vec())));
    let asked_again = Once { key: [7; 32], body: [8; 32], until: NOW };
    assert_eq!(wait(log.append_with(vec![event("audit", "once")], asked_again.into())), Ok(vec![at(11)]));
    let state = |data: &str| Event {
        key: "EUR/USD".parse().ok(),
        ..Event::new(to(&["states/1", "audit"]), data.into())
    };
    let tags = [
        ("done".into(), TagValue::Bool(true)),
        ("rows".into(), TagValue::Number(Number::new(12.5).unwrap())),
        ("table".into(), TagValue::Text("orders".into())),
    ];
    let end =
        Event { tags: Tags::new(tags).unwrap(), end: true, ..Event::new(to(&["import"]), Data::Nothing) };
    assert_eq!(
        read(&log, "**").unwrap()[3..],
        [
            (at(8), state("old")),
            (at(9), state("new")),
            (at(10), end),
            (at(11), Event::new(to(&["audit"]), "once".into()))
        ]
    );
    // Only states are kept there; now that is not said any more, and what is gone stays gone.
    assert_eq!(read(&log, "states/1").unwrap(), [(at(9), state("new"))]);
    assert_eq!(read(&log, "audit").unwrap().len(), 3);
    assert_eq!(keyed(&log, "states/1", "EUR/USD").unwrap(), [9]);
    assert_eq!(keyed(&log, "audit", "EUR/USD").unwrap(), [9, 8]);
    assert_eq!(log.ended(&"import".parse().unwrap()), Some(Sequence(10)));
    assert_eq!(
        wait(log.append(vec![event("import", "x")])),
        Err(AppendError::Ended("import".parse().unwrap()))
    );
    assert_eq!(append(&log, 1).sequence, Sequence(12));
}

#[test]
fn an_end_and_keys_outlive_a_killed_process() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let event = |n: u64| Event { key: "k".parse().ok(), end: n == 2, ..Event::new(to(&["a"]), "x".into()) };
    for n in 0..3 {
        wait(log.append(vec![NewRecord { time: NOW, event: Arc::new(event(n)) }])).unwrap();
    }
    let killed = copy(dir.path());
    drop(log);
    let log = open(killed.path());
    assert_eq!(log.recovery(), &Recovery::Unclean);
    assert_eq!(log.ended(&"a".parse().unwrap()), Some(Sequence(3)));
    assert_eq!(keyed(&log, "a", "k").unwrap(), [3, 2, 1]);
    let late = wait(log.append(vec![NewRecord { time: NOW, event: Arc::new(event(0)) }]));
    assert_eq!(late, Err(AppendError::Ended("a".parse().unwrap())), "also in the next epoch");
    assert_eq!(wait(log.purge("a".parse().unwrap())), Ok(3));
    assert_eq!(append(&log, 1).sequence, Sequence(4));
}

#[test]
fn states_gone_from_a_channel_stay_gone_when_all_is_kept_again() {
    let dir = tempfile::tempdir().unwrap();
    let states = Caps { state_only: true, ..Caps::default() };
    let retention = Retention { rules: vec![("s/*".parse().unwrap(), states)], ..Retention::default() };
    let log = DiskLog::open(DiskLogConfig { retention, ..config(dir.path()) }, NOW).unwrap();
    let append_states = |log: &DiskLog| {
        for data in ["1", "2"] {
            let event = Event { key: "k".parse().ok(), ..Event::new(to(&["s/1", "a"]), data.into()) };
            wait(log.append(vec![NewRecord { time: NOW, event: Arc::new(event) }])).unwrap();
        }
    };
    append_states(&log);
    drop(log);
    // From now on everything is kept, and later only one record over all.
    let log = open(dir.path());
    append_states(&log);
    assert_eq!(keyed(&log, "s/1", "k").unwrap(), [4, 3, 2]);
    assert_eq!(read(&log, "a").unwrap().len(), 4);
    drop(log);
    let total = Caps { count: Some(1), ..Caps::default() };
    let retention = Retention { total, ..Retention::default() };
    let log = DiskLog::open(DiskLogConfig { retention, ..config(dir.path()) }, NOW).unwrap();
    log.retain(NOW);
    let stats = log.stats();
    assert_eq!((stats.records, stats.bytes, stats.channels), (1, 1, 2));
    assert_eq!((keyed(&log, "s/1", "k").unwrap(), keyed(&log, "a", "k").unwrap()), (vec![4], vec![4]));
    assert_eq!(wait(log.purge("a".parse().unwrap())), Ok(1));
    assert_eq!(wait(log.purge("s/1".parse().unwrap())), Ok(1));
    assert_eq!((log.stats().records, log.stats().bytes), (0, 0));
}

#[test]
fn a_flipped_bit_in_the_row_of_a_key_is_said() {
    const KEY: &[u8] = b"a key to be damaged";
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let publish = |log: &DiskLog, key: &str| {
        let event = Event { key: key.parse().ok(), ..Event::new(to(&["a"]), "data".into()) };
        wait(log.append(vec![NewRecord { time: NOW, event: Arc::new(event) }]))
    };
    for key in ["a key before", "a key to be damaged", "a key to be kept", "a key to be damaged", "z"] {
        publish(&log, key).unwrap();
    }
    drop(log);
    let whole = fs::read(dir.path().join("tidings.db")).unwrap();
    // In the row of its record a key is followed by the data.
    let rows: Vec<usize> = whole
        .windows(KEY.len())
        .enumerate()
        .filter(|(at, window)| *window == KEY && !whole[at + KEY.len()..].starts_with(b"data"))
        .map(|(at, _)| at)
        .collect();
    assert_eq!(rows.len(), 2);
    for row in rows {
        // Greater and smaller than the key, and what comes behind it.
        for (byte, bit) in (0..KEY.len() + 2).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut bytes = whole.clone();
            bytes[row + byte] ^= 1 << bit;
            fs::write(dir.path().join("tidings.db"), bytes).unwrap();
            let log = open(dir.path());
            let found = keyed(&log, "a", "a key to be damaged");
            assert!(matches!(found, Err(ReadError::Damaged { .. })), "byte {byte}, bit {bit}: {found:?}");
            assert_eq!(read(&log, "a").unwrap().len(), 5, "the records are whole");
        }
    }
    // It keeps nothing new out, where states are looked for either.
    let states = Caps { state_only: true, ..Caps::default() };
    let retention = Retention { default: states, ..Retention::default() };
    let log = DiskLog::open(DiskLogConfig { retention, ..config(dir.path()) }, NOW).unwrap();
    publish(&log, "a key to be damaged").unwrap();
    assert!(log.stats().trouble.is_some());
}

#[test]
fn a_flipped_bit_is_said() {
    let dir = fixture("format-1-flipped");
    let log = open(dir.path());
    let error = read(&log, "orders/7").unwrap_err();
    assert!(matches!(&error, ReadError::Damaged { at: Sequence(3), .. }), "{error:?}");
    assert!(read(&log, "**").is_err());
    assert_eq!(read(&log, "news").unwrap().len(), 1, "the others are read");
}

#[test]
fn a_damaged_old_record_keeps_nothing_new_out() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    let to = Targets::new(["a", "b"].map(|name| name.parse::<Channel>().unwrap())).unwrap();
    let event = Arc::new(Event::new(to, "to be damaged".into()));
    wait(log.append(vec![NewRecord { time: Timestamp(1), event }])).unwrap();
    append(&log, 2);
    drop(log);
    let file = dir.path().join("tidings.db");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(13).position(|window| window == b"to be damaged").unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    let retention = Retention { default: Caps { count: Some(2), ..Caps::default() }, ..Retention::default() };
    let log = DiskLog::open(DiskLogConfig { retention, ..config(dir.path()) }, NOW).unwrap();
    append(&log, 3);
    assert_eq!(read(&log, "a").unwrap().len(), 2);
    assert!(matches!(read(&log, "b"), Err(ReadError::Damaged { at: Sequence(1), .. })));
    assert!(log.stats().trouble.is_some_and(|trouble| trouble.contains("damaged")));
}

#[test]
fn a_newer_format_is_refused_with_a_clear_word() {
    let dir = fixture("format-2");
    let file = dir.path().join("tidings.db");
    let mut bytes = fs::read(&file).unwrap();
    // SQLite's `user_version`, of four bytes.
    bytes[63] += 1;
    fs::write(&file, &bytes).unwrap();
    let error = DiskLog::open(config(dir.path()), NOW).err().expect("it is refused");
    assert!(matches!(error, OpenError::Newer { found: 3, known: 2, .. }), "{error:?}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "and left alone");
    assert!(error.to_string().contains("use a newer version of Tidings"), "{error}");
}

// Notes and idempotency keys.

fn once(key: u8, body: u8) -> Once {
    Once { key: [key; 32], body: [body; 32], until: NOW }
}

#[test]
fn a_killed_process_remembers_keys_and_notes() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    append(&log, 2);
    let first = wait(log.append_with(vec![event("a", "x")], once(1, 1).into())).unwrap();
    wait(log.set_note("cursor".to_owned(), Some(b"3".to_vec()))).unwrap();
    let killed = copy(dir.path());
    drop(log);
    let log = open(killed.path());
    assert_eq!(log.recovery(), &Recovery::Unclean);
    let again = wait(log.append_with(vec![event("a", "x")], once(1, 1).into())).unwrap();
    assert_eq!(again, first, "of the epoch in which it was stored");
    assert_eq!(log.locate(again[0]), Located::Here(Sequence(3)));
    assert_eq!(wait(log.append_with(vec![event("a", "y")], once(1, 2).into())), Err(AppendError::KeyReused));
    assert_eq!(log.note("cursor"), Ok(Some(b"3".to_vec())));
    assert_eq!(log.head().sequence, Sequence(3));
}

#[test]
fn an_older_file_gets_what_it_lacks() {
    let dir = fixture("format-1");
    for n in 0..2 {
        let log = open(dir.path());
        assert_eq!(log.recovery(), &Recovery::Clean);
        wait(log.append_with(vec![event("a", "x")], once(1, 1).into())).unwrap();
        assert_eq!(log.head().sequence, Sequence(8));
        assert_eq!(log.note("n"), Ok((n > 0).then(|| b"1".to_vec())));
        wait(log.set_note("n".to_owned(), Some(b"1".to_vec()))).unwrap();
        assert_eq!(read(&log, "**").unwrap().len(), 4);
    }
}

#[test]
fn damage_beside_the_records_is_said_to_who_looks() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    wait(log.append_with(vec![event("a", "x")], once(1, 0x77).into())).unwrap();
    wait(log.set_note("noted".to_owned(), Some(b"to be damaged".to_vec()))).unwrap();
    drop(log);
    let file = dir.path().join("tidings.db");
    let mut bytes = fs::read(&file).unwrap();
    for (text, bit) in [(&b"to be damaged"[..], 1), (&[0x77; 32][..], 2)] {
        let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
        bytes[at] ^= bit;
    }
    fs::write(&file, bytes).unwrap();
    let log = open(dir.path());
    assert!(matches!(log.note("noted"), Err(ReadError::Damaged { .. })));
    assert!(log.notes("", None, 10).is_err());
    // It is not known what it was, so that it is neither stored again nor answered. Others don't notice.
    let appending = [
        log.append(vec![event("a", "before")]),
        log.append_with(vec![event("a", "x")], once(1, 0x77).into()),
        log.append_with(vec![event("a", "y")], once(2, 1).into()),
    ];
    let answers: Vec<_> = appending.into_iter().map(wait).collect();
    assert!(answers[0].is_ok() && answers[2].is_ok());
    assert!(
        matches!(&answers[1], Err(AppendError::NotStored(why)) if why.contains("damaged")),
        "{answers:?}"
    );
    // What is noted anew is good again.
    wait(log.set_note("noted".to_owned(), Some(b"1".to_vec()))).unwrap();
    assert_eq!(log.note("noted"), Ok(Some(b"1".to_vec())));
}
