//! What is done to the log, and what has to be left of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tidings_hub::log::suite::wait;
use tidings_hub::log::{
    AppendError, Caps, Located, Log, NewRecord, Order, ReadError, ReadLimit, Record, Retention, Selection,
};
use tidings_hub::{Timestamp, View};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig, OpenError, Recovery};
use tidings_wire::{Epoch, Key, Pattern, Position, Sequence};

use crate::child::{CHANNELS, KEYS, PUBLISHERS, Running, event};
use crate::dice::Dice;

type Scenario = fn(&mut Dice);

pub(crate) const ALL: &[(&str, Scenario)] = &[
    ("killed_again_and_again", killed_again_and_again),
    ("power_is_lost", power_is_lost),
    ("syncs_fail", syncs_fail),
    ("writes_fail", writes_fail),
    ("the_write_ahead_log_is_damaged", the_write_ahead_log_is_damaged),
    ("bits_flip_in_the_database", bits_flip_in_the_database),
    ("a_second_process_is_refused", a_second_process_is_refused),
    ("the_disk_is_full", the_disk_is_full),
];

/// What was acknowledged: where each event of each publisher is.
#[derive(Default, Clone)]
struct Acked {
    positions: BTreeMap<u64, (Epoch, u64, u64)>,
}

impl Acked {
    fn add(&mut self, said: &[String]) {
        for line in said.iter().filter_map(|line| line.strip_prefix("ack ")) {
            let mut numbers = line.split(' ').map(|number| number.parse::<u64>().unwrap());
            let [epoch, sequence, publisher, n] = [(); 4].map(|()| numbers.next().unwrap());
            let ack = (Epoch(u32::try_from(epoch).unwrap()), publisher, n);
            let before = self.positions.insert(sequence, ack);
            assert_eq!(before, None, "the position {sequence} was given out twice");
        }
    }
}

fn open(dir: &Path) -> Result<DiskLog, OpenError> {
    let config = DiskLogConfig { reserve_bytes: 0, ..DiskLogConfig::new(DataDir::open(dir)?) };
    DiskLog::open(config, Timestamp::now())
}

const EVERYTHING: ReadLimit = ReadLimit { through: Sequence(u64::MAX), records: 1_000, bytes: usize::MAX };

fn read_view(log: &DiskLog, view: &str, order: Order) -> Result<Vec<Record>, ReadError> {
    let view: View = view.parse::<Pattern>().unwrap().into();
    let mut after = Sequence::START;
    let mut limit = EVERYTHING;
    let mut records = Vec::new();
    loop {
        let selection = Selection { view: view.clone(), after };
        let page = log.read(&[selection], order, limit, Timestamp(0))?;
        records.extend(page.records);
        match order {
            Order::Oldest if page.through >= log.head().sequence => return Ok(records),
            Order::Oldest => after = page.through,
            Order::Newest if page.through == Sequence::START => return Ok(records),
            Order::Newest => limit.through = Sequence(page.through.0 - 1),
        }
    }
}

/// What a record says of itself, after a check that it is what its publisher made.
fn origin(record: &Record) -> (u64, u64) {
    let mut words = record.event.data.as_str().split(' ');
    let (publisher, n) = (words.next().unwrap().parse().unwrap(), words.next().unwrap().parse().unwrap());
    assert_eq!(*record.event, event(publisher, n), "a wrong record at {:?}", record.position);
    (publisher, n)
}

/// Opens the log and checks all of it: without a hole, every event of a publisher once and in order, and each
/// acknowledged one where it was said to be. Returns the log and the next number of each publisher.
fn check(dir: &Path, acked: &Acked) -> (DiskLog, Vec<u64>) {
    let log = open(dir).unwrap();
    let next = check_open(&log);
    let records: BTreeMap<u64, Record> = read_view(&log, "**", Order::Oldest)
        .unwrap()
        .into_iter()
        .map(|record| (record.position.sequence.0, record))
        .collect();
    for (sequence, (epoch, publisher, n)) in &acked.positions {
        let Some(record) = records.get(sequence) else {
            panic!("{publisher} {n} was acknowledged at {sequence} and is lost; {:?}", log.recovery());
        };
        assert_eq!((record.position.epoch, origin(record)), (*epoch, (*publisher, *n)));
        assert_eq!(log.locate(record.position), Located::Here(Sequence(*sequence)));
    }
    (log, next)
}

/// What holds for the records that are there, whichever they are.
fn check_open(log: &DiskLog) -> Vec<u64> {
    let records = read_view(log, "**", Order::Oldest).unwrap();
    let mut next = vec![0; PUBLISHERS as usize];
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record.position.sequence.0, at as u64 + 1, "a hole, or a record twice");
        let (publisher, n) = origin(record);
        assert_eq!(
            n, next[publisher as usize],
            "an event of {publisher} is missing, doubled or out of order"
        );
        next[publisher as usize] = n + 1;
    }
    assert_eq!(log.head().sequence.0, records.len() as u64);
    for channel in CHANNELS {
        let expected: Vec<&Record> = records
            .iter()
            .filter(|record| record.event.to.channels().iter().any(|target| target.as_str() == channel))
            .collect();
        let found = read_view(log, channel, Order::Oldest).unwrap();
        assert!(
            found.iter().eq(expected.iter().copied()),
            "the channel {channel} has other records than the log"
        );
        for key in KEYS.map(|key| key.parse::<Key>().unwrap()) {
            let found = log.keyed(&channel.parse().unwrap(), &key, Sequence::START, usize::MAX).unwrap();
            let expected = expected.iter().rev().filter(|record| record.event.key.as_ref() == Some(&key));
            assert!(found.iter().eq(expected.copied()), "{key} in {channel} has other records than the log");
        }
    }
    next
}

fn killed_again_and_again(dice: &mut Dice) {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = Acked::default();
    let mut next = vec![0; PUBLISHERS as usize];
    for cycle in 0..20 {
        let mut child = Running::start(dir.path(), "always", &next, &[]);
        child.run_for(1 + dice.below(400) as usize);
        acked.add(&child.kill());
        // Now and then a copy is checked, so that the next process finds what was left by one that was killed, too.
        let copy = tempfile::tempdir().unwrap();
        let checked = if dice.below(2) == 0 {
            copy_dir(dir.path(), copy.path());
            copy.path()
        } else {
            dir.path()
        };
        let (log, found) = check(checked, &acked);
        assert_eq!(log.recovery(), &Recovery::Unclean, "cycle {cycle}");
        next = found;
    }
    assert!(acked.positions.len() > 1_000, "too little was published to show anything");
}

/// The preloaded library, see `shim.c`.
fn shim(into: &Path) -> PathBuf {
    let library = into.join("shim.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/faults/shim.c");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .arg(&library)
        .args([source, "-ldl", "-lpthread"])
        .status()
        .expect("a C compiler, as for SQLite");
    assert!(built.success());
    library
}

fn faults(library: &Path, dir: &Path, more: &[(&'static str, String)]) -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("LD_PRELOAD", library.display().to_string()),
        ("FAULT_DIR", dir.canonicalize().unwrap().display().to_string()),
    ];
    environment.extend_from_slice(more);
    environment
}

const FILES: [&str; 3] = ["tidings.db", "tidings.db-wal", "head"];

/// Takes all that is there for synced, before a process begins.
fn all_is_synced(dir: &Path) {
    for name in FILES {
        let synced = dir.join(format!("{name}.synced"));
        let _ = fs::remove_file(&synced);
        if dir.join(name).exists() {
            fs::copy(dir.join(name), synced).unwrap();
        }
    }
}

/// Leaves of every file what was synced.
fn lose_power(dir: &Path) {
    for name in FILES {
        let (file, synced) = (dir.join(name), dir.join(format!("{name}.synced")));
        let _ = fs::remove_file(&file);
        if synced.exists() {
            fs::rename(synced, file).unwrap();
        }
    }
    let _ = fs::remove_file(dir.join("tidings.db-shm"));
}

fn power_is_lost(dice: &mut Dice) {
    let home = tempfile::tempdir().unwrap();
    let library = shim(home.path());
    let mut total = 0;
    for _ in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let mut acked = Acked::default();
        let mut next = vec![0; PUBLISHERS as usize];
        for _ in 0..3 {
            all_is_synced(dir.path());
            let environment = faults(&library, dir.path(), &[]);
            let mut child = Running::start(dir.path(), "always", &next, &environment);
            child.run_for(1 + dice.below(300) as usize);
            acked.add(&child.kill());
            lose_power(dir.path());
            next = check(dir.path(), &acked).1;
        }
        total += acked.positions.len();
    }
    assert!(total > 200, "too little was published to show anything");
}

fn syncs_fail(dice: &mut Dice) {
    let home = tempfile::tempdir().unwrap();
    let library = shim(home.path());
    let mut aborted = 0;
    // The first ones are those of opening; then those of commits; checkpoints come in between.
    let at = (1..12).chain((0..10).map(|_| 12 + dice.below(150)));
    for at in at {
        let dir = tempfile::tempdir().unwrap();
        let environment = faults(&library, dir.path(), &[("FAIL_SYNC_AT", at.to_string())]);
        let child = Running::start(dir.path(), "always", &vec![0; PUBLISHERS as usize], &environment);
        let (status, said) = child.wait();
        let refused = said.first().is_none_or(|line| line.starts_with("refused"));
        if refused {
            assert_eq!(status.code(), Some(3), "{said:?}");
        } else {
            assert_eq!(status.signal(), Some(6), "a failed sync ends the process: {status:?}");
            aborted += 1;
        }
        let mut acked = Acked::default();
        acked.add(&said);
        lose_power(dir.path());
        check(dir.path(), &acked);
    }
    assert!(aborted > 5, "no sync of a commit failed");
}

fn writes_fail(dice: &mut Dice) {
    const EIO: u64 = 5;
    const ENOSPC: u64 = 28;
    let home = tempfile::tempdir().unwrap();
    let library = shim(home.path());
    let mut full = 0;
    for round in 0..24 {
        let dir = tempfile::tempdir().unwrap();
        let error = if round % 2 == 0 { EIO } else { ENOSPC };
        let (at, count) = (20 + dice.below(600), 1 + dice.below(30));
        let environment = faults(
            &library,
            dir.path(),
            &[
                ("FAIL_WRITE_AT", at.to_string()),
                ("FAIL_WRITE_FOR", count.to_string()),
                ("FAIL_WRITE_WITH", error.to_string()),
            ],
        );
        let mut child = Running::start(dir.path(), "always", &vec![0; PUBLISHERS as usize], &environment);
        child.run_for(800);
        let (status, said) = child.stop();
        let refused = said.first().is_none_or(|line| line.starts_with("refused"));
        if error == ENOSPC && !refused {
            assert!(status.success(), "a full disk ends no process: {status:?}");
            assert_eq!(said.last().map(String::as_str), Some("closed"));
            full += said.iter().filter(|line| *line == "full").count();
            let last = said.iter().rposition(|line| line == "full").unwrap_or_default();
            assert!(said[last..].iter().any(|line| line.starts_with("ack")), "writes resume by themselves");
        }
        let mut acked = Acked::default();
        acked.add(&said);
        check(dir.path(), &acked);
    }
    assert!(full > 0, "no write found the disk full");
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "lock" {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

/// How many bytes of a write-ahead log count: it is written over from its beginning once the database has all of it, and
/// what is left of its last round has other salts (the SQLite file format, section 4.1).
fn counting(wal: &[u8]) -> usize {
    let page = u32::from_be_bytes(wal[8..12].try_into().unwrap()) as usize;
    let frames = wal[32..].chunks_exact(24 + page);
    32 + frames.take_while(|frame| frame[8..16] == wal[16..24]).count() * (24 + page)
}

fn the_write_ahead_log_is_damaged(dice: &mut Dice) {
    let mut acked = Acked::default();
    let (dir, live) = loop {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Running::start(dir.path(), "always", &vec![0; PUBLISHERS as usize], &[]);
        child.run_for(1_500);
        let seen = child.kill();
        let live = counting(&fs::read(dir.path().join("tidings.db-wal")).unwrap());
        // Killed just after the database took everything in, there is nothing to damage.
        if live > 100_000 {
            acked.add(&seen);
            break (dir, live);
        }
    };
    let mut losses = 0;
    for round in 0..60 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let wal = copy.path().join("tidings.db-wal");
        let mut bytes = fs::read(&wal).unwrap();
        let at = dice.below(live as u64) as usize;
        match round % 3 {
            0 => bytes.truncate(at),
            1 => bytes[at..].iter_mut().take(64).for_each(|byte| *byte = dice.below(256) as u8),
            _ => bytes[at] ^= 1 << dice.below(8),
        }
        fs::write(&wal, &bytes).unwrap();
        let _ = fs::remove_file(copy.path().join("tidings.db-shm"));
        let log = match open(copy.path()) {
            Ok(log) => log,
            Err(OpenError::Damaged { .. }) => continue,
            Err(error) => panic!("neither opened nor said to be damaged: {error}"),
        };
        check_open(&log);
        let head = log.head();
        assert_ne!(log.recovery(), &Recovery::Clean);
        let mut lost = 0;
        for (sequence, (epoch, ..)) in &acked.positions {
            let position = Position { epoch: *epoch, sequence: Sequence(*sequence) };
            let expected = if position.sequence <= head.sequence {
                Located::Here(position.sequence)
            } else {
                lost += 1;
                Located::PastFork(head.sequence)
            };
            assert_eq!(log.locate(position), expected);
        }
        if lost > 0 {
            losses += 1;
        }
        if let Recovery::Lost { found, expected } = log.recovery() {
            assert!(found < expected);
        } else {
            // The mark is at most a moment old: what it could not know of is the newest part.
            assert!(lost < acked.positions.len(), "all is lost and nothing was said");
        }
        // What comes next gets positions of its own, under an epoch that nobody has seen.
        let record = NewRecord { time: Timestamp(1), event: Arc::new(event(0, 0)) };
        let position = wait(log.append(vec![record])).unwrap()[0];
        assert_eq!(position, Position { epoch: head.epoch, sequence: head.sequence.next() });
        assert!(acked.positions.values().all(|(epoch, ..)| *epoch < position.epoch));
    }
    assert!(losses > 5, "no damage lost anything");
}

fn bits_flip_in_the_database(dice: &mut Dice) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Running::start(dir.path(), "never", &vec![0; PUBLISHERS as usize], &[]);
    child.run_for(600);
    child.stop();
    let views = CHANNELS.iter().copied().chain(["**", "a/*"]);
    let all = |log: &DiskLog| -> Result<Vec<Vec<Record>>, ReadError> {
        views
            .clone()
            .flat_map(|view| [(view, Order::Oldest), (view, Order::Newest)])
            .map(|(view, order)| read_view(log, view, order))
            .collect()
    };
    let truth = all(&open(dir.path()).unwrap()).unwrap();
    let database = fs::read(dir.path().join("tidings.db")).unwrap();
    let (mut said, mut harmless) = (0, 0);
    for _ in 0..300 {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(dir.path(), copy.path());
        let mut bytes = database.clone();
        let at = dice.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << dice.below(8);
        fs::write(copy.path().join("tidings.db"), &bytes).unwrap();
        match open(copy.path()).map(|log| all(&log)) {
            Err(_) | Ok(Err(_)) => said += 1,
            Ok(Ok(found)) => {
                assert!(found == truth, "a flipped bit in byte {at} went unnoticed");
                harmless += 1;
            }
        }
    }
    assert!(said > 50 && said > harmless, "{said} said, {harmless} without effect");
}

fn a_second_process_is_refused(_: &mut Dice) {
    let dir = tempfile::tempdir().unwrap();
    let child = Running::start(dir.path(), "always", &vec![0; PUBLISHERS as usize], &[]);
    assert!(matches!(open(dir.path()), Err(OpenError::InUse { .. })));
    let second = Running::start(dir.path(), "always", &vec![0; PUBLISHERS as usize], &[]);
    let (status, said) = second.wait();
    assert_eq!(status.code(), Some(3));
    assert!(said[0].contains("in use by another process"), "{said:?}");
    child.kill();
    open(dir.path()).unwrap();
}

/// On a small disk of its own, in a namespace where that can be mounted without being root.
fn the_disk_is_full(_: &mut Dice) {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=48m tmpfs \"$1\" && exec \"$2\" child-on-small-disk \"$1\"")
        .arg("sh")
        .arg(dir.path())
        .arg(std::env::current_exe().unwrap())
        .status()
        .unwrap();
    assert!(status.success(), "{status:?}");
}

/// What is done on the small disk.
pub(crate) fn on_small_disk(dir: &Path) {
    const RESERVE: u64 = 8 << 20;
    let data = dir.join("data");
    let config =
        || DiskLogConfig { reserve_bytes: RESERVE, ..DiskLogConfig::new(DataDir::open(&data).unwrap()) };
    let log = DiskLog::open(config(), Timestamp(1)).unwrap();
    let record = |channel: &str, size: usize| NewRecord {
        time: Timestamp(1_000),
        event: Arc::new(tidings_wire::Event::new(
            channel.parse::<tidings_wire::Channel>().unwrap().into(),
            "x".repeat(size).as_str().into(),
        )),
    };
    let append = |log: &DiskLog, channel: &str| wait(log.append(vec![record(channel, 50_000)]));
    let fill = |log: &DiskLog| {
        let mut stored = 0;
        loop {
            match append(log, if stored % 2 == 0 { "even" } else { "odd" }) {
                Ok(_) => stored += 1,
                Err(AppendError::Full) => return stored,
                Err(error) => panic!("neither stored nor full: {error}"),
            }
        }
    };
    let free = || {
        let stat = rustix::fs::statvfs(dir).unwrap();
        stat.f_bavail * stat.f_frsize
    };

    // Noticed before it happens. Others have a part of the disk.
    let others = dir.join("others");
    fs::write(&others, vec![1; 16 << 20]).unwrap();
    let first = fill(&log);
    assert!(first > 100, "{first} records fit");
    assert!(free() > 1 << 20, "{} bytes are left", free());
    assert_eq!(log.stats().trouble.as_deref(), Some("the disk is full"));
    // Reading goes on, and so does what is not stored.
    assert_eq!(read_view(&log, "*", Order::Oldest).unwrap().len(), first);
    let ephemeral = record("even", 10);
    let ephemeral = tidings_wire::Event { store: false, ..(*ephemeral.event).clone() };
    wait(log.append(vec![NewRecord { time: Timestamp(1), event: Arc::new(ephemeral) }])).unwrap();

    // Others take the rest, to the last byte. Records can be removed all the same, and make room.
    let ballast = dir.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    let block = vec![1; 4096];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    assert_eq!(free(), 0);
    assert_eq!(append(&log, "odd"), Err(AppendError::Full));
    let purged = wait(log.purge("even".parse().unwrap())).unwrap();
    assert_eq!(purged as usize, first.div_ceil(2));
    for _ in 0..5 {
        log.retain(Timestamp(2_000));
    }
    assert_eq!(read_view(&log, "*", Order::Oldest).unwrap().len(), first / 2);
    append(&log, "odd").expect("what was removed made room");

    // The others' files go: everything is as before.
    fs::remove_file(&ballast).unwrap();
    fs::remove_file(&others).unwrap();
    log.retain(Timestamp(2_000));
    assert_eq!(log.stats().trouble, None);
    assert_eq!(fs::metadata(data.join("reserve")).unwrap().len(), RESERVE, "the reserve is taken again");
    let second = fill(&log);
    assert!(second > 50, "{second} records fit");
    let kept = read_view(&log, "*", Order::Oldest).unwrap();
    assert_eq!(kept.len(), first / 2 + 1 + second);

    // Retention makes room too.
    drop(log);
    let retention = Retention {
        default: Caps { age: Some(std::time::Duration::from_secs(1)), ..Caps::default() },
        ..Retention::default()
    };
    let log = DiskLog::open(DiskLogConfig { retention, ..config() }, Timestamp(1)).unwrap();
    // The orderly end gave the write-ahead log's space back.
    fill(&log);
    assert_eq!(append(&log, "odd"), Err(AppendError::Full));
    log.retain(Timestamp(10_000));
    append(&log, "odd").expect("retention made room");

    // A log that was killed on a disk without a byte to spare opens: what it has in reserve is for that.
    let head = log.head();
    std::mem::forget(log);
    fs::remove_file(data.join("lock")).unwrap();
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    assert_eq!(free(), 0);
    let log = DiskLog::open(config(), Timestamp(1)).unwrap();
    assert_eq!(log.head().sequence, head.sequence);
    assert_eq!(read_view(&log, "*", Order::Oldest).unwrap().len(), 1);
}
