//! How a log announces to the tails in its own process.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::TailItem;

/// Announces what a log stored, to any number of tails, each of which gets everything from the moment on when it was
/// made. A log holds its own lock (or is on its one writer thread) while it stores and announces, so that the order
/// is the same.
#[derive(Debug, Default)]
pub struct Feed {
    tails: Mutex<Tails>,
}

#[derive(Debug, Default)]
struct Tails {
    queues: Vec<std::sync::Weak<Queue>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<QueueState>,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct QueueState {
    items: VecDeque<TailItem>,
    closed: bool,
}

impl Feed {
    /// Hands items to every tail.
    pub fn announce(&self, items: &[TailItem]) {
        lock(&self.tails).queues.retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            lock(&queue.state).items.extend(items.iter().cloned());
            queue.filled.notify_one();
            true
        });
    }

    /// A tail of everything that is announced from now on.
    pub fn tail(&self) -> FeedTail {
        let queue = Arc::new(Queue::default());
        let mut tails = lock(&self.tails);
        if tails.closed {
            lock(&queue.state).closed = true;
        } else {
            tails.queues.push(Arc::downgrade(&queue));
        }
        FeedTail { queue }
    }

    /// Ends every tail once it has returned all that was announced.
    pub fn close(&self) {
        let mut tails = lock(&self.tails);
        tails.closed = true;
        for queue in tails.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            lock(&queue.state).closed = true;
            queue.filled.notify_all();
        }
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
        let (mut state, _) = self
            .queue
            .filled
            .wait_timeout_while(state, timeout, |state| state.items.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.items.is_empty() && state.closed {
            return None;
        }
        Some(std::mem::take(&mut state.items).into())
    }
}

/// A panic while one of these locks is held leaves nothing half done: each critical section is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
