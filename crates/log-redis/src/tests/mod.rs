//! The suite that every log runs, and what is Redis's own, all of it with a real server.

mod bus;
mod cluster;
mod history;
mod outage;
#[path = "../../../ingest-redis/tests/redis/proxy.rs"]
mod proxy;
mod rebase;
mod server;
#[path = "../../../ingest-redis/tests/redis/tls.rs"]
mod tls;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_hub::log::suite::{Logs, wait};
use tidings_hub::log::{
    AppendError, Located, Log, NewRecord, Order, ReadError, ReadLimit, Retention, Selection, Tail, TailItem,
};
use tidings_wire::{Channel, Event, Position, Sequence};

use self::server::Server;
use crate::{Ack, OpenError, RedisLog, RedisLogConfig};

thread_local! {
    /// The server of a test's thread, for all of its logs.
    static SERVER: RefCell<Option<Rc<Server>>> = const { RefCell::new(None) };
}

fn config(server: &Server, name: &str) -> RedisLogConfig {
    RedisLogConfig {
        url: server.url().parse().unwrap(),
        authority: None,
        name: name.to_owned(),
        ack: Ack::Master,
        retention: Retention::default(),
        cursor_key: [7; 16],
    }
}

fn open(server: &Server) -> RedisLog {
    RedisLog::open(config(server, "hub")).unwrap()
}

/// Why a log can't be opened.
fn refused(config: RedisLogConfig) -> String {
    match RedisLog::open(config) {
        Ok(_) => panic!("it was opened"),
        Err(error @ OpenError { .. }) => error.to_string(),
    }
}

fn event(channel: &str, data: &str) -> Event {
    Event::new(channel.parse::<Channel>().unwrap().into(), data.into())
}

fn batch(data: &[&str]) -> Vec<NewRecord> {
    let record = |data: &&str| NewRecord { time: Timestamp(1), event: Arc::new(event("a", data)) };
    data.iter().map(record).collect()
}

fn append(log: &dyn Log, data: &str) -> Position {
    wait(log.append(batch(&[data]))).unwrap()[0]
}

/// Appends until it is stored, for as long as whoever waits for Redis may wait.
fn append_soon(log: &dyn Log, data: &str) -> Position {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match wait(log.append(batch(&[data]))) {
            Ok(positions) => return positions[0],
            Err(AppendError::NotStored(_)) if Instant::now() < deadline => {}
            Err(error) => panic!("{error}"),
        }
    }
}

/// The data of all that is kept, in the log's order.
fn all(log: &dyn Log) -> Vec<(u64, String)> {
    let selection =
        Selection { view: "**".parse::<tidings_wire::Pattern>().unwrap().into(), after: Sequence::START };
    let limit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };
    let page = log.read(&[selection], Order::Oldest, limit, Timestamp(0)).unwrap();
    page.records
        .iter()
        .map(|record| (record.position.sequence.0, record.event.data.as_str().to_owned()))
        .collect()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits for the next item of this kind and passes over the others.
fn next<T>(tail: &mut dyn Tail, mut wanted: impl FnMut(&TailItem) -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        let items = tail.next(Duration::from_millis(100)).unwrap().expect("it is open");
        if let Some(found) = items.iter().find_map(&mut wanted) {
            return found;
        }
    }
    panic!("it did not come");
}

/// Each log under a name of its own.
struct OnRedis {
    server: Rc<Server>,
    opened: Option<RedisLogConfig>,
    /// Whether what was stored is read back from a base.
    rebase: bool,
}

impl OnRedis {
    fn new(rebase: bool) -> OnRedis {
        let server =
            SERVER.with_borrow_mut(|server| server.get_or_insert_with(|| Server::start(&[]).into()).clone());
        OnRedis { server, opened: None, rebase }
    }
}

impl Logs for OnRedis {
    fn create(&mut self, retention: Retention) -> Arc<dyn Log> {
        static NAMES: AtomicU64 = AtomicU64::new(0);
        let name = format!("hub-{}", NAMES.fetch_add(1, Ordering::Relaxed));
        let config = RedisLogConfig { retention, ..config(&self.server, &name) };
        self.opened = Some(config.clone());
        Arc::new(RedisLog::open(config).unwrap())
    }

    fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        log.close();
        drop(log);
        if self.rebase {
            let other = RedisLog::open(self.opened.clone().unwrap()).unwrap();
            crate::rebase::rebase(&other.shared).unwrap();
        }
        Arc::new(RedisLog::open(self.opened.clone().unwrap()).unwrap())
    }
}

mod suite {
    use super::OnRedis;

    tidings_hub::log_suite!(OnRedis::new(false));
}

mod suite_with_bases {
    use super::OnRedis;

    tidings_hub::log_suite!(OnRedis::new(true));
}
