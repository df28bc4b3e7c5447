//! How a log announces to the tails in its own process.

use std::collections::VecDeque;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::{ReadError, Tail, TailItem};

/// Takes what a log announces, on the thread that announces it.
pub trait Sink: Send + Sync {
    /// The next items, in the log's order. The log holds its lock: this is to be short, and must not call the log.
    fn take(&self, items: &[TailItem]);

    /// Called some time after [`Sink::take`], without a lock: who waits for the items may be woken.
    fn flush(&self);
}

/// Announces what a log stored, to any number of tails, each of which gets everything from the moment on when it was
/// made. A log holds its own lock (or is on its one writer thread) while it stores and announces, so that the order
/// is the same; it calls [`Feed::flush`] once it has let go of the lock.
#[derive(Debug, Default)]
pub struct Feed {
    tails: Mutex<Tails>,
}

#[derive(Debug, Default)]
struct Tails {
    /// Replaced when a tail comes or goes, so that the lock is not held while others are woken.
    queues: Arc<[Weak<Queue>]>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Default)]
struct QueueState {
    items: VecDeque<TailItem>,
    /// Takes everything instead of `items`, which is empty then.
    sink: Option<Arc<dyn Sink>>,
    /// Somebody waits for `filled`: to wake nobody is a call to the kernel all the same.
    waited_for: bool,
    closed: bool,
}

impl std::fmt::Debug for QueueState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let QueueState { items, sink, waited_for, closed } = self;
        let mut state = f.debug_struct("QueueState");
        state.field("items", &items.len()).field("sink", &sink.is_some());
        state.field("waited_for", waited_for).field("closed", closed).finish()
    }
}

impl Feed {
    /// Hands items to every tail.
    pub fn announce(&self, items: &[TailItem]) {
        for queue in self.queues().iter().filter_map(Weak::upgrade) {
            let mut state = lock(&queue.state);
            match &state.sink {
                Some(sink) => sink.take(items),
                None => state.items.extend(items.iter().cloned()),
            }
        }
    }

    /// Wakes whoever waits for what was announced.
    pub fn flush(&self) {
        for queue in self.queues().iter().filter_map(Weak::upgrade) {
            let mut state = lock(&queue.state);
            let waited_for = mem::take(&mut state.waited_for);
            let sink = state.sink.clone();
            drop(state);
            if let Some(sink) = sink {
                sink.flush();
            } else if waited_for {
                queue.filled.notify_one();
            }
        }
    }

    /// A tail of everything that is announced from now on.
    pub fn tail(&self) -> FeedTail {
        let queue = Arc::new(Queue::default());
        let mut tails = lock(&self.tails);
        if tails.closed {
            lock(&queue.state).closed = true;
        } else {
            let alive = tails.queues.iter().filter(|queue| queue.strong_count() > 0).cloned();
            tails.queues = alive.chain([Arc::downgrade(&queue)]).collect();
        }
        FeedTail { queue }
    }

    /// Ends every tail once it has returned all that was announced.
    pub fn close(&self) {
        let mut tails = lock(&self.tails);
        tails.closed = true;
        for queue in mem::take(&mut tails.queues).iter().filter_map(Weak::upgrade) {
            let mut state = lock(&queue.state);
            state.closed = true;
            let sink = state.sink.take();
            drop(state);
            queue.filled.notify_all();
            if let Some(sink) = sink {
                // What was announced just before may not have been flushed, and the queue is not found any more.
                sink.flush();
            }
        }
    }

    fn queues(&self) -> Arc<[Weak<Queue>]> {
        lock(&self.tails).queues.clone()
    }
}

/// What one tail has yet to return.
#[derive(Debug)]
pub struct FeedTail {
    queue: Arc<Queue>,
}

impl FeedTail {
    /// The next items, waiting up to `timeout` for the first. `None` after the end.
    pub fn next(&mut self, timeout: Duration) -> Option<Vec<TailItem>> {
        let state = lock(&self.queue.state);
        let waits = |state: &mut QueueState| {
            state.waited_for = state.items.is_empty() && !state.closed;
            state.waited_for
        };
        let (mut state, _) = self
            .queue
            .filled
            .wait_timeout_while(state, timeout, waits)
            .unwrap_or_else(PoisonError::into_inner);
        state.waited_for = false;
        if state.items.is_empty() && state.closed {
            return None;
        }
        Some(mem::take(&mut state.items).into())
    }

    /// Hands what was announced, and from now on what is, to a sink; [`FeedTail::next`] returns nothing more. For as
    /// long as this tail lives.
    pub fn push_to(&mut self, sink: Arc<dyn Sink>) {
        let mut state = lock(&self.queue.state);
        sink.take(mem::take(&mut state.items).make_contiguous());
        if !state.closed {
            state.sink = Some(sink.clone());
        }
        drop(state);
        sink.flush();
    }
}

impl FeedTail {
    /// A tail that returns the past first. Both are of the same moment if the log held its lock while they were made.
    pub fn behind(self, past: Vec<TailItem>) -> PastTail {
        PastTail { past, feed: self }
    }
}

/// The tail of a log that has all of its past in memory.
#[derive(Debug)]
pub struct PastTail {
    past: Vec<TailItem>,
    feed: FeedTail,
}

impl Tail for PastTail {
    fn next(&mut self, timeout: Duration) -> Result<Option<Vec<TailItem>>, ReadError> {
        if !self.past.is_empty() {
            return Ok(Some(mem::take(&mut self.past)));
        }
        Ok(self.feed.next(timeout))
    }

    fn push_to(&mut self, sink: Arc<dyn Sink>) -> bool {
        if self.past.is_empty() {
            self.feed.push_to(sink);
        }
        self.past.is_empty()
    }
}

/// A panic while one of these locks is held leaves nothing half done: each critical section is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
