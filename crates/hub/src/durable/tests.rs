use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use tidings_wire::{Channel, Epoch, Event};

use super::*;
use crate::log::suite::wait;
use crate::log::{MemoryLog, MemoryLogConfig, NewRecord, Order, ReadLimit, Retention, Selection};

const KEY: [u8; 16] = [7; 16];

fn log() -> Arc<dyn Log> {
    Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(7), retention: Retention::default() }))
}

fn durables(log: &Arc<dyn Log>) -> Durables {
    Durables::new(log.clone(), CursorKey::new(KEY))
}

fn user() -> UserId {
    "ada".parse().unwrap()
}

fn name(text: &str) -> ClientId {
    text.parse().unwrap()
}

fn own() -> View {
    View::from(Channel::user(&user()))
}

fn publish(log: &Arc<dyn Log>) -> u64 {
    let event = Arc::new(Event::new(Channel::user(&user()).into(), "x".into()));
    wait(log.append(vec![NewRecord { time: Timestamp(1), event }])).unwrap()[0].sequence.0
}

fn id(sequence: u64) -> String {
    CursorKey::new(KEY).seal(Position { epoch: Epoch(7), sequence: Sequence(sequence) }).to_string()
}

fn open(durables: &Durables, device: &str, start: Start, now: u64) -> Result<Start, DurableError> {
    let wanted = Wanted { start: &start, views: &[own()], asked: &[], counted: now.is_multiple_of(2) };
    wait(durables.open(&user(), &name(device), wanted, Timestamp(now))).map(|opened| opened.start)
}

/// The turn of one more stream.
fn turn(durables: &Durables, now: u64) -> Turn {
    let wanted = Wanted { start: &Start::Now, views: &[own()], asked: &[], counted: true };
    wait(durables.open(&user(), &name("phone"), wanted, Timestamp(now))).unwrap().turn.unwrap()
}

/// What a stream gets that begins so.
fn due(log: &Arc<dyn Log>, start: &Start) -> Vec<u64> {
    let after = match start {
        Start::Cursor(text) => CursorKey::new(KEY).open(text).unwrap().sequence,
        Start::Earliest => Sequence::START,
        other => panic!("{other:?} is no place"),
    };
    let limit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };
    let mut selection = Selection { view: own(), after };
    let mut all = Vec::new();
    loop {
        let page = log.read(std::slice::from_ref(&selection), Order::Oldest, limit, Timestamp(1)).unwrap();
        all.extend(page.records.iter().map(|record| record.position.sequence.0));
        if page.through == log.head().sequence {
            return all;
        }
        selection.after = page.through;
    }
}

#[test]
fn it_begins_now_and_goes_on_from_what_was_acknowledged() {
    let log = log();
    publish(&log);
    let first = open(&durables(&log), "phone", Start::Now, 1).unwrap();
    assert_eq!(due(&log, &first), [0; 0]);
    let events = [publish(&log), publish(&log)];
    assert_eq!(due(&log, &first), events, "what comes between its beginning and the stream");
    // Written to a socket or not: nothing was acknowledged.
    let again = open(&durables(&log), "phone", Start::Now, 2).unwrap();
    assert_eq!(due(&log, &again), events);
    let acknowledged =
        wait(durables(&log).acknowledge(&user(), &name("phone"), &id(2), Timestamp(3))).unwrap();
    assert_eq!(acknowledged.sequence, Sequence(2));
    assert_eq!(due(&log, &open(&durables(&log), "phone", Start::Now, 4).unwrap()), [3]);
    // Never backwards.
    let stays = wait(durables(&log).acknowledge(&user(), &name("phone"), &id(1), Timestamp(5))).unwrap();
    assert_eq!(stays.sequence, Sequence(2));
    // Devices and users have their own.
    assert_eq!(due(&log, &open(&durables(&log), "tablet", Start::Now, 4).unwrap()), [0; 0]);
    let all = durables(&log).list(&user()).unwrap();
    let cursors: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.cursor.sequence.0)).collect();
    assert_eq!(cursors, [("phone", 2), ("tablet", 3)]);
    assert!(durables(&log).list(&"bob".parse().unwrap()).unwrap().is_empty());
}

#[test]
fn a_first_stream_may_begin_in_the_past() {
    let log = log();
    for _ in 0..5 {
        publish(&log);
    }
    for (device, start, cursor) in [
        ("a", Start::Earliest, 0),
        ("b", Start::History(2), 3),
        ("c", Start::Cursor(id(4)), 4),
        ("d", Start::Cursor("nonsense".to_owned()), 5),
        ("e", Start::Cursor(id(9)), 5),
    ] {
        assert_eq!(open(&durables(&log), device, start.clone(), 1), Ok(start), "as it was asked");
        assert_eq!(durables(&log).get(&user(), &name(device)).unwrap().unwrap().cursor.sequence.0, cursor);
    }
}

#[test]
fn of_an_id_and_what_is_noted_the_smaller_counts() {
    let log = log();
    for _ in 0..5 {
        publish(&log);
    }
    let durables = durables(&log);
    let cursor = || durables.get(&user(), &name("a")).unwrap().unwrap().cursor.sequence.0;
    open(&durables, "a", Start::Cursor(id(3)), 1).unwrap();
    assert_eq!(due(&log, &open(&durables, "a", Start::Cursor(id(1)), 1).unwrap()), [2, 3, 4, 5]);
    assert_eq!(cursor(), 3, "it does not go back");
    assert_eq!(due(&log, &open(&durables, "a", Start::Cursor(id(4)), 1).unwrap()), [5]);
    assert_eq!(cursor(), 4, "to come back with an id is to acknowledge it");
    for start in [Start::Cursor("nonsense".to_owned()), Start::Cursor(id(9)), Start::History(5)] {
        assert_eq!(
            due(&log, &open(&durables, "a", start, 1).unwrap()),
            [5],
            "what says nothing is passed over"
        );
    }
    assert_eq!(due(&log, &open(&durables, "a", Start::Earliest, 1).unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(cursor(), 4);
}

#[test]
fn what_is_not_there_is_said() {
    let log = log();
    let durables = durables(&log);
    let (ada, phone, now) = (user(), name("phone"), Timestamp(1));
    assert_eq!(wait(durables.acknowledge(&ada, &phone, &id(0), now)), Err(DurableError::Absent));
    assert_eq!(wait(durables.flush(&ada, &phone, now)), Err(DurableError::Absent));
    assert_eq!(wait(durables.forget(&ada, &phone)), Err(DurableError::Absent));
    open(&durables, "phone", Start::Now, 1).unwrap();
    for bad in ["", "nonsense", &id(9)] {
        assert_eq!(wait(durables.acknowledge(&ada, &phone, bad, now)), Err(DurableError::BadId));
    }
    publish(&log);
    assert_eq!(wait(durables.flush(&ada, &phone, now)).unwrap().sequence, Sequence(1));
    assert_eq!(wait(durables.forget(&ada, &phone)), Ok(()));
    assert_eq!(durables.get(&ada, &phone), Ok(None));
}

#[test]
fn there_are_limits() {
    let log = log();
    let durables = durables(&log);
    for n in 0..PER_USER {
        open(&durables, &n.to_string(), Start::Now, 1).unwrap();
    }
    assert_eq!(open(&durables, "one more", Start::Now, 1), Err(DurableError::TooMany));
    open(&durables, "7", Start::Now, 1).unwrap();
    wait(durables.forget(&user(), &name("8"))).unwrap();
    open(&durables, "one more", Start::Now, 1).unwrap();
    let long: Pattern = "x".repeat(1000).parse().unwrap();
    let asked = vec![long; 33];
    let wanted = Wanted { start: &Start::Now, views: &[own()], asked: &asked, counted: true };
    let opened = wait(durables.open(&user(), &name("7"), wanted, Timestamp(1)));
    assert_eq!(opened, Err(DurableError::TooLong));
}

#[test]
fn what_nobody_uses_is_forgotten_bit_by_bit() {
    let log = log();
    let durables = durables(&log);
    let day = |days: u64| days * 86_400_000;
    for n in 0..300 {
        let (ada, device) = (format!("user {n}").parse().unwrap(), name("phone"));
        let used = if n % 3 == 0 { day(20) } else { day(1) };
        let wanted = Wanted { start: &Start::Now, views: &[], asked: &[], counted: false };
        wait(durables.open(&ada, &device, wanted, Timestamp(used))).unwrap();
    }
    let left = || log.notes("", None, 1000).unwrap().len();
    durables.sweep(Timestamp(day(30)));
    durables.sweep(Timestamp(day(30)));
    durables.sweep(Timestamp(day(30)));
    assert_eq!(left(), 300, "none is 30 days old");
    durables.sweep(Timestamp(day(31)));
    assert!((200..300).contains(&left()), "{} at once", left());
    for _ in 0..3 {
        durables.sweep(Timestamp(day(31)));
    }
    assert_eq!(left(), 100);
    durables.sweep(Timestamp(day(50)));
    assert_eq!(left(), 0);
}

/// On nodes whose clocks are minutes apart.
#[test]
fn the_newer_stream_has_the_greater_turn_whatever_the_clocks_say() {
    let log = log();
    let (fast, right) = (durables(&log), durables(&log));
    let (now, ahead) = (1_000_000, 400_000);
    let mut turns = vec![turn(&fast, now + ahead), turn(&right, now + 1), turn(&fast, now + ahead + 2)];
    publish(&log);
    wait(right.acknowledge(&user(), &name("phone"), &id(1), Timestamp(now + 3))).unwrap();
    turns.push(turn(&right, now + 4));
    assert!(turns.is_sorted_by(|one, next| one < next), "{turns:?}");
    // Who polls takes it from nobody.
    let wanted = Wanted { start: &Start::Now, views: &[own()], asked: &[], counted: false };
    assert_eq!(wait(right.open(&user(), &name("phone"), wanted, Timestamp(now))).unwrap().turn, None);
    // One that was forgotten may still have a stream somewhere.
    wait(right.forget(&user(), &name("phone"))).unwrap();
    turns.push(turn(&right, now + ahead + 100));
    assert!(turns.is_sorted_by(|one, next| one < next), "{turns:?}");
}

#[test]
fn a_turn_that_can_not_be_noted_is_after_those_that_are_and_before_those_to_come() {
    let log = log();
    let noted = turn(&durables(&log), 1_000_000);
    let later = turn(&durables(&log), 1_000_000);
    let unnoted = Turn::unnoted(noted.0 / 2);
    assert!(noted < unnoted && unnoted < later);
    log.close();
    let first = turn(&durables(&log), 1_000_000);
    assert!(first > later);
    assert_eq!(turn(&durables(&log), 1_000_000), first);
}

/// What can happen to the subscriptions of one user.
#[derive(Debug, Clone)]
enum Step {
    Publish,
    /// Comes back, with an id that is so far behind the newest one that was delivered.
    Connect {
        device: usize,
        id: Option<u64>,
    },
    /// Acknowledges, perhaps what it has not seen.
    Acknowledge {
        device: usize,
        id: u64,
    },
    Flush(usize),
    Forget(usize),
    /// Another process takes the log over.
    Restart,
    Sweep,
    Time(u64),
}

const DEVICES: [&str; 3] = ["phone", "tablet", "a/b"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let device = 0..DEVICES.len();
    let step = prop_oneof![
        6 => Just(Step::Publish),
        4 => (device.clone(), prop::option::of(0..12_u64)).prop_map(|(device, id)| Step::Connect { device, id }),
        4 => (device.clone(), 0..12_u64).prop_map(|(device, id)| Step::Acknowledge { device, id }),
        1 => device.clone().prop_map(Step::Flush),
        1 => device.prop_map(Step::Forget),
        1 => Just(Step::Restart),
        1 => Just(Step::Sweep),
        1 => (0..40_u64).prop_map(Step::Time),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::model::schedules(512)))]

    /// The model is a number for each device: the newest event that it acknowledged.
    #[test]
    fn random_schedules_do_as_the_model(steps in steps()) {
        let log = log();
        let mut durables = durables(&log);
        let mut model: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        let (mut head, mut now) = (0, 1_000_000);
        for step in steps {
            now += 1;
            match step {
                Step::Publish => head = publish(&log),
                Step::Connect { device, id: asked } => {
                    let device = DEVICES[device];
                    let start = asked.map_or(Start::Now, |id_| Start::Cursor(id(id_)));
                    let valid = asked.filter(|asked| *asked <= head);
                    let cursor = model.get(device).map(|(cursor, _)| *cursor);
                    let begun = open(&durables, device, start.clone(), now).unwrap();
                    let from = valid.or(cursor).unwrap_or(head);
                    if cursor.is_some() || asked.is_none() || valid.is_some() {
                        prop_assert_eq!(due(&log, &begun), (from + 1..=head).collect::<Vec<_>>());
                    } else {
                        prop_assert_eq!(begun, start, "its first stream is told that its id is none");
                    }
                    model.insert(device, (cursor.map_or(from, |cursor| cursor.max(from)), now));
                }
                Step::Acknowledge { device, id: acknowledged } => {
                    let device = DEVICES[device];
                    let answer = wait(durables.acknowledge(&user(), &name(device), &id(acknowledged), Timestamp(now)));
                    match (acknowledged <= head, model.get_mut(device)) {
                        (false, _) => prop_assert_eq!(answer, Err(DurableError::BadId)),
                        (true, None) => prop_assert_eq!(answer, Err(DurableError::Absent)),
                        (true, Some((cursor, used))) => {
                            *cursor = (*cursor).max(acknowledged);
                            *used = now;
                            prop_assert_eq!(answer.unwrap().sequence.0, *cursor);
                        }
                    }
                }
                Step::Flush(device) => {
                    let device = DEVICES[device];
                    let answer = wait(durables.flush(&user(), &name(device), Timestamp(now)));
                    prop_assert_eq!(answer.is_ok(), model.contains_key(device));
                    model.entry(device).and_modify(|state| *state = (head, now));
                }
                Step::Forget(device) => {
                    let answer = wait(durables.forget(&user(), &name(DEVICES[device])));
                    prop_assert_eq!(answer.is_ok(), model.remove(DEVICES[device]).is_some());
                }
                Step::Restart => durables = self::durables(&log),
                Step::Sweep => {
                    durables = self::durables(&log);
                    durables.sweep(Timestamp(now));
                    // The time of the last use is known to within an hour.
                    let (unused, hour) = (30 * 86_400_000, 3_600_000);
                    let kept: Vec<_> = durables.list(&user()).unwrap().into_iter().map(|one| one.name).collect();
                    model.retain(|device, (_, used)| {
                        let there = kept.contains(&name(device));
                        assert!(there || now + hour >= *used + unused, "forgotten too early");
                        assert!(!there || now < *used + unused, "kept too long");
                        there
                    });
                }
                Step::Time(days) => now += days * 86_400_000,
            }
            let noted: Vec<_> = durables.list(&user()).unwrap().into_iter()
                .map(|one| (one.name.as_str().to_owned(), one.cursor.sequence.0)).collect();
            let mut expected: Vec<_> = model.iter().map(|(device, (cursor, _))| ((*device).to_owned(), *cursor)).collect();
            expected.sort();
            prop_assert_eq!(noted, expected);
        }
    }
}

#[test]
fn many_acknowledge_at_once_and_the_newest_stays() {
    let log = log();
    let durables = durables(&log);
    open(&durables, "phone", Start::Now, 1).unwrap();
    for _ in 0..200 {
        publish(&log);
    }
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let durables = &durables;
            scope.spawn(move || {
                for n in (0..200).filter(|n| n % 8 == thread) {
                    wait(durables.acknowledge(&user(), &name("phone"), &id(200 - n), Timestamp(2))).unwrap();
                }
            });
        }
    });
    assert_eq!(durables.get(&user(), &name("phone")).unwrap().unwrap().cursor.sequence.0, 200);
}
