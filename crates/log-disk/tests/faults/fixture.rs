//! Writes the files that `tests/fixtures` has of the present format.

use std::path::Path;
use std::sync::Arc;

use tidings_hub::Timestamp;
use tidings_hub::log::suite::wait;
use tidings_hub::log::{Caps, Log, NewRecord, Once, Retention};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_wire::{
    Channel, ConnectionId, Data, Event, Exclude, Number, Position, Sequence, TagValue, Tags, Targets,
};

/// What `the_second_format_is_read` expects.
pub(crate) fn write(dir: &Path) {
    let states = Caps { state_only: true, ..Caps::default() };
    let retention = Retention { rules: vec![("states/*".parse().unwrap(), states)], ..Retention::default() };
    let config =
        DiskLogConfig { reserve_bytes: 0, retention, ..DiskLogConfig::new(DataDir::open(dir).unwrap()) };
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
    for data in ["old", "new"] {
        let to = to(&["states/1", "audit"]);
        append(Event { key: Some("EUR/USD".parse().unwrap()), ..Event::new(to, data.into()) });
    }
    append(Event {
        tags: Tags::new([
            ("done".into(), TagValue::Bool(true)),
            ("rows".into(), TagValue::Number(Number::new(12.5).unwrap())),
            ("table".into(), TagValue::Text("orders".into())),
        ])
        .unwrap(),
        end: true,
        ..Event::new(to(&["import"]), Data::Nothing)
    });
    let again = NewRecord {
        time: Timestamp(1_763_645_351_500),
        event: Arc::new(Event::new(to(&["audit"]), "once".into())),
    };
    let once = Once { key: [7; 32], body: [8; 32], until: Timestamp(u64::MAX >> 1) };
    wait(log.append_with(vec![again], once.into())).unwrap();
    wait(log.set_note("a name".to_owned(), Some(b"a value".to_vec()))).unwrap();
    log.retain(Timestamp(1_763_645_352_000));
}
