//! A stream of Redis: every entry is stored exactly once. How far was read is a note of the log, which is set in the
//! step that stores the events: whoever reads next, after whatever end, goes on behind them.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult, Value, cmd};
use tidings_hub::log::{Note, Terms};
use tidings_hub::{Hub, Timestamp};
use tidings_wire::Event;
use tokio::time::timeout;
use tracing::info;

use crate::books::Books;
use crate::message::{self, Message};
use crate::reader::{Ended, Reader, Source};
use crate::right::Right;
use crate::store::{NotStored, Patience, store};
use crate::{IngestConfig, StreamName};

/// How long Redis waits for an entry before it answers that there is none.
const BLOCK: Duration = Duration::from_secs(5);
/// How long a connection, or any answer, may take.
const ANSWER: Duration = Duration::from_secs(15);
/// How many entries are asked for at once, if they are small.
const ENTRIES: usize = 500;
/// How many bytes an answer is to have: fewer entries are asked for where they are large.
const BYTES: usize = 4 << 20;
/// How many events are stored together.
const TOGETHER: usize = 1_000;

/// One stream.
#[derive(Debug)]
pub(crate) struct Stream {
    name: StreamName,
    /// How many entries are asked for next.
    count: usize,
}

impl Stream {
    pub(crate) fn new(name: StreamName) -> Stream {
        Stream { name, count: 100 }
    }
}

impl Source for Stream {
    fn right(&self) -> String {
        format!("ingest/redis/stream/{}", self.name)
    }

    async fn read(&mut self, reader: &Reader, right: &Right, well: &mut (dyn FnMut() + Send)) -> Ended {
        match self.read_on(reader, right, well).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }
}

/// There is no other end than one with a reason.
enum Never {}

impl Stream {
    async fn read_on(
        &mut self,
        reader: &Reader,
        right: &Right,
        well: &mut (dyn FnMut() + Send),
    ) -> Result<Never, Ended> {
        let Reader { hub, config, stats, stop, .. } = reader;
        let books = Books::new(stats, &format!("the Redis stream {}", self.name));
        let mut position = self.position(hub)?;
        let mut connection = tokio::select! {
            connected = timeout(ANSWER, connect(config)) => match connected {
                Ok(connected) => connected?,
                Err(_) => return Err(Ended::Failed("no connection in time".to_owned())),
            },
            () = stop.raised() => return Err(Ended::Stopped),
        };
        info!(redis = %config.redis, stream = %self.name, after = position, "reading a stream");
        loop {
            let entries = tokio::select! {
                entries = self.next(&mut connection, &position) => entries?,
                () = right.lost() => return Err(Ended::Lost),
                () = stop.raised() => return Err(Ended::Stopped),
            };
            well();
            books.tell();
            let Some(last) = entries.last() else { continue };
            position.clone_from(&last.id);
            self.adapt(&entries);
            let storing = Storing { stream: self, reader, right, books: &books, waiting: Waiting::default() };
            storing.all(entries).await?;
        }
    }

    /// Behind which entry to read on.
    fn position(&self, hub: &Hub) -> Result<String, Ended> {
        let failed = |what: String| Ended::Failed(format!("how far it was read can't be known: {what}"));
        match hub.log().note(&self.right()) {
            Ok(None) => Ok("0-0".to_owned()),
            Ok(Some(value)) => String::from_utf8(value).map_err(|error| failed(error.to_string())),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// The next entries; none if there are none for a while.
    async fn next(&self, connection: &mut MultiplexedConnection, after: &str) -> Result<Vec<Entry>, Ended> {
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(self.count).arg("BLOCK").arg(BLOCK.as_millis() as u64);
        command.arg("STREAMS").arg(self.name.to_string()).arg(after);
        let answer: RedisResult<Value> = command.query_async(connection).await;
        let answer = answer.map_err(|error| {
            Ended::lacks(error, &format!("+xread ~{}", self.name), "redis.ingest_streams")
        })?;
        entries(answer).ok_or_else(|| Ended::Failed("an answer to XREAD that is none".to_owned()))
    }

    /// So that the next answer has about as many bytes as it is to have.
    fn adapt(&mut self, entries: &[Entry]) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        self.count = (BYTES / (bytes / entries.len().max(1)).max(1)).clamp(1, ENTRIES);
    }
}

async fn connect(config: &IngestConfig) -> RedisResult<MultiplexedConnection> {
    let timeouts =
        AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER)).set_response_timeout(Some(ANSWER));
    config
        .redis
        .client(config.authority.as_deref())
        .await?
        .get_multiplexed_async_connection_with_config(&timeouts)
        .await
}

/// An entry of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    id: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len() + 64).sum()
    }
}

/// The entries in an answer to `XREAD` of one stream, by either version of the protocol. `None` if it is no such answer.
fn entries(answer: Value) -> Option<Vec<Entry>> {
    let list = match answer {
        Value::Nil => return Some(Vec::new()),
        Value::Map(streams) => streams.into_iter().next()?.1,
        Value::Array(streams) => match streams.into_iter().next()? {
            Value::Array(pair) => pair.into_iter().nth(1)?,
            _ => return None,
        },
        _ => return None,
    };
    let Value::Array(list) = list else { return None };
    list.into_iter().map(entry).collect()
}

fn entry(entry: Value) -> Option<Entry> {
    let Value::Array(pair) = entry else { return None };
    let [Value::BulkString(id), fields] = <[Value; 2]>::try_from(pair).ok()? else { return None };
    let bytes = |value| match value {
        Value::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    let fields = match fields {
        Value::Map(fields) => fields
            .into_iter()
            .map(|(name, value)| Some((bytes(name)?, bytes(value)?)))
            .collect::<Option<_>>()?,
        Value::Array(flat) => {
            let mut fields = Vec::with_capacity(flat.len() / 2);
            let mut flat = flat.into_iter();
            while let Some(name) = flat.next() {
                fields.push((bytes(name)?, bytes(flat.next()?)?));
            }
            fields
        }
        _ => return None,
    };
    Some(Entry { id: String::from_utf8(id).ok()?, fields })
}

/// The entries of one answer, on their way into the log.
struct Storing<'a> {
    stream: &'a Stream,
    reader: &'a Reader,
    right: &'a Right,
    books: &'a Books<'a>,
    waiting: Waiting,
}

/// What is stored next.
#[derive(Default)]
struct Waiting {
    /// The events of each entry that has some, and its id.
    entries: Vec<(Vec<Event>, String)>,
    events: usize,
    /// The last entry that is done with when these are stored.
    through: Option<String>,
}

impl Storing<'_> {
    async fn all(mut self, entries: Vec<Entry>) -> Result<(), Ended> {
        let IngestConfig { rules, message, .. } = &self.reader.config;
        for entry in entries {
            let read = if entry.bytes() > message + 64 * entry.fields.len() {
                Err("too long")
            } else {
                Message::of_fields(&entry.fields, rules)
            };
            match read {
                Ok(Message { events, key: None }) => {
                    self.waiting.events += events.len();
                    self.waiting.through = Some(entry.id.clone());
                    self.waiting.entries.push((events, entry.id));
                    if self.waiting.events >= TOGETHER {
                        self.flush().await?;
                    }
                }
                Ok(Message { events, key: Some(key) }) => {
                    self.flush().await?;
                    let parts = entry.fields.iter().flat_map(|(name, value)| [&**name, &**value]);
                    let once = message::once(&key, parts, Timestamp::now());
                    let terms = Terms { once: Some(once), ..self.terms(&entry.id) };
                    let result = self.store(&events, &terms).await;
                    self.enter(result, 1)?;
                    // Stored before, it is not noted again; refused, neither.
                    self.waiting.through = Some(entry.id);
                }
                Err(why) => {
                    self.books.received(1);
                    self.books.bad(why, 1);
                    self.waiting.through = Some(entry.id);
                }
            }
        }
        self.flush().await
    }

    /// Under the right, and with how far was read.
    fn terms(&self, through: &str) -> Terms {
        let note = Note { name: self.stream.right(), value: Some(through.into()) };
        Terms { lease: Some(self.right.lease().clone()), note: Some(note), ..Terms::default() }
    }

    /// Stores what waits, one by one if not all of it can be, and notes how far that is.
    async fn flush(&mut self) -> Result<(), Ended> {
        let Waiting { entries, through, .. } = std::mem::take(&mut self.waiting);
        let Some(through) = through else { return Ok(()) };
        let count = entries.len();
        let events: Vec<Event> = entries.iter().flat_map(|(events, _)| events).cloned().collect();
        let result = self.store(&events, &self.terms(&through)).await;
        if !matches!(result, Err(NotStored::Bad(_))) {
            return self.enter(result, count as u64);
        }
        for (events, id) in entries {
            let result = self.store(&events, &self.terms(&id)).await;
            self.enter(result, 1)?;
        }
        let result = self.store(&[], &self.terms(&through)).await;
        self.enter(result, 0)
    }

    async fn store(&self, events: &[Event], terms: &Terms) -> Result<(), NotStored> {
        store(&self.reader.hub, events, terms, Patience::UntilRaised(&self.reader.stop)).await
    }

    /// Into the books. What is not stored yet comes again with the next session.
    fn enter(&self, result: Result<(), NotStored>, count: u64) -> Result<(), Ended> {
        match result {
            Ok(()) => self.books.stored(count),
            Err(NotStored::Bad(why)) => self.books.bad(why, count),
            Err(NotStored::GivenUp(_) | NotStored::Closed) => return Err(Ended::Stopped),
            Err(NotStored::Unknown) => {
                return Err(Ended::Failed("it is not known whether it was stored; looking again".to_owned()));
            }
            Err(NotStored::LeaseLost) => return Err(Ended::Lost),
        }
        self.books.received(count);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn answers_of_both_protocols_are_read() {
        let fields = || Value::Array(vec![text("channel"), text("a"), text("channel"), text("b")]);
        let list = || Value::Array(vec![Value::Array(vec![text("1-0"), fields()])]);
        let one = Entry {
            id: "1-0".to_owned(),
            fields: vec![("channel".into(), "a".into()), ("channel".into(), "b".into())],
        };
        let second = Value::Array(vec![Value::Array(vec![text("s"), list()])]);
        assert_eq!(entries(second).as_deref(), Some(std::slice::from_ref(&one)));
        assert_eq!(entries(Value::Map(vec![(text("s"), list())])), Some(vec![one]));
        assert_eq!(entries(Value::Nil), Some(Vec::new()));
        for odd in [
            Value::Okay,
            Value::Array(Vec::new()),
            Value::Array(vec![Value::Nil]),
            Value::Map(vec![(text("s"), Value::Array(vec![Value::Array(vec![text("1-0")])]))]),
            Value::Map(vec![(text("s"), Value::Array(vec![Value::Array(vec![text("1-0"), Value::Nil])]))]),
        ] {
            assert_eq!(entries(odd), None);
        }
    }

    #[test]
    fn fewer_large_entries_are_asked_for() {
        let mut stream = Stream::new("s".parse().unwrap());
        let entry = |bytes: usize| Entry { id: "1-0".to_owned(), fields: vec![(Vec::new(), vec![0; bytes])] };
        stream.adapt(&[entry(100), entry(100)]);
        assert_eq!(stream.count, ENTRIES);
        stream.adapt(&[entry(1 << 20)]);
        assert_eq!(stream.count, 3);
        stream.adapt(&[entry(64 << 20)]);
        assert_eq!(stream.count, 1);
    }
}
