//! The workers as the rest of the server sees them: whom it asks, and what they have done.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use mio::{Poll, Waker};
use tidings_hub::durable::Turn;
use tidings_hub::{Census, Change, Hub, NodeId, ShardStats, Timestamp, View};
use tidings_wire::{Channel, ClientId, ConnectionId, Event, Position, UserId};
use tokio::sync::oneshot;

use super::presence::Watchers;
use super::{Alarm, Counters, NewStream, Order, WAKER, Worker};
use crate::ServerConfig;
use crate::cluster::Cluster;
use crate::presence::{Doorkeeper, Notice, Rounds, Watching};
use crate::stream::conn::{CloseReason, ConnectionFilter, ConnectionInfo, Seat};
use crate::stream::holders::{Holders, Holding, Yields};
use crate::stream::sweep::Slice;
use crate::stream::timers::{Spans, Tick, Wheel};

/// One stream whose channels were to be changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Which one.
    pub connection: ConnectionId,
    /// From where on it is shown what was added, unless it was left as it is.
    pub from: Result<Position, Unchanged>,
    /// The durable subscription that it has.
    pub subscription: Option<(UserId, ClientId)>,
}

/// Why a stream's channels were not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unchanged {
    /// It would have had too many.
    Channels,
    /// They would have been longer than what is kept of a durable subscription.
    Kept,
    /// It is told who is in its channels (`presence=1`), and could not come back with what was to be added.
    Watching,
}

/// The workers as the rest of the server sees them. Dropping it ends them, and what streams are left.
#[derive(Debug)]
pub struct WorkersHandle {
    workers: Vec<Handle>,
    next: AtomicUsize,
    door: Arc<Doorkeeper>,
    _rounds: Rounds,
    holders: Arc<Holders>,
    node: NodeId,
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
    /// Events passed over since the start because newer ones with the same keys came, counted for each stream.
    pub skipped: u64,
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
    pub(crate) fn start(
        hub: &Hub,
        config: &ServerConfig,
        node: NodeId,
        cluster: Arc<OnceLock<Arc<Cluster>>>,
    ) -> io::Result<WorkersHandle> {
        let count = config.workers.get();
        let door = Doorkeeper::open(hub, node, count, &config.presence);
        let workers = (0..count).map(|number| Handle::start(number, hub, config, &door));
        let workers: Vec<Handle> = workers.collect::<io::Result<_>>()?;
        let tells: Vec<_> = workers.iter().map(Handle::teller).collect();
        let tell = move |worker: usize, notices| tells[worker](notices);
        let rounds = Rounds::start(door.clone(), hub.clone(), config.presence.online_events, cluster, tell)?;
        Ok(WorkersHandle {
            workers,
            next: AtomicUsize::new(0),
            door,
            _rounds: rounds,
            holders: Arc::default(),
            node,
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
            self.count(uncounted).await;
        }
        watching
    }

    /// Has the workers count who is in channels that begin to be watched.
    pub(crate) async fn count(&self, channels: Vec<Channel>) {
        let channels: Arc<[Channel]> = channels.into();
        self.ask(&self.workers, |reply| Order::Count { channels: channels.clone(), reply }).await;
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
        // The first bits say on which node it is, the last ones which worker has it, so that looking it up asks no other.
        let node = u128::from(self.node.get()) << (u128::BITS - NodeId::BITS);
        let id = node | u128::from_be_bytes(id) >> NodeId::BITS & !0xffff | number as u128 & 0xffff;
        (Seat::take(number, &self.workers[number].taken), ConnectionId(id))
    }

    /// Gives a durable subscription to a stream that gets a place on this worker, and ends the one that had it; the new
    /// one itself, if that is the newer one after all.
    pub(crate) fn hold(&self, user: UserId, name: ClientId, worker: usize, turn: Turn) -> Holding {
        let (holding, before) = self.holders.take(user, name, worker, turn);
        if let Some(before) = before {
            self.workers[before.worker].order(Order::Replace(before));
        }
        holding
    }

    /// Another node has given a durable subscription to a stream of its own. When the one here is the newer one, it
    /// stays: its turn.
    pub(crate) fn yields(&self, user: UserId, name: ClientId, turn: Turn, before: bool) -> Option<Turn> {
        match self.holders.yields(user, name, turn, before) {
            Yields::Nothing => None,
            Yields::Stays(turn) => Some(turn),
            Yields::Ends(held) => {
                self.workers[held.worker].order(Order::Replace(held));
                None
            }
        }
    }

    /// The durable subscriptions that have a stream here, and their turns.
    pub(crate) fn held(&self) -> Vec<((UserId, ClientId), Turn)> {
        self.holders.all()
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

    /// Changes what the streams that are meant follow, each as a whole or not at all. `watchable` says whether one with
    /// `presence=1` may ask for all that is added.
    pub async fn change(
        &self,
        filter: &ConnectionFilter,
        change: Change,
        limit: usize,
        watchable: bool,
    ) -> Vec<Changed> {
        let change = Arc::new(change);
        let answers = self.ask(self.of(filter), |reply| Order::Change {
            filter: filter.clone(),
            change: change.clone(),
            limit,
            watchable,
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
            all.skipped += get(&shard.skipped);
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
