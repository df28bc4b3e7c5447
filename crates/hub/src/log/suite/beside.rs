//! What is kept beside the records: idempotency keys and notes.
#![allow(missing_docs, reason = "the names say what holds")]

use std::time::Duration;

use tidings_wire::{Event, Position};

use super::cases::unlimited;
use super::{Logs, append, at, event, found, from, wait};
use crate::Timestamp;
use crate::log::{AppendError, Log, NOTE_NAME, NOTE_VALUE, NewRecord, Once, Order, Retention};

/// A key whose time is over at 1,000.
fn once(key: u8, body: u8) -> Once {
    Once { key: [key; 32], body: [body; 32], until: Timestamp(1_000) }
}

fn batch(time: u64, data: &[&str]) -> Vec<NewRecord> {
    data.iter().map(|data| at(time, event(&["a"], data))).collect()
}

fn append_once(log: &dyn Log, batch: Vec<NewRecord>, once: Once) -> Result<Vec<Position>, AppendError> {
    wait(log.append_with(batch, once.into()))
}

pub fn a_batch_with_a_key_is_stored_once(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append(&*log, 1, event(&["a"], "before"));
    let first = append_once(&*log, batch(1, &["x", "y"]), once(1, 1)).expect("it is stored");
    assert_eq!(first.iter().map(|position| position.sequence.0).collect::<Vec<_>>(), [2, 3]);
    let mut tail = log.tail(log.head().sequence).expect("it can be read");
    assert_eq!(append_once(&*log, batch(2, &["x", "y"]), once(1, 1)), Ok(first.clone()));
    // A key of its own, and an event without one, are not its business.
    append_once(&*log, batch(2, &["x", "y"]), once(2, 1)).expect("it is stored");
    append(&*log, 2, event(&["a"], "after"));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [1, 2, 3, 4, 5, 6]);
    let mut told = 0;
    while told < 3 {
        told += tail.next(Duration::from_secs(10)).expect("it can be read").expect("it is open").len();
    }
    assert_eq!(told, 3, "a batch is announced once");
    // An event that is not kept is announced once too.
    let ephemeral = || vec![at(3, Event { store: false, ..event(&["a"], "typing") })];
    let rides = append_once(&*log, ephemeral(), once(3, 1)).expect("it is announced");
    append(&*log, 3, event(&["a"], "between"));
    assert_eq!(append_once(&*log, ephemeral(), once(3, 1)), Ok(rides.clone()));
    assert_eq!(rides[0].sequence.0, 6);
    assert_eq!(append_once(&*log, Vec::new(), once(4, 1)), Ok(Vec::new()));
    // Whatever became of the records, and of the process.
    wait(log.purge(super::channel("a"))).expect("it is removed");
    let log = logs.reopen(log);
    assert_eq!(append_once(&*log, batch(9, &["x", "y"]), once(1, 1)), Ok(first));
    assert_eq!(append_once(&*log, ephemeral(), once(3, 1)), Ok(rides));
    assert_eq!(log.head().sequence.0, 7);
}

pub fn a_key_is_of_one_body(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let first = append_once(&*log, batch(1, &["x"]), once(1, 1)).expect("it is stored");
    assert_eq!(append_once(&*log, batch(2, &["y"]), once(1, 2)), Err(AppendError::KeyReused));
    assert_eq!(append_once(&*log, batch(2, &["x"]), once(1, 1)), Ok(first), "that changes nothing");
    let log = logs.reopen(log);
    assert_eq!(append_once(&*log, batch(2, &["y"]), once(1, 2)), Err(AppendError::KeyReused));
    assert_eq!(log.head().sequence.0, 1);
}

pub fn what_was_not_stored_is_not_remembered(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    log.close();
    assert!(append_once(&*log, batch(1, &["x"]), once(1, 1)).is_err());
    let log = logs.reopen(log);
    // A log that doesn't outlive its process is closed for ever.
    if let Ok(first) = append_once(&*log, batch(1, &["x"]), once(1, 1)) {
        assert_eq!(first[0].sequence.0, 1);
        assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest), [1]);
    }
}

pub fn a_key_is_forgotten_when_its_time_is_over(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_once(&*log, batch(1, &["x"]), once(1, 1)).expect("it is stored");
    append_once(&*log, batch(1, &["x"]), once(2, 1)).expect("it is stored");
    append_once(&*log, batch(999, &["x"]), once(1, 1)).expect("it is remembered");
    assert_eq!(log.head().sequence.0, 2);
    let later = Once { until: Timestamp(2_000), ..once(1, 2) };
    let again = append_once(&*log, batch(1_000, &["y"]), later).expect("it is stored");
    assert_eq!(again[0].sequence.0, 3);
    log.retain(Timestamp(1_500));
    // By a clock that went back.
    append_once(&*log, batch(500, &["x"]), once(2, 1)).expect("it is stored");
    assert_eq!(log.head().sequence.0, 4, "it was forgotten with retention");
    assert_eq!(append_once(&*log, batch(1_500, &["y"]), later), Ok(again), "this one has more time");
    log.retain(Timestamp(2_000));
    append_once(&*log, batch(500, &["z"]), once(1, 3)).expect("it is stored");
    assert_eq!(log.head().sequence.0, 5);
}

pub fn many_who_ask_at_once_store_it_once(logs: &mut dyn Logs) {
    let log = logs.create(Retention::default());
    // Not waited for one by one, so that a log that groups what it stores has them in one group; some of them with
    // another body, which fail without the others.
    let asked: Vec<_> = (0..300_u64)
        .map(|n| {
            let (key, body) = ((n % 7) as u8, u8::from(n % 11 == 10));
            (n, key, body, log.append_with(batch(1, &["x"]), once(key, body).into()))
        })
        .collect();
    let others: Vec<_> = (0..50).map(|_| log.append(batch(1, &["other"]))).collect();
    let mut answers = vec![None; 7];
    for (n, key, body, appending) in asked {
        match (wait(appending), body) {
            (Ok(positions), 0) => {
                let first = answers[usize::from(key)].get_or_insert_with(|| positions.clone());
                assert_eq!(*first, positions, "the answer to {n} is the first one");
            }
            (Err(AppendError::KeyReused), 1) => {}
            other => panic!("{n}: {other:?}"),
        }
    }
    for append in others {
        wait(append).expect("it is stored");
    }
    assert_eq!(log.head().sequence.0, 57);
}

pub fn notes_are_kept(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    assert_eq!(log.note("a"), Ok(None));
    let set = |log: &dyn Log, name: &str, value: Option<&[u8]>| {
        wait(log.set_note(name.to_owned(), value.map(<[u8]>::to_vec))).expect("it is stored");
    };
    set(&*log, "a", Some(b"1"));
    set(&*log, "", Some(b""));
    set(&*log, "ä/\n\0", Some(&[0, 255]));
    assert_eq!(log.note("a"), Ok(Some(b"1".to_vec())));
    assert_eq!(log.note("A"), Ok(None));
    set(&*log, "a", Some(b"2"));
    // One after another, without waiting.
    let noting: Vec<_> = (0..100_u8).map(|n| log.set_note("n".to_owned(), Some(vec![n]))).collect();
    noting.into_iter().for_each(|noting| wait(noting).expect("it is stored"));
    set(&*log, "gone", Some(b"x"));
    set(&*log, "gone", None);
    set(&*log, "gone", None);
    let log = logs.reopen(log);
    assert_eq!(log.note("a"), Ok(Some(b"2".to_vec())));
    assert_eq!(log.note(""), Ok(Some(Vec::new())));
    assert_eq!(log.note("ä/\n\0"), Ok(Some(vec![0, 255])));
    assert_eq!(log.note("n"), Ok(Some(vec![99])));
    assert_eq!(log.note("gone"), Ok(None));
    assert_eq!(log.head().sequence.0, 0, "a note is no record");
    log.close();
    assert!(wait(log.set_note("a".to_owned(), None)).is_err());
}

pub fn a_note_is_set_only_in_the_place_of_another(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let set = |log: &dyn Log, expected: Option<&[u8]>, value: Option<&[u8]>| {
        let (expected, value) = (expected.map(<[u8]>::to_vec), value.map(<[u8]>::to_vec));
        wait(log.set_note_if("n".to_owned(), expected, value)).expect("it is decided")
    };
    let noted = |log: &dyn Log| log.note("n").expect("it can be read");
    assert!(!set(&*log, Some(b""), Some(b"x")), "nothing is another thing than what is empty");
    assert!(!set(&*log, Some(b"x"), None));
    assert_eq!(noted(&*log), None);
    assert!(set(&*log, None, None), "that changes nothing, as expected");
    assert!(set(&*log, None, Some(b"")));
    assert!(!set(&*log, None, Some(b"y")));
    assert!(set(&*log, Some(b""), Some(b"1")));
    assert!(!set(&*log, Some(b"0"), Some(b"2")) && !set(&*log, Some(b"10"), None));
    assert_eq!(noted(&*log), Some(b"1".to_vec()));
    assert!(set(&*log, Some(b"1"), Some(b"1")));
    // In the order of the calls, with what is set in any case, without waiting.
    let name = || "n".to_owned();
    let first = log.set_note(name(), Some(b"2".to_vec()));
    let second = log.set_note_if(name(), Some(b"2".to_vec()), Some(b"3".to_vec()));
    let third = log.set_note_if(name(), Some(b"2".to_vec()), Some(b"4".to_vec()));
    wait(first).expect("it is stored");
    assert_eq!((wait(second), wait(third)), (Ok(true), Ok(false)));
    let log = logs.reopen(log);
    assert_eq!(noted(&*log), Some(b"3".to_vec()));
    assert!(set(&*log, Some(b"3"), None));
    let log = logs.reopen(log);
    assert_eq!(noted(&*log), None);
    let too_long = Some(vec![1; NOTE_VALUE + 1]);
    assert!(matches!(wait(log.set_note_if(name(), None, too_long)), Err(AppendError::NotStored(_))));
    log.close();
    assert!(wait(log.set_note_if(name(), None, Some(Vec::new()))).is_err());
}

pub fn of_many_who_have_read_the_same_note_one_sets_it(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    for round in 0..10_u8 {
        let expected = round.checked_sub(1).map(|before| vec![before]);
        let read = log.note("n").expect("it can be read").map(|value| value[..1].to_vec());
        assert_eq!(read, expected);
        let read = log.note("n").expect("it can be read");
        let all: Vec<_> = (0..20)
            .map(|who| log.set_note_if("n".to_owned(), read.clone(), Some(vec![round, who])))
            .collect();
        let set: Vec<_> = all.into_iter().map(|noting| wait(noting).expect("it is decided")).collect();
        assert_eq!(set.iter().filter(|set| **set).count(), 1, "{set:?}");
        let who = set.iter().position(|set| *set).expect("there is one") as u8;
        assert_eq!(log.note("n"), Ok(Some(vec![round, who])), "and that one's is there");
    }
}

pub fn notes_are_listed_by_name(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    for name in ["b", "a/2", "a", "a/10", "a/ä", "a/1", "a0", "Z"] {
        wait(log.set_note(name.to_owned(), Some(name.as_bytes().to_vec()))).expect("it is stored");
    }
    let names = |prefix: &str, after: Option<&str>, limit: usize| -> Vec<String> {
        let notes = log.notes(prefix, after, limit).expect("it can be read");
        assert!(notes.iter().all(|(name, value)| name.as_bytes() == value));
        notes.into_iter().map(|(name, _)| name).collect()
    };
    assert_eq!(names("a/", None, 10), ["a/1", "a/10", "a/2", "a/ä"]);
    assert_eq!(names("a/", Some("a/10"), 10), ["a/2", "a/ä"]);
    assert_eq!(names("a/", Some("a/1"), 2), ["a/10", "a/2"]);
    assert_eq!(names("a/", Some("0"), 1), ["a/1"], "after what comes before all of them");
    assert_eq!(names("a/", Some("a0"), 10), [""; 0], "after what comes behind all of them");
    assert_eq!(names("", None, 3), ["Z", "a", "a/1"]);
    assert_eq!(names("c", None, 3), [""; 0]);
    assert_eq!(names("a", None, 0), [""; 0]);
}

pub fn a_note_has_limits(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let set = |name: usize, value: usize| wait(log.set_note("n".repeat(name), Some(vec![1; value])));
    assert_eq!(set(NOTE_NAME, NOTE_VALUE), Ok(()));
    assert!(matches!(set(NOTE_NAME + 1, 1), Err(AppendError::NotStored(_))));
    assert!(matches!(set(1, NOTE_VALUE + 1), Err(AppendError::NotStored(_))));
    let notes = log.notes("", None, 10).expect("it can be read");
    assert_eq!((notes.len(), notes[0].1.len()), (1, NOTE_VALUE));
}
