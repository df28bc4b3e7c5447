//! Leases, and what is stored only on terms.
#![allow(missing_docs, reason = "the names say what holds")]

use std::thread::sleep;
use std::time::{Duration, Instant};

use tidings_wire::{Event, Position, Sequence};

use super::cases::unlimited;
use super::{Logs, append, at, channel, event, found, from, wait};
use crate::Timestamp;
use crate::log::{
    AppendError, Holder, Lease, Log, NOTE_VALUE, NewRecord, Note, Once, Order, TailItem, Terms,
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
/// How long a test waits for what is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

fn holder(n: u8) -> Holder {
    Holder([n; 16])
}

fn ask(log: &dyn Log, name: &str, n: u8, for_: Duration) -> Option<Lease> {
    wait(log.lease(name, holder(n), for_)).expect("the store works")
}

fn take(log: &dyn Log, name: &str, n: u8) -> Lease {
    let lease = ask(log, name, n, LONG).expect("nobody has it");
    assert_eq!((&*lease.name, lease.holder), (name, holder(n)));
    lease
}

fn one(data: &str) -> Vec<NewRecord> {
    vec![at(1, event(&["a"], data))]
}

fn ephemeral() -> Vec<NewRecord> {
    vec![at(1, Event { store: false, ..event(&["a"], "typing") })]
}

fn under(lease: &Lease) -> Terms {
    Terms { lease: Some(lease.clone()), ..Terms::default() }
}

fn noting(name: &str, value: &str) -> Terms {
    Terms { note: Some(Note { name: name.to_owned(), value: Some(value.into()) }), ..Terms::default() }
}

fn noted(log: &dyn Log, name: &str) -> Option<String> {
    let value = log.note(name).expect("it can be read")?;
    Some(String::from_utf8(value).expect("it is text"))
}

fn append_with(log: &dyn Log, batch: Vec<NewRecord>, terms: &Terms) -> Result<Vec<Position>, AppendError> {
    wait(log.append_with(batch, terms.clone()))
}

/// Asks until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        sleep(Duration::from_millis(5));
    }
}

pub fn a_lease_has_one_holder(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let first = take(&*log, "a", 1);
    assert_eq!(ask(&*log, "a", 2, LONG), None);
    assert_eq!(ask(&*log, "a", 1, LONG), Some(first.clone()), "renewed");
    let other = take(&*log, "b", 2);
    assert_eq!(ask(&*log, "b", 1, LONG), None, "each name is a right of its own");
    assert_eq!(ask(&*log, "a", 2, Duration::ZERO), None);
    assert_eq!(ask(&*log, "a", 1, LONG), Some(first.clone()), "only its holder gives it back");
    assert_eq!(ask(&*log, "c", 2, Duration::ZERO), None, "nobody has that one");

    assert_eq!(ask(&*log, "a", 1, Duration::ZERO), None);
    assert_eq!(append_with(&*log, one("x"), &under(&first)), Err(AppendError::LeaseLost));
    let second = take(&*log, "a", 2);
    assert!(second.number > first.number);
    assert_eq!(ask(&*log, "a", 1, LONG), None);
    assert_eq!(ask(&*log, "b", 2, LONG), Some(other));

    assert_eq!(ask(&*log, "a", 2, Duration::ZERO), None);
    let third = take(&*log, "a", 2);
    assert!(third.number > second.number, "a new lease, of the same holder too");
    assert_eq!(ask(&*log, "a", 2, Duration::ZERO), None);
    let log = logs.reopen(log);
    let fourth = take(&*log, "a", 1);
    assert!(fourth.number > third.number, "{} after a restart", fourth.number);
    assert!(take(&*log, "long/ä\n".repeat(100).as_str(), 1).number > 0);
    assert!(wait(log.lease(&"x".repeat(5_000), holder(1), LONG)).is_err());
    log.close();
    assert!(wait(log.lease("a", holder(1), LONG)).is_err());
}

pub fn a_lease_ends_with_its_time(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let short = Duration::from_millis(30);
    let first = ask(&*log, "a", 1, short).expect("nobody has it");
    let mut second = None;
    until("the next one gets it", || {
        second = ask(&*log, "a", 2, LONG);
        second.is_some()
    });
    assert!(second.is_some_and(|second| second.number > first.number));
    assert_eq!(append_with(&*log, one("x"), &under(&first)), Err(AppendError::LeaseLost));
    assert_eq!(ask(&*log, "a", 1, LONG), None);

    // Nobody else wants this one.
    let alone = ask(&*log, "b", 1, short).expect("nobody has it");
    let mut stored = 0;
    until("it ends all the same", || match append_with(&*log, one("x"), &under(&alone)) {
        Ok(_) => {
            stored += 1;
            false
        }
        Err(error) => {
            assert_eq!(error, AppendError::LeaseLost);
            true
        }
    });
    let again = take(&*log, "b", 1);
    assert!(again.number > alone.number, "too late to renew it");
    assert_eq!(append_with(&*log, one("x"), &under(&alone)), Err(AppendError::LeaseLost));
    assert_eq!(log.head().sequence.0, stored);

    // A renewal counts from when it is asked for, be it shorter.
    let kept = ask(&*log, "c", 1, short).expect("nobody has it");
    let mut renewed = ask(&*log, "c", 1, LONG);
    if renewed.as_ref() != Some(&kept) {
        renewed = Some(take(&*log, "c", 1));
    }
    sleep(3 * short);
    assert_eq!(
        append_with(&*log, one("x"), &under(&renewed.expect("it was given"))).map(|all| all.len()),
        Ok(1)
    );
    ask(&*log, "c", 1, short);
    until("the next one gets it", || ask(&*log, "c", 2, LONG).is_some());
}

pub fn nothing_is_stored_under_a_lease_that_was_lost(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    let lease = take(&*log, "a", 1);
    let once = Once { key: [1; 32], body: [1; 32], until: Timestamp(1_000) };
    let first = append_with(&*log, one("x"), &Terms { once: Some(once), ..under(&lease) });
    let first = first.expect("it is stored");
    assert_eq!(append_with(&*log, ephemeral(), &under(&lease)), Ok(first.clone()));

    let mut tail = log.tail(log.head().sequence).expect("it can be read");
    let others = [
        Lease { number: lease.number + 1, ..lease.clone() },
        Lease { number: lease.number - 1, ..lease.clone() },
        Lease { holder: holder(2), ..lease.clone() },
        Lease { name: "b".to_owned(), ..lease.clone() },
    ];
    for other in &others {
        let terms = Terms { once: Some(Once { key: [2; 32], ..once }), ..under(other) };
        let terms = Terms { note: noting("n", "lost").note, ..terms };
        for batch in [one("lost"), ephemeral(), Vec::new()] {
            assert_eq!(append_with(&*log, batch, &terms), Err(AppendError::LeaseLost), "{other:?}");
        }
    }
    assert_eq!(noted(&*log, "n"), None);

    ask(&*log, "a", 1, Duration::ZERO);
    take(&*log, "a", 2);
    assert_eq!(append_with(&*log, one("lost"), &under(&lease)), Err(AppendError::LeaseLost));
    // What was stored is the answer still.
    let again = append_with(&*log, one("x"), &Terms { once: Some(once), ..under(&lease) });
    assert_eq!(again, Ok(first));
    // Not waited for one by one, so that a log may store many of them together.
    let appending: Vec<_> = (0..100)
        .map(|n| match n % 3 {
            0 => log.append_with(one("lost"), under(&lease)),
            1 => log.append_with(ephemeral(), under(&lease)),
            _ => log.append(one("y")),
        })
        .collect();
    for (n, append) in appending.into_iter().enumerate() {
        match (n % 3, wait(append)) {
            (0 | 1, answer) => assert_eq!(answer, Err(AppendError::LeaseLost)),
            (_, answer) => drop(answer.expect("nobody is kept out by others")),
        }
    }
    assert_eq!(log.head().sequence.0, 34);
    let mut told = Vec::new();
    while told.len() < 33 {
        told.extend(tail.next(PATIENCE).expect("it can be read").expect("it is open"));
    }
    let data = |item: &TailItem| match item {
        TailItem::Stored(record) => record.event.data.as_str().to_owned(),
        other => panic!("{other:?}"),
    };
    assert!(told.iter().all(|item| data(item) == "y"), "nothing else is announced");
    assert_eq!(
        append_with(&*log, one("z"), &Once { key: [2; 32], ..once }.into()).map(|all| all.len()),
        Ok(1)
    );
    assert_eq!(log.head().sequence.0, 35, "what was refused is not remembered");
}

pub fn a_note_is_set_with_its_batch(logs: &mut dyn Logs) {
    let log = unlimited(logs);
    append_with(&*log, one("x"), &noting("n", "1")).expect("it is stored");
    assert_eq!(noted(&*log, "n").as_deref(), Some("1"));
    append_with(&*log, ephemeral(), &noting("n", "2")).expect("it is announced");
    assert_eq!(noted(&*log, "n").as_deref(), Some("2"), "with an event that is not kept, too");
    assert_eq!(append_with(&*log, Vec::new(), &noting("n", "3")), Ok(Vec::new()));
    assert_eq!(noted(&*log, "n").as_deref(), Some("3"), "with none, too");

    // What is refused is not noted, and what can't be noted is not stored.
    append(&*log, 1, Event { end: true, ..event(&["ended"], "x") });
    let late = vec![at(1, event(&["ended"], "x"))];
    assert_eq!(append_with(&*log, late, &noting("n", "4")), Err(AppendError::Ended(channel("ended"))));
    let too_long = append_with(&*log, one("x"), &noting("n", &"x".repeat(NOTE_VALUE + 1)));
    assert!(matches!(too_long, Err(AppendError::NotStored(_))), "{too_long:?}");
    assert_eq!((log.head().sequence, noted(&*log, "n").as_deref()), (Sequence(2), Some("3")));

    // What was stored before is not noted again.
    let once = Once { key: [1; 32], body: [1; 32], until: Timestamp(1_000) };
    let terms = |value| Terms { once: Some(once), ..noting("n", value) };
    let first = append_with(&*log, one("y"), &terms("5"));
    assert_eq!(append_with(&*log, one("y"), &terms("6")), first);
    assert_eq!(noted(&*log, "n").as_deref(), Some("5"));

    let taken_back = Terms { note: Some(Note { name: "n".to_owned(), value: None }), ..Terms::default() };
    append_with(&*log, one("x"), &taken_back).expect("it is stored");
    assert_eq!(noted(&*log, "n"), None);

    // In the order of the calls, whichever sets it.
    let mut waiting: Vec<Box<dyn FnOnce()>> = Vec::new();
    for n in 0..100 {
        if n % 3 == 0 {
            let setting = log.set_note("n".to_owned(), Some(n.to_string().into()));
            waiting.push(Box::new(move || wait(setting).expect("it is noted")));
        } else {
            let appending = log.append_with(one("x"), noting("n", &n.to_string()));
            waiting.push(Box::new(move || drop(wait(appending).expect("it is stored"))));
        }
        if n % 10 == 9 {
            waiting.drain(..).for_each(|wait| wait());
            assert_eq!(noted(&*log, "n"), Some(n.to_string()));
        }
    }

    // Who sees the record sees the note.
    let mut tail = log.tail(log.head().sequence).expect("it can be read");
    for n in 0..20 {
        let appending = log.append_with(one("x"), noting("seen", &n.to_string()));
        assert_eq!(tail.next(PATIENCE).map(|items| items.map_or(0, |items| items.len())), Ok(1));
        assert_eq!(noted(&*log, "seen"), Some(n.to_string()));
        wait(appending).expect("it is stored");
    }
    let log = logs.reopen(log);
    assert_eq!(noted(&*log, "n").as_deref(), Some("99"));
    assert_eq!(found(&*log, &[from("a", 0)], Order::Oldest).len(), 3 + 66 + 20);
}
