//! What was received and waits to be stored: bounded by number and size.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// What counts for each message beside its bytes.
const EACH: usize = 64;

/// A message, and when it came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) at: Instant,
    pub(crate) payload: Vec<u8>,
}

/// A queue between who receives and who stores.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    changed: Notify,
    limit: usize,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Received>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    /// `limit`: how many bytes may wait.
    pub(crate) fn new(limit: usize) -> Queue {
        Queue { state: Mutex::default(), changed: Notify::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message in, if there is space for it.
    pub(crate) fn push(&self, message: Received) -> bool {
        let mut state = self.lock();
        let bytes = message.payload.len() + EACH;
        if state.closed || (state.bytes > 0 && state.bytes + bytes > self.limit) {
            return false;
        }
        state.bytes += bytes;
        state.messages.push_back(message);
        drop(state);
        self.changed.notify_one();
        true
    }

    /// Nothing more comes.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Up to `count` of the oldest messages, and no more than one over `bytes`; waits for the first. `None` when
    /// nothing is left and nothing more comes. One at a time may wait.
    pub(crate) async fn take(&self, count: usize, bytes: usize) -> Option<Vec<Received>> {
        loop {
            {
                let mut state = self.lock();
                if !state.messages.is_empty() {
                    return Some(state.take(count, bytes));
                }
                if state.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// How many messages are left.
    pub(crate) fn len(&self) -> usize {
        self.lock().messages.len()
    }
}

impl State {
    fn take(&mut self, count: usize, bytes: usize) -> Vec<Received> {
        let mut taken = Vec::new();
        let mut sum = 0;
        while taken.len() < count
            && sum < bytes
            && let Some(message) = self.messages.pop_front()
        {
            sum += message.payload.len() + EACH;
            taken.push(message);
        }
        self.bytes -= sum;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(payload: &[u8]) -> Received {
        Received { at: Instant::now(), payload: payload.to_vec() }
    }

    async fn take(queue: &Queue, count: usize, bytes: usize) -> Option<Vec<Vec<u8>>> {
        let taken = queue.take(count, bytes).await?;
        Some(taken.into_iter().map(|message| message.payload).collect())
    }

    #[tokio::test]
    async fn it_is_bounded_and_keeps_its_order() {
        let queue = Queue::new(10 * (EACH + 1));
        let taken = (0..20).map(|n| queue.push(message(&[n]))).collect::<Vec<_>>();
        assert_eq!(taken.iter().filter(|taken| **taken).count(), 10);
        assert!(taken[..10].iter().all(|taken| *taken), "the first ones");
        assert_eq!(take(&queue, 3, usize::MAX).await.unwrap(), [[0], [1], [2]]);
        assert!(queue.push(message(&[20])));
        assert_eq!(take(&queue, 100, 2 * (EACH + 1)).await.unwrap(), [[3], [4]]);
        assert_eq!(queue.len(), 6);
        queue.close();
        assert!(!queue.push(message(&[21])));
        assert_eq!(take(&queue, 100, usize::MAX).await.unwrap().len(), 6);
        assert_eq!(take(&queue, 100, usize::MAX).await, None);
    }

    #[tokio::test]
    async fn one_message_over_the_limit_has_its_turn_alone() {
        let queue = Queue::new(10);
        assert!(queue.push(message(&[0; 100])));
        assert!(!queue.push(message(&[1])));
        assert_eq!(take(&queue, 100, 1).await.unwrap().len(), 1);
        assert!(queue.push(message(&[1])));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let queue = std::sync::Arc::new(Queue::new(1_000));
        let taking = tokio::spawn({
            let queue = queue.clone();
            async move {
                let first = take(&queue, 10, 1_000).await;
                (first, take(&queue, 10, 1_000).await)
            }
        });
        tokio::task::yield_now().await;
        queue.push(message(&[1]));
        tokio::task::yield_now().await;
        queue.close();
        assert_eq!(taking.await.unwrap(), (Some(vec![vec![1]]), None));
    }
}
