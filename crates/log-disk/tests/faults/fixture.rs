//! Writes the files that `tests/fixtures` has of the present format.

use std::path::Path;
use std::sync::Arc;

use tidings_hub::Timestamp;
use tidings_hub::log::suite::wait;
use tidings_hub::log::{Log, NewRecord};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_wire::{Channel, ConnectionId, Data, Event, Exclude, Position, Sequence, Targets};

/// What `the_first_format_is_read` expects.
pub(crate) fn write(dir: &Path) {
    let config = DiskLogConfig { reserve_bytes: 0, ..DiskLogConfig::new(DataDir::open(dir).unwrap()) };
    let log = DiskLog::open(config, Timestamp(1_763_645_351_000)).unwrap();
    let to = |names: &[&str]| Targets::new(names.iter().map(|name| Channel::stored(name).unwrap())).unwrap();
    let append = |event: Event| {
        let record = NewRecord { time: Timestamp(1_763_645_351_500), event: Arc::new(event) };
        wait(log.append(vec![record])).unwrap()[0]
    };
    append(Event::new(to(&["purged"]), "1".into()));
    append(Event::new(to(&["purged"]), "2".into()));
    append(Event::new(to(&["orders/7"]), "kept\nin two lines".into()));
    append(Event {
        to: to(&["orders/7", "$user/7", "$all"]),
        event: "order.paid".parse().unwrap(),
        data: Data::Json(r#"{"sum":1.50}"#.into()),
        retry: Some(5_000),
        ttl: Some(u32::MAX),
        store: true,
        exclude: Exclude {
            user: Some("7".parse().unwrap()),
            client: Some("tab".parse().unwrap()),
            connection: Some(ConnectionId(7)),
        },
        ..Event::new(to(&["orders/7"]), "".into())
    });
    append(Event::new(to(&["news"]), "taken back".into()));
    let head = append(Event::new(to(&["orders/7", "news"]), "taken back too".into()));
    wait(log.purge("purged".parse().unwrap())).unwrap();
    wait(log.delete(Position { sequence: Sequence(5), ..head })).unwrap();
    wait(log.delete(head)).unwrap();
    append(Event::new(to(&["news"]), "last".into()));
    log.retain(Timestamp(1_763_645_352_000));
}
