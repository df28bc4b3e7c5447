//! The thread that reads: everything that any node has appended, in its order.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Connection, Value, cmd};
use tidings_hub::Timestamp;
use tidings_hub::log::{Located, Replica, Retention, TailItem};
use tidings_wire::Sequence;

use crate::base::{self, EntryId};
use crate::clock::Clock;
use crate::connect::{Connector, barrier};
use crate::entry::{Entry, blob, bytes, entries, of_stream};
use crate::error::{Result, Trouble, damaged};
use crate::log::{Part, Shared, Size};
use crate::pace::Pace;
use crate::queue::{Asker, Outcome};
use crate::rebase::Bases;
use crate::script::{Arg, FORMAT, Keys, Script, run as run_script};
use crate::step::{Step, put_bytes};
use crate::write::AGAIN;

/// How long one read waits for something new. Then it is looked whether the log is still the one that it was.
const BLOCK: Duration = Duration::from_millis(500);
/// How long an answer may take beyond that before the connection is given up.
pub(crate) const ANSWER: Duration = Duration::from_millis(1000);
/// After how long it is known that a connection is silent.
pub(crate) const SILENCE: Duration = BLOCK.saturating_add(ANSWER);
/// How often it is tried to read a log while others put new bases into it.
const ATTEMPTS: usize = 10;

/// What Redis says of the log.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meta {
    /// The newest entry.
    at: EntryId,
    pub(crate) key: [u8; 16],
    /// By its clock.
    pub(crate) now: Timestamp,
}

/// A log that was read.
pub(crate) struct Loaded {
    pub(crate) replica: Replica,
    pub(crate) at: EntryId,
    pub(crate) size: Size,
    /// What came of the groups that this node has sent, as far as they lie behind the base.
    mine: Vec<(u64, Vec<Outcome>)>,
}

/// A log that was opened.
pub(crate) struct Opened {
    pub(crate) connection: Connection,
    pub(crate) clock: Clock,
    pub(crate) meta: Meta,
    pub(crate) loaded: Loaded,
}

/// What a log has to begin with, if there is none.
struct Beginning<'a> {
    epoch: u32,
    key: [u8; 16],
    retention: &'a Retention,
}

/// Connects and reads all of the log.
pub(crate) fn open(
    connector: &Connector,
    keys: &Keys,
    retention: &Retention,
    key: [u8; 16],
) -> Result<Opened> {
    let beginning = Beginning { epoch: 1, key, retention };
    let mut connection = connector.connect()?;
    let clock = Clock::default();
    let asked = clock.here();
    let meta = settle_with(&mut connection, keys, &beginning, &[], None)?;
    clock.compare(asked, meta.now);
    connection.set_read_timeout(Some(10 * ANSWER))?;
    let loaded = load(&mut connection, keys, meta, "")?;
    barrier(&mut connection, connector.ack, &keys.of_node("seen", "opening"), ANSWER)?;
    Ok(Opened { connection, clock, meta, loaded })
}

/// Begins a new epoch if this is another run of Redis, and a new log if there is none; what there is then.
pub(crate) fn settle(shared: &Shared, connection: &mut Connection) -> Result<Meta> {
    let (epoch, retention, at) = {
        let state = shared.lock();
        (state.replica.head().epoch.0.saturating_add(1), state.replica.retention().clone(), state.at)
    };
    let beginning = Beginning { epoch, key: shared.cursor_key, retention: &retention };
    let asked = shared.clock.here();
    let meta = settle_with(connection, &shared.keys, &beginning, &shared.cursor_key, Some(at))?;
    shared.clock.compare(asked, meta.now);
    Ok(meta)
}

fn settle_with(
    connection: &mut Connection,
    keys: &Keys,
    beginning: &Beginning<'_>,
    known_key: &[u8],
    known: Option<EntryId>,
) -> Result<Meta> {
    // Without a group to append, its node's key is not looked at.
    let three = [&keys.stream[..], &keys.meta, &keys.meta];
    let known = known.unwrap_or_default();
    let look = [
        Arg::Text(FORMAT),
        Arg::Text(""),
        Arg::Text(""),
        Arg::Text(""),
        Arg::Bytes(known_key),
        Arg::Number(known.number),
        Arg::Number(known.epoch.into()),
    ];
    match run_script(connection, Script::Append, &three, &look) {
        Err(Trouble::Gone) => {}
        // Only a new epoch writes something, and nothing goes on before it: no room is made either.
        Err(Trouble::Full(_)) => return meta(run_script(connection, Script::Fork, &three, &look)?),
        answer => return meta(answer?),
    }
    let mut steps = Vec::new();
    put_bytes(&mut steps, &Step::Rules(beginning.retention.clone()).encode());
    let args = [
        Arg::Text(FORMAT),
        Arg::Number(beginning.epoch.into()),
        Arg::Bytes(&beginning.key),
        Arg::Bytes(&steps),
    ];
    run_script(connection, Script::Begin, &[&keys.stream, &keys.meta], &args)?;
    meta(run_script(connection, Script::Append, &three, &look)?)
}

/// What the script that appends answers.
pub(crate) fn meta(answer: Value) -> Result<Meta> {
    let read = || {
        let Value::Array(fields) = answer else { return None };
        let [Value::Int(last), Value::Int(epoch), key, now] = <[Value; 4]>::try_from(fields).ok()? else {
            return None;
        };
        let at = EntryId { number: last.try_into().ok()?, epoch: epoch.try_into().ok()? };
        let now = Timestamp(String::from_utf8(blob(now)?).ok()?.parse().ok()?);
        Some(Meta { at, key: blob(key)?.try_into().ok()?, now })
    };
    read().ok_or_else(|| damaged("what is said of it can't be understood"))
}

/// Reads the base and the entries behind it, at least up to what `meta` says.
fn load(connection: &mut Connection, keys: &Keys, meta: Meta, node: &str) -> Result<Loaded> {
    for _ in 0..ATTEMPTS {
        let base_before = base_of(connection, keys)?;
        let read = load_once(connection, keys, base_before, meta.at.number, node);
        // Another node may have put a new base there, and taken away entries that were about to be read.
        if base_of(connection, keys)? == base_before {
            return read;
        }
    }
    Err(Trouble::Refused("the log changes faster than it can be read".to_owned()))
}

/// The entry up to which the base goes.
fn base_of(connection: &mut Connection, keys: &Keys) -> Result<u64> {
    let base: Option<u64> = cmd("HGET").arg(&keys.meta).arg("base").query(connection)?;
    base.ok_or(Trouble::Gone)
}

fn load_once(
    connection: &mut Connection,
    keys: &Keys,
    base: u64,
    through: u64,
    node: &str,
) -> Result<Loaded> {
    let mut size = Size { base, ..Size::default() };
    let mut loaded = None;
    let mut mine = Vec::new();
    if base > 0 {
        let strange = || damaged("its base is missing or can't be understood");
        let mut reading = base::Reading::default();
        let mut pace = Pace::new();
        let mut from = 0;
        loop {
            let to = from + pace.count() - 1;
            let chunks: Vec<Vec<u8>> = cmd("LRANGE").arg(&keys.base).arg(from).arg(to).query(connection)?;
            if chunks.is_empty() {
                break;
            }
            from += chunks.len() as u64;
            pace.took(chunks.len(), chunks.iter().map(|chunk| chunk.len() as u64).sum());
            for chunk in chunks {
                size.base_bytes += chunk.len() as u64;
                reading.take(&chunk).ok_or_else(strange)?;
            }
        }
        let (replica, at) = reading.finish().ok_or_else(strange)?;
        if at.number != base {
            return Err(damaged("its base is another one than is said"));
        }
        loaded = Some((replica, at));
    }
    let mut pace = Pace::new();
    loop {
        let after = loaded.as_ref().map_or(0, |(_, at)| at.number);
        let read = cmd("XRANGE")
            .arg(&keys.stream)
            .arg(format!("{}-0", after + 1))
            .arg("+")
            .arg("COUNT")
            .arg(pace.count())
            .query(connection)?;
        let read = entries(read)?;
        pace.took(read.len(), bytes(&read));
        let last = read.is_empty();
        for entry in read {
            let mut items = Vec::new();
            match &mut loaded {
                None if entry.id.number == 1 => {
                    let mut replica = entry.first();
                    entry.apply(&mut replica, &mut items)?;
                    loaded = Some((replica, entry.id));
                }
                Some((replica, at)) if entry.follows(*at) => {
                    let outcomes = entry.apply(replica, &mut items)?;
                    *at = entry.id;
                    mine.extend(entry.number_of(node).map(|number| (number, outcomes)));
                }
                _ => {
                    let what = format!("entries before {} are missing", entry.id.number);
                    return Err(damaged(what));
                }
            }
            size.entries += entry.bytes;
        }
        match loaded {
            Some((replica, at)) if last && at.number >= through => {
                return Ok(Loaded { replica, at, size, mine });
            }
            _ if last => return Err(damaged("its newest entries are missing")),
            _ => {}
        }
    }
}

/// Reads on from where the log was loaded.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    seen_key: String,
    bases: Bases,
}

impl Follower {
    pub(crate) fn new(shared: Arc<Shared>, connection: Connection) -> Follower {
        let seen_key = shared.keys.of_node("seen", &shared.node);
        let bases = Bases::new(shared.clone());
        Follower { shared, connection: Some(connection), seen_key, bases }
    }

    pub(crate) fn run(mut self) {
        while !self.shared.queue.is_stopped() {
            let Err(trouble) = self.follow() else { return };
            self.connection = None;
            self.shared.trouble(Part::Following, Some(&trouble));
            let quickly = matches!(trouble, Trouble::Moved(_));
            if self.shared.queue.pause(if quickly { Duration::ZERO } else { AGAIN }) {
                return;
            }
        }
    }

    /// Follows until something is wrong with the connection, or the log is closed.
    fn follow(&mut self) -> Result<()> {
        let mut switches = 0;
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                switches = self.shared.connector.switches();
                let mut connection = self.shared.connector.connect()?;
                connection.set_read_timeout(Some(10 * ANSWER))?;
                let meta = settle(&self.shared, &mut connection)?;
                let at = self.shared.lock().at;
                // With more entries than are known here, the first of them tells whether it is the same history.
                if meta.at != at && meta.at.number <= at.number {
                    self.load_anew(&mut connection)?;
                }
                connection
            }
        };
        connection.set_read_timeout(Some(SILENCE))?;
        connection.set_write_timeout(Some(ANSWER))?;
        let mut pace = Pace::new();
        while !self.shared.queue.is_stopped() {
            let at = self.shared.lock().at;
            let (asked, limit) = (Instant::now(), pace.count());
            let read = cmd("XREAD")
                .arg("COUNT")
                .arg(limit)
                .arg("BLOCK")
                .arg(BLOCK.as_millis() as u64)
                .arg("STREAMS")
                .arg(&self.shared.keys.stream)
                .arg(format!("{}-{}", at.number, at.epoch))
                .query(&mut connection)?;
            let read = entries(of_stream(read))?;
            pace.took(read.len(), bytes(&read));
            if self.shared.connector.switches() != switches {
                return Err(Trouble::Away("the sentinels name another master".to_owned()));
            }
            let mut before = at;
            let whole = read.iter().all(|entry| {
                let follows = entry.follows(before);
                before = entry.id;
                follows
            });
            let count = read.len();
            if read.is_empty() {
                if !self.is_all(&mut connection, at)? {
                    self.load_anew(&mut connection)?;
                }
                // Nothing comes when Redis is full.
                self.bases.think(&mut connection)?;
            } else if !whole {
                self.load_anew(&mut connection)?;
            } else {
                self.wait_until_durable(&mut connection, before.epoch)?;
                self.take_in(read)?;
                self.bases.think(&mut connection)?;
                // Where much comes, a moment's rest makes fewer and larger reads.
                if count > 2 {
                    self.shared.queue.pause(Duration::from_millis(if count > 16 { 2 } else { 1 }));
                }
            }
            if (count as u64) < limit {
                self.shared.lock().read_all = asked;
            }
            self.shared.trouble(Part::Following, None);
        }
        Ok(())
    }

    /// Whether nothing new came because nothing new is there, in the same history.
    fn is_all(&self, connection: &mut Connection, at: EntryId) -> Result<bool> {
        let now = settle(&self.shared, connection)?.at;
        if now.number <= at.number {
            return Ok(now == at);
        }
        // Something has come in the meantime, unless it is gone already, for a base that stands for it.
        let next = cmd("XRANGE")
            .arg(&self.shared.keys.stream)
            .arg(format!("{}-0", at.number + 1))
            .arg("+")
            .arg("COUNT")
            .arg(1)
            .query(connection)?;
        Ok(!entries(next)?.is_empty())
    }

    /// Waits until what was read of this epoch, the newest, is as durable as it is to be.
    fn wait_until_durable(&self, connection: &mut Connection, epoch: u32) -> Result<()> {
        let shared = &self.shared;
        let mut waited = false;
        while !shared.queue.is_stopped() {
            match barrier(connection, shared.connector.ack, &self.seen_key, BLOCK) {
                // Too few replicas, or a slow disk: what was read is not handed out before that is over, and nothing
                // more is sent, for nobody could be told that it is stored.
                Err(trouble @ Trouble::NotYet(_)) => {
                    waited = true;
                    shared.queue.hold(true);
                    shared.trouble(Part::Following, Some(&trouble));
                    shared.queue.pause(AGAIN);
                }
                done => {
                    shared.queue.hold(false);
                    done?;
                    // Meanwhile it may have been a replica, lost what was read, and become the master again.
                    if waited && settle(shared, connection)?.at.epoch != epoch {
                        return Err(Trouble::Gone);
                    }
                    return Ok(());
                }
            }
        }
        Err(Trouble::Away("the log is closed".to_owned()))
    }

    /// Does what the entries say, announces it, and answers those who asked for it.
    fn take_in(&self, read: Vec<Entry>) -> Result<()> {
        let shared = &*self.shared;
        let mut items = Vec::new();
        let mut mine = Vec::new();
        let mut failed = Ok(());
        let mut state = shared.lock();
        for entry in read {
            let outcomes = match entry.apply(&mut state.replica, &mut items) {
                Ok(outcomes) => outcomes,
                Err(trouble) => {
                    failed = Err(trouble);
                    break;
                }
            };
            state.at = entry.id;
            state.size.entries += entry.bytes;
            state.commits += 1;
            mine.extend(entry.number_of(&shared.node).map(|number| (number, outcomes)));
        }
        shared.knows(state.at);
        shared.clock.tell_by_node(&mut items);
        // Under the lock, so that every tail has the log's order.
        shared.feed.announce(&items);
        drop(state);
        shared.read_on.notify_all();
        shared.feed.flush();
        self.answer(mine);
        failed
    }

    fn answer(&self, mine: Vec<(u64, Vec<Outcome>)>) {
        for (number, outcomes) in mine {
            let askers: Vec<Asker> = self.shared.queue.came_back(number);
            for (asker, outcome) in askers.into_iter().zip(outcomes) {
                // Who asked may have gone.
                let _ = asker.send(Ok(outcome));
            }
        }
    }

    /// Puts what there is in Redis in the place of what is known here.
    fn load_anew(&self, connection: &mut Connection) -> Result<()> {
        let shared = &*self.shared;
        let meta = settle(shared, connection)?;
        let loaded = load(connection, &shared.keys, meta, &shared.node)?;
        self.wait_until_durable(connection, loaded.at.epoch)?;
        let mut state = shared.lock();
        let known = state.replica.head();
        let at = match loaded.replica.locate(known) {
            Located::Here(at) | Located::PastFork(at) => at,
            Located::Ahead | Located::Unknown => Sequence::START,
        };
        state.replica = loaded.replica;
        state.at = loaded.at;
        shared.knows(loaded.at);
        state.size = loaded.size;
        let head = state.replica.head();
        let forked = TailItem::Forked { epoch: head.epoch, at, through: head.sequence };
        shared.feed.announce(&[forked]);
        drop(state);
        shared.read_on.notify_all();
        shared.feed.flush();
        self.answer(loaded.mine);
        Ok(())
    }
}
