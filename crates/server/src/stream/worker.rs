//! Worker threads: each has its own epoll, its own shard of the subscribers and their sockets.
//!
//! A worker's turn: what the kernel reports, then orders, then new events, then one slice of the sweep, then what is
//! due in time. Each part has a budget, so that accepts, publishes and slow clients all get theirs.

mod presence;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use tidings_hub::{
    Census, Change, Farewell, Hub, Info, Opening, Say, Shard, ShardStats, SubscriberId, Timestamp, View,
};
use tidings_wire::{Channel, ClientId, ConnectionId, Event, Position, UserId};
use tokio::sync::oneshot;

use self::presence::Watchers;
use super::conn::{About, CloseReason, Conn, ConnectionFilter, ConnectionInfo, Seat};
use super::holders::{Held, Holders, Holding};
use super::open::spread;
use super::sweep::{Slice, sweep};
use super::timers::{Deadlines, Due, Key, Spans, TICK, Tick, Wheel};
use crate::ServerConfig;
use crate::presence::{Doorkeeper, Notice, Rounds, Watching};
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

/// One stream whose channels were to be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Which one.
    pub connection: ConnectionId,
    /// From where on it is shown what was added. None if it would have had too many channels, and was left as it is.
    pub from: Option<Position>,
}

/// The workers as the rest of the server sees them. Dropping it ends them, and what streams are left.
#[derive(Debug)]
pub struct WorkersHandle {
    workers: Vec<Handle>,
    next: AtomicUsize,
    door: Arc<Doorkeeper>,
    _rounds: Rounds,
    holders: Arc<Holders>,
}

#[derive(Debug)]
struct Handle {
    orders: Sender<Order>,
    alarm: Arc<Alarm>,
    taken: Arc<AtomicUsize>,
    counters: Arc<Counters>,
    shard: Arc<ShardStats>,
    thread: Mutex<Option<JoinHandle<()>>>,
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

/// How the streams of all workers are doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Streams now.
    pub connections: u64,
    /// How long they have been there, on average.
    pub average_age: Duration,
    /// Streams whose sockets are full now.
    pub blocked: u64,
    /// Events written since the start, counted for each stream.
    pub delivered: u64,
    /// Bytes written since the start.
    pub bytes: u64,
    /// Gaps told since the start.
    pub gaps: u64,
    /// Signs of life since the start.
    pub heartbeats: u64,
    /// Streams that ended since the start, by reason.
    pub closed: Vec<(CloseReason, u64)>,
    /// The same for each worker.
    pub workers: Vec<WorkerStats>,
}

/// How the streams of one worker are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerStats {
    /// Streams now.
    pub connections: u64,
    /// Events written since the start, counted for each stream.
    pub delivered: u64,
    /// Bytes written since the start.
    pub bytes: u64,
}

impl WorkersHandle {
    /// Starts the workers.
    pub(crate) fn start(hub: &Hub, config: &ServerConfig) -> io::Result<WorkersHandle> {
        let count = config.workers.get();
        let door = Doorkeeper::open(hub, count, &config.presence);
        let workers = (0..count).map(|number| Handle::start(number, hub, config, &door));
        let workers: Vec<Handle> = workers.collect::<io::Result<_>>()?;
        let tells: Vec<_> = workers.iter().map(Handle::teller).collect();
        let tell = move |worker: usize, notices| tells[worker](notices);
        let rounds = Rounds::start(door.clone(), hub.clone(), config.presence.online_events, tell)?;
        Ok(WorkersHandle {
            workers,
            next: AtomicUsize::new(0),
            door,
            _rounds: rounds,
            holders: Arc::default(),
        })
    }

    /// Who is there.
    pub(crate) fn door(&self) -> &Arc<Doorkeeper> {
        &self.door
    }

    /// Registers a stream of a worker as one that watches who is in these channels. Done when it is known who is.
    pub(crate) async fn watch(&self, worker: usize, channels: Vec<Channel>) -> Watching {
        let (watching, uncounted) = self.door.watch(worker, channels);
        if !uncounted.is_empty() {
            let channels: Arc<[Channel]> = uncounted.into();
            self.ask(&self.workers, |reply| Order::Count { channels: channels.clone(), reply }).await;
        }
        watching
    }

    /// The streams that follow a channel, by user.
    pub(crate) async fn census(&self, channel: &Channel) -> Census {
        let mut all = Census::default();
        let answers = self.ask(&self.workers, |reply| Order::Census { channel: channel.clone(), reply });
        answers.await.into_iter().for_each(|census| all.merge(census));
        all
    }

    /// A place for one more stream, on the worker that has the fewest, and an id for it.
    pub(crate) fn seat(&self) -> (Seat, ConnectionId) {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let count = self.workers.len();
        let number = (0..count)
            .map(|step| (first + step) % count)
            .min_by_key(|number| self.workers[*number].taken.load(Ordering::Relaxed))
            .unwrap_or_default();
        let mut id = [0; 16];
        // Without randomness ids repeat, but name streams of one worker all the same in most cases.
        let _ = getrandom::fill(&mut id);
        // The last bits say which worker has it, so that looking it up asks no other.
        let id = u128::from_be_bytes(id) & !0xffff | number as u128 & 0xffff;
        (Seat::take(number, &self.workers[number].taken), ConnectionId(id))
    }

    /// Gives a durable subscription to a stream that gets a place on this worker, and ends the one that had it.
    pub(crate) fn hold(&self, user: UserId, name: ClientId, worker: usize) -> Holding {
        let (holding, before) = self.holders.take(user, name, worker);
        if let Some(before) = before {
            self.workers[before.worker].order(Order::Replace(before));
        }
        holding
    }

    /// Gives a stream to its worker.
    pub(crate) fn admit(&self, stream: NewStream, socket: std::net::TcpStream) {
        let worker = stream.about.seat.worker;
        self.workers[worker].order(Order::Admit(Box::new(stream), socket));
    }

    /// Up to `limit` of the streams that are meant.
    pub async fn connections(&self, filter: &ConnectionFilter, limit: usize) -> Vec<ConnectionInfo> {
        let answers = self.ask(self.of(filter), |reply| Order::List { filter: filter.clone(), limit, reply });
        let mut all: Vec<_> = answers.await.into_iter().flatten().collect();
        all.truncate(limit);
        all
    }

    /// One stream.
    pub async fn connection(&self, id: ConnectionId) -> Option<ConnectionInfo> {
        self.connections(&ConnectionFilter { id: Some(id), ..ConnectionFilter::default() }, 1).await.pop()
    }

    /// Ends the streams that are meant, with `tidings:kicked`; how many they were.
    pub async fn disconnect(&self, filter: &ConnectionFilter) -> usize {
        let answers = self.ask(self.of(filter), |reply| Order::Disconnect { filter: filter.clone(), reply });
        answers.await.into_iter().sum()
    }

    /// How many streams an event is for.
    pub async fn receivers(&self, event: &Arc<Event>) -> usize {
        let answers = self.ask(&self.workers, |reply| Order::Receivers { event: event.clone(), reply });
        answers.await.into_iter().sum()
    }

    /// Changes what the streams that are meant follow, each as a whole or not at all.
    pub async fn change(&self, filter: &ConnectionFilter, change: Change, limit: usize) -> Vec<Changed> {
        let change = Arc::new(change);
        let answers = self.ask(self.of(filter), |reply| Order::Change {
            filter: filter.clone(),
            change: change.clone(),
            limit,
            reply,
        });
        answers.await.into_iter().flatten().collect()
    }

    /// Whether a stream follows one of these views, or a part of one.
    pub async fn follows(&self, views: &[View]) -> bool {
        let views: Arc<[View]> = views.into();
        let answers = self.ask(&self.workers, |reply| Order::Follows { views: views.clone(), reply });
        answers.await.into_iter().any(|follows| follows)
    }

    /// How the streams are doing.
    pub fn stats(&self, now: Timestamp) -> StreamStats {
        let mut all = StreamStats {
            closed: CloseReason::ALL.map(|reason| (reason, 0)).into(),
            ..StreamStats::default()
        };
        let mut since = 0_u128;
        for Handle { counters, shard, .. } in &self.workers {
            let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            let worker = WorkerStats {
                connections: get(&counters.connections),
                delivered: get(&shard.delivered),
                bytes: get(&shard.bytes),
            };
            since += u128::from(get(&counters.since));
            all.connections += worker.connections;
            all.delivered += worker.delivered;
            all.bytes += worker.bytes;
            all.gaps += get(&shard.gaps);
            all.blocked += get(&counters.blocked);
            all.heartbeats += get(&counters.heartbeats);
            for (sum, count) in all.closed.iter_mut().zip(&counters.closed) {
                sum.1 += get(count);
            }
            all.workers.push(worker);
        }
        let average = since.checked_div(all.connections.into()).and_then(|since| u64::try_from(since).ok());
        all.average_age = average.map(|since| now.since(Timestamp(since))).unwrap_or_default();
        all
    }

    /// Tells all workers to close their streams within a time.
    pub(crate) fn drain(&self, within: Duration) {
        self.door.freeze();
        for worker in &self.workers {
            worker.order(Order::Drain { within });
        }
    }

    /// The workers that may have what is meant: an id says which one it is.
    fn of(&self, filter: &ConnectionFilter) -> &[Handle] {
        match filter.id {
            Some(ConnectionId(id)) => {
                let number = (id & 0xffff) as usize;
                self.workers.get(number..=number).unwrap_or_default()
            }
            None => &self.workers,
        }
    }

    async fn ask<T>(&self, of: &[Handle], order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        // All are asked before the first answer is waited for.
        let asked: Vec<_> = of
            .iter()
            .map(|worker| {
                let (reply, answer) = oneshot::channel();
                worker.order(order(reply));
                answer
            })
            .collect();
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            // A worker that is gone has no streams.
            answers.extend(answer.await);
        }
        answers
    }
}

impl Drop for WorkersHandle {
    fn drop(&mut self) {
        for worker in &self.workers {
            worker.order(Order::Stop);
        }
        for worker in &self.workers {
            let thread = worker.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
            // An error says that it panicked, which was printed then.
            let _ = thread.map(JoinHandle::join);
        }
    }
}

impl Handle {
    fn start(number: usize, hub: &Hub, config: &ServerConfig, door: &Arc<Doorkeeper>) -> io::Result<Handle> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let alarm = Arc::new(Alarm { waker, rung: AtomicBool::new(false), idle: AtomicBool::new(true) });
        let wake = alarm.clone();
        let shard = hub.shard(Box::new(move || wake.ring_for_events()));
        let shard_stats = shard.stats().clone();
        let counters = Arc::<Counters>::default();
        let (orders, inbox) = channel();
        let worker = Worker {
            number,
            poll,
            alarm: alarm.clone(),
            inbox,
            shard,
            conns: Vec::new(),
            holdings: HashMap::new(),
            generation: 0,
            wheel: Wheel::new(),
            due: Vec::new(),
            slice: Slice::default(),
            spans: Spans {
                heartbeat: config.heartbeat,
                progress: config.timeouts.progress,
                position: config.position_after,
            },
            lifetime: config.limits.lifetime,
            retry: config.retry,
            counters: counters.clone(),
            door: door.clone(),
            watchers: Watchers::default(),
            draining: None,
            start: Instant::now(),
            tick: Tick(0),
            now: Timestamp::now(),
        };
        let thread =
            std::thread::Builder::new().name(format!("stream-{number}")).spawn(move || worker.run())?;
        Ok(Handle {
            orders,
            alarm,
            taken: Arc::default(),
            counters,
            shard: shard_stats,
            thread: Mutex::new(Some(thread)),
        })
    }

    fn order(&self, order: Order) {
        // A worker that is gone takes no orders; what is in them is dropped, sockets are closed.
        if self.orders.send(order).is_ok() {
            self.alarm.ring();
        }
    }

    /// What hands notices to this worker.
    fn teller(&self) -> impl Fn(Vec<Arc<Notice>>) + Send + use<> {
        let (orders, alarm) = (self.orders.clone(), self.alarm.clone());
        move |notices| {
            if orders.send(Order::Tell(notices)).is_ok() {
                alarm.ring();
            }
        }
    }
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
                Order::Change { filter, change, limit, reply } => {
                    let meant: Vec<_> = self.meant(&filter).map(|(id, conn)| (id, conn.id)).collect();
                    let changed = meant.into_iter().map(|(id, connection)| Changed {
                        connection,
                        from: self.change(id, &change, limit),
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

    /// Changes what one stream follows, unless that would be too much.
    fn change(&mut self, id: SubscriberId, change: &Change, limit: usize) -> Option<Position> {
        let mut asked: Vec<&View> = self.shard.views(id).filter(|view| !is_implicit(view)).collect();
        asked.retain(|view| !change.remove.contains(view));
        let new = change.add.iter().filter(|view| !asked.contains(view)).count();
        if asked.len() + new > limit {
            return None;
        }
        // That it follows something else is said by `report_moves`, once it does.
        Some(self.shard.change(id, change.clone()))
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
        self.door.leave(self.number, conn.permit.user(), self.shard.views(id), self.now);
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
            channels: self.shard.views(id).filter(|view| !is_implicit(view)).cloned().collect(),
            since: conn.since,
            bytes: conn.bytes,
            blocked: self.shard.is_blocked(id),
            worker: self.number,
        }
    }
}

/// The connection that a key stands for, unless it is gone.
fn found(conns: &mut [Option<Conn>], key: Key) -> Option<(SubscriberId, &mut Conn)> {
    let conn = conns.get_mut(key.slot as usize)?.as_mut()?;
    (conn.generation == key.generation).then_some((SubscriberId(key.slot), conn))
}

/// Whether a view is one that every stream of its kind has: the broadcasts, the user's own events.
fn is_implicit(view: &View) -> bool {
    let name = view.as_str();
    name == "$all" || name.starts_with("$user/")
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
