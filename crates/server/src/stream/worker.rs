//! Worker threads: each has its own epoll, its own shard of the subscribers and their sockets.
//!
//! A worker's turn: what the kernel reports, then orders, then new events, then one slice of the sweep, then what is
//! due in time. Each part has a budget, so that accepts, publishes and slow clients all get theirs.

mod handle;
mod presence;

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use tidings_hub::durable;
use tidings_hub::{Census, Change, Farewell, Info, Opening, Say, Shard, SubscriberId, Timestamp, View};
use tidings_wire::{Channel, Event, Position};
use tokio::sync::oneshot;

pub use self::handle::{Changed, StreamStats, Unchanged, WorkerStats, WorkersHandle};
use self::presence::Watchers;
use super::conn::{About, CloseReason, Conn, ConnectionFilter, ConnectionInfo};
use super::holders::{Held, Holding};
use super::open::spread;
use super::sweep::{Slice, sweep};
use super::timers::{Deadlines, Due, Key, Spans, TICK, Tick, Wheel};
use crate::presence::{Doorkeeper, Notice, Watching};
use crate::subscribe::ControlLevel;

/// How many reports of the kernel one turn takes.
const EVENTS: usize = 1024;
/// How many orders one turn carries out: as long as a slice of the sweep.
const ORDERS: usize = 128;
/// How many new events one turn takes in.
const RECORDS: usize = 1024;
/// How much a client may send after its request, in bytes. What comes is not for anybody.
const NOISE: u32 = 64 << 10;
/// How long clients that a drain sends away wait at least and at most, as multiples of `retry`.
const DRAIN_RETRY: (u32, u32) = (1, 2);
/// The same for a stream that was replaced: coming back it would end the one that has its subscription now, which would
/// come back in its turn.
const REPLACED_RETRY: (u32, u32) = (20, 40);
/// The reports of this token are the waker's.
const WAKER: Token = Token(usize::MAX);

/// A stream that lacks only its socket.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) opening: Opening,
    pub(crate) about: About,
    /// How long its token is good for.
    pub(crate) token: Option<Duration>,
    /// What others may read of its token.
    pub(crate) info: Option<Info>,
    /// The channels of which it is told who is there, if it asked for that.
    pub(crate) watching: Option<Watching>,
}

/// What a worker is told to do.
enum Order {
    Admit(Box<NewStream>, std::net::TcpStream),
    List {
        filter: ConnectionFilter,
        limit: usize,
        reply: oneshot::Sender<Vec<ConnectionInfo>>,
    },
    Disconnect {
        filter: ConnectionFilter,
        reply: oneshot::Sender<usize>,
    },
    Receivers {
        event: Arc<Event>,
        reply: oneshot::Sender<usize>,
    },
    Change {
        filter: ConnectionFilter,
        change: Arc<Change>,
        /// How many channels a stream may have asked for.
        limit: usize,
        /// Whether one that watches may ask for all that is added.
        watchable: bool,
        reply: oneshot::Sender<Vec<Changed>>,
    },
    Follows {
        views: Arc<[View]>,
        reply: oneshot::Sender<bool>,
    },
    /// To say who is in a channel.
    Census {
        channel: Channel,
        reply: oneshot::Sender<Census>,
    },
    /// To count who is in channels that begin to be watched.
    Count {
        channels: Arc<[Channel]>,
        reply: oneshot::Sender<()>,
    },
    /// To tell those who watch.
    Tell(Vec<Arc<Notice>>),
    /// To end a stream whose subscription another has.
    Replace(Arc<Held>),
    /// To close all streams within a time.
    Drain {
        within: Duration,
    },
    Stop,
}

/// What a worker has done and has now. Only it writes this.
#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    /// The sum of when its streams began, in milliseconds since 1970: the average age needs no walk.
    since: AtomicU64,
    blocked: AtomicU64,
    heartbeats: AtomicU64,
    closed: [AtomicU64; CloseReason::ALL.len()],
}

/// Wakes a worker. However often it rings before the worker looks, the kernel is asked once.
#[derive(Debug)]
struct Alarm {
    waker: Waker,
    rung: AtomicBool,
    /// There is no stream: new events need not be told, the worker takes them in with its ticks.
    idle: AtomicBool,
}

impl Alarm {
    fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "a worker can't be woken");
        }
    }

    /// The same for new events, which a worker without streams is not woken for: each publish would cost two changes
    /// of the running thread.
    fn ring_for_events(&self) {
        if !self.idle.load(Ordering::SeqCst) {
            self.ring();
        }
    }

    /// To be called before looking for what may have been rung for.
    fn reset(&self) {
        self.rung.store(false, Ordering::SeqCst);
    }
}

struct Worker {
    number: usize,
    poll: Poll,
    alarm: Arc<Alarm>,
    inbox: Receiver<Order>,
    shard: Shard,
    /// By the subscribers' slots.
    conns: Vec<Option<Conn>>,
    /// The durable subscriptions of those streams that have one, by their slots.
    holdings: HashMap<u32, Holding>,
    /// The newest connection's.
    generation: u32,
    wheel: Wheel,
    /// Room for what the wheel hands out, kept to be used again.
    due: Vec<Key>,
    slice: Slice,
    spans: Spans,
    lifetime: Duration,
    retry: Duration,
    counters: Arc<Counters>,
    /// Is told who comes and goes.
    door: Arc<Doorkeeper>,
    watchers: Watchers,
    draining: Option<Draining>,
    start: Instant,
    /// The present moment, looked up once in a turn.
    tick: Tick,
    now: Timestamp,
}

/// The streams that a drain has yet to close.
struct Draining {
    left: Vec<Key>,
    until: Tick,
}

/// Whether a worker goes on after its orders.
#[derive(PartialEq, Eq)]
enum Orders {
    Done,
    More,
    Stop,
}

impl Worker {
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        let mut scratch = vec![0; 16 << 10];
        let mut busy = false;
        loop {
            let timeout = if busy { Duration::ZERO } else { self.rest() };
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != ErrorKind::Interrupted
            {
                tracing::error!(%error, worker = self.number, "can't wait for sockets");
                std::thread::sleep(TICK);
            }
            self.alarm.reset();
            self.now = Timestamp::now();
            let tick = Tick::at(self.start.elapsed());
            let passed = tick > self.tick;
            self.tick = tick;
            for event in &events {
                self.socket_event(event, &mut scratch);
            }
            let orders = self.take_orders();
            if orders == Orders::Stop {
                return;
            }
            let more_to_tell = self.tell_watchers();
            let more_records = self.shard.consume(RECORDS);
            let more_to_write = self.sweep();
            self.report_moves();
            if passed {
                self.pass_time();
            }
            self.alarm.idle.store(self.shard.is_empty(), Ordering::SeqCst);
            let more = more_to_tell || more_records || more_to_write || self.shard.ready() > 0;
            busy = orders == Orders::More || more;
        }
    }

    /// How long to wait for the kernel or an alarm: to the next tick.
    fn rest(&self) -> Duration {
        (TICK * self.tick.0.saturating_add(1)).saturating_sub(self.start.elapsed())
    }

    fn socket_event(&mut self, event: &Readiness, scratch: &mut [u8]) {
        if event.token() == WAKER {
            return;
        }
        let Some((id, conn)) = found(&mut self.conns, key_of(event.token())) else { return };
        if event.is_read_closed() || event.is_error() {
            return self.close(id, CloseReason::Gone);
        }
        if event.is_readable()
            && let Some(reason) = discard(conn, scratch)
        {
            return self.close(id, reason);
        }
        if event.is_writable() && self.shard.is_blocked(id) {
            self.shard.unblock(id);
            less(&self.counters.blocked, 1);
        }
    }

    fn take_orders(&mut self) -> Orders {
        for _ in 0..ORDERS {
            let Ok(order) = self.inbox.try_recv() else { return Orders::Done };
            match order {
                Order::Admit(stream, socket) => self.admit(*stream, socket),
                Order::List { filter, limit, reply } => {
                    let infos = self.meant(&filter).take(limit).map(|(id, conn)| self.info(id, conn));
                    // Who asked may have given up.
                    let _ = reply.send(infos.collect());
                }
                Order::Disconnect { filter, reply } => {
                    let meant: Vec<_> = self.meant(&filter).map(|(id, _)| id).collect();
                    let count = meant.into_iter().filter(|id| self.end(*id, CloseReason::Kicked)).count();
                    let _ = reply.send(count);
                }
                Order::Receivers { event, reply } => {
                    let _ = reply.send(self.shard.receivers(&event));
                }
                Order::Change { filter, change, limit, watchable, reply } => {
                    let meant: Vec<_> = self.meant(&filter).map(|(id, conn)| (id, conn.id)).collect();
                    let changed = meant.into_iter().map(|(id, connection)| Changed {
                        connection,
                        from: self.change(id, &change, limit, watchable),
                        subscription: self.holdings.get(&id.0).map(|holding| holding.name().clone()),
                    });
                    let _ = reply.send(changed.collect());
                }
                Order::Follows { views, reply } => {
                    let _ = reply.send(self.shard.follows(&views));
                }
                Order::Census { channel, reply } => {
                    let _ = reply.send(self.census(&channel));
                }
                Order::Count { channels, reply } => {
                    self.count(&channels);
                    let _ = reply.send(());
                }
                Order::Tell(notices) => self.take_notices(notices),
                Order::Replace(held) => {
                    // One that is not here yet sees it when it comes, one that is gone has no place.
                    let key = held.place().map(|place| key_of(Token(place as usize)));
                    if let Some((id, _)) = key.and_then(|key| found(&mut self.conns, key)) {
                        self.end(id, CloseReason::Replaced);
                    }
                }
                Order::Drain { within } => {
                    let all = ConnectionFilter::default();
                    let left = self.meant(&all);
                    let left =
                        left.map(|(id, conn)| Key { slot: id.0, generation: conn.generation }).collect();
                    self.draining = Some(Draining { left, until: self.tick.after(within) });
                    self.drain_some();
                }
                Order::Stop => return Orders::Stop,
            }
        }
        Orders::More
    }

    fn admit(&mut self, stream: NewStream, socket: std::net::TcpStream) {
        let NewStream { opening, mut about, token, info, watching } = stream;
        let mut socket = TcpStream::from_std(socket);
        // Before the shard takes in what there is: from then on it is told what comes.
        self.alarm.idle.store(false, Ordering::SeqCst);
        let id = self.shard.subscribe(opening, self.now);
        self.generation = self.generation.wrapping_add(1);
        let key = Key { slot: id.0, generation: self.generation };
        // Once for good, edge-triggered: the kernel reports space in the socket's buffer only after it was full.
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut socket, token_of(key), interest) {
            tracing::warn!(%error, "a socket can't be watched");
            return self.shard.unsubscribe(id);
        }
        // The id is random; parts of it do for what shall differ from one to the next.
        let [spread, shorter, ..] = about.id.0.to_be_bytes();
        let lifetime = self.lifetime - self.lifetime / 5 * u32::from(shorter) / 255;
        let lifetime = (lifetime > Duration::ZERO).then_some(lifetime);
        let mut deadlines = Deadlines::new(self.tick, &self.spans, lifetime, token, spread);
        deadlines.armed = self.wheel.arm(deadlines.next(&self.spans), key);
        let mut replaced = false;
        if let Some(holding) = about.holding.take() {
            // In this order: who takes it over after the look finds the place.
            holding.placed(token_of(key).0 as u64);
            replaced = holding.is_replaced();
            self.holdings.insert(id.0, holding);
        }
        let slot = id.0 as usize;
        if slot >= self.conns.len() {
            self.conns.resize_with(slot + 1, || None);
        }
        self.door.enter(self.number, about.permit.user(), info.as_ref(), self.shard.views(id), self.now);
        self.conns[slot] = Some(Conn::new(socket, self.generation, deadlines, self.now, about));
        if let Some(watching) = watching {
            self.watch(id, watching);
        }
        more(&self.counters.connections, 1);
        more(&self.counters.since, self.now.0);
        if self.draining.is_some() {
            self.end(id, CloseReason::Drain);
        } else if replaced {
            self.end(id, CloseReason::Replaced);
        }
    }

    /// Changes what one stream follows, unless it could not ask for that itself.
    fn change(
        &mut self,
        id: SubscriberId,
        change: &Change,
        limit: usize,
        watchable: bool,
    ) -> Result<Position, Unchanged> {
        if !watchable && self.watchers.watches(id) {
            return Err(Unchanged::Watching);
        }
        let mut asked: Vec<&View> = self.shard.views(id).filter(|view| !view.is_implicit()).collect();
        asked.retain(|view| !change.remove.contains(view));
        for view in &change.add {
            if !asked.contains(&view) {
                asked.push(view);
            }
        }
        if asked.len() > limit {
            return Err(Unchanged::Channels);
        }
        let kept = self.holdings.contains_key(&id.0);
        if kept && !durable::may_keep(asked.into_iter().map(View::as_str)) {
            return Err(Unchanged::Kept);
        }
        // That it follows something else is said by `report_moves`, once it does.
        Ok(self.shard.change(id, change.clone()))
    }

    fn sweep(&mut self) -> bool {
        let more_to_write = sweep(&mut self.shard, &mut self.conns, self.now, self.tick, &mut self.slice);
        more(&self.counters.blocked, self.slice.blocked.len() as u64);
        while let Some(id) = self.slice.blocked.pop() {
            self.arm(id);
        }
        while let Some((id, reason)) = self.slice.over.pop() {
            self.close(id, reason);
        }
        more_to_write
    }

    /// What the new tick brings.
    fn pass_time(&mut self) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(self.tick, &mut due);
        for key in due.drain(..) {
            self.look_after(key);
        }
        self.due = due;
        self.catch_watchers_up();
        self.drain_some();
    }

    fn look_after(&mut self, key: Key) {
        let Some((id, conn)) = found(&mut self.conns, key) else { return };
        if conn.deadlines.armed > self.tick {
            // It was armed for later after this.
            return;
        }
        conn.deadlines.armed = Tick::NEVER;
        match conn.deadlines.due(self.tick, &self.spans) {
            Due::Nothing => {}
            Due::Heartbeat => {
                more(&self.counters.heartbeats, 1);
                let say = if conn.control == ControlLevel::All { Say::Ping } else { Say::Heartbeat };
                self.shard.say(id, say);
            }
            Due::Finish(reason) => {
                self.end(id, reason);
            }
            Due::Cut(reason) => return self.close(id, reason),
        }
        self.arm(id);
    }

    /// Puts a connection on the wheel if it isn't there early enough.
    fn arm(&mut self, id: SubscriberId) {
        let Some(Some(conn)) = self.conns.get_mut(id.0 as usize) else { return };
        let mut next = conn.deadlines.next(&self.spans);
        if conn.wants_positions() {
            let silent = self.now.since(self.shard.id_at(id));
            match self.spans.position.checked_sub(silent) {
                Some(left) if left > Duration::ZERO => next = next.min(self.tick.after(left)),
                _ => {
                    self.shard.say(id, Say::Position);
                    next = next.min(self.tick.after(self.spans.position));
                }
            }
        }
        // A stuck connection may begin to move any time, and then has heartbeats to get.
        next = next.min(self.tick.after(self.spans.heartbeat));
        if next < conn.deadlines.armed {
            let key = Key { slot: id.0, generation: conn.generation };
            conn.deadlines.armed = self.wheel.arm(next, key);
        }
    }

    /// Begins a stream's end; false if it has begun already.
    fn end(&mut self, id: SubscriberId, reason: CloseReason) -> bool {
        let Some(Some(conn)) = self.conns.get_mut(id.0 as usize) else { return false };
        if !conn.deadlines.end(self.tick, reason) {
            return false;
        }
        let retry = match reason {
            CloseReason::Drain => Some(spread(self.retry, DRAIN_RETRY)),
            CloseReason::Replaced => Some(spread(self.retry, REPLACED_RETRY)),
            _ => None,
        };
        let farewell = if conn.hears_reasons() { reason.farewell() } else { Farewell::Silent };
        self.shard.finish(id, farewell, retry);
        self.arm(id);
        true
    }

    /// Takes a stream out. What its socket took is still sent.
    fn close(&mut self, id: SubscriberId, reason: CloseReason) {
        self.report_moves();
        let Some(conn) = self.conns.get_mut(id.0 as usize).and_then(Option::take) else { return };
        if self.shard.is_blocked(id) {
            less(&self.counters.blocked, 1);
        }
        self.unwatch(id);
        // Of a change that still waits nobody was told.
        self.door.leave(self.number, conn.permit.user(), self.shard.followed(id), self.now);
        self.shard.unsubscribe(id);
        if !self.holdings.is_empty() {
            self.holdings.remove(&id.0);
        }
        less(&self.counters.connections, 1);
        less(&self.counters.since, conn.since.0);
        more(&self.counters.closed[reason as usize], 1);
        // An error says that the other end is gone already.
        let _ = conn.socket.shutdown(Shutdown::Write);
    }

    /// Ends this tick's share of the streams that a drain has to close.
    fn drain_some(&mut self) {
        let Some(draining) = &mut self.draining else { return };
        let ticks = draining.until.0.saturating_sub(self.tick.0) as usize + 1;
        let share = draining.left.len().div_ceil(ticks);
        let keys = draining.left.split_off(draining.left.len() - share);
        for key in keys {
            if let Some((id, _)) = found(&mut self.conns, key) {
                self.end(id, CloseReason::Drain);
            }
        }
    }

    fn meant<'a>(&'a self, filter: &'a ConnectionFilter) -> impl Iterator<Item = (SubscriberId, &'a Conn)> {
        (0..)
            .map(SubscriberId)
            .zip(&self.conns)
            .filter_map(|(id, conn)| Some((id, conn.as_ref()?)))
            .filter(|(id, conn)| filter.matches(conn, self.shard.views(*id)))
    }

    fn info(&self, id: SubscriberId, conn: &Conn) -> ConnectionInfo {
        ConnectionInfo {
            id: conn.id,
            user: conn.permit.user().cloned(),
            address: conn.address,
            channels: self.shard.views(id).filter(|view| !view.is_implicit()).cloned().collect(),
            since: conn.since,
            bytes: conn.bytes,
            blocked: self.shard.is_blocked(id),
            losses: self.shard.losses(id),
            worker: self.number,
        }
    }
}

/// The connection that a key stands for, unless it is gone.
fn found(conns: &mut [Option<Conn>], key: Key) -> Option<(SubscriberId, &mut Conn)> {
    let conn = conns.get_mut(key.slot as usize)?.as_mut()?;
    (conn.generation == key.generation).then_some((SubscriberId(key.slot), conn))
}

/// Reads and forgets what a client sends on its stream; why it is closed, if it is.
fn discard(conn: &mut Conn, scratch: &mut [u8]) -> Option<CloseReason> {
    loop {
        match conn.socket.read(scratch) {
            Ok(0) => return Some(CloseReason::Gone),
            Ok(count) => {
                conn.noise = conn.noise.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
                if conn.noise > NOISE {
                    return Some(CloseReason::Noise);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return Some(CloseReason::Gone),
        }
    }
}

fn token_of(key: Key) -> Token {
    // Slot and generation have 32 bits each; the waker's token would be the last generation of the last slot.
    Token((key.generation as usize) << 32 | key.slot as usize)
}

fn key_of(token: Token) -> Key {
    Key { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
}

/// One writer: no locked instruction is needed.
fn more(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
}

fn less(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_sub(count), Ordering::Relaxed);
}
