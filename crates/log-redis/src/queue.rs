//! What waits in a node: steps that are to be sent, and answers that are awaited.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tidings_hub::log::{AppendError, Lease};
use tidings_wire::Position;
use tokio::sync::oneshot;

use crate::step::{Step, put_bytes};

/// How long somebody waits at most for an answer. With the time that the threads take, it is two seconds.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1500);
/// How many steps go into one group.
const GROUP: usize = 1024;
/// About how many bytes go into one group, unless one step alone has more.
const GROUP_BYTES: usize = 1 << 20;
/// How many bytes may wait.
const WAITING: usize = 64 << 20;

/// What came of a step.
#[derive(Debug)]
pub(crate) enum Outcome {
    Appended(Result<Vec<Position>, AppendError>),
    Leased(Option<Lease>),
    Removed(u64),
    /// Whether it was set.
    Noted(bool),
    Done,
}

/// Who waits for what came of a step.
pub(crate) type Asker = oneshot::Sender<Result<Outcome, AppendError>>;

struct Waiting {
    step: Vec<u8>,
    asker: Asker,
    deadline: Instant,
}

/// A group under way.
struct Sent {
    askers: Vec<Asker>,
    deadline: Instant,
    /// It may have been stored: it was sent, and not refused.
    uncertain: bool,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    sent: BTreeMap<u64, Sent>,
    /// The number of the newest group.
    last: u64,
    /// Nothing more is taken.
    closed: bool,
    /// Nothing is waited for any more.
    stopped: bool,
    /// Why nothing is sent just now.
    reason: Option<String>,
    /// Nothing is sent.
    held: bool,
}

/// The queue of a node.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

/// The next steps to send.
pub(crate) struct Group {
    pub(crate) number: u64,
    pub(crate) steps: Vec<u8>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a step at the end; where its outcome comes.
    pub(crate) fn push(&self, step: &Step) -> oneshot::Receiver<Result<Outcome, AppendError>> {
        let (asker, answer) = oneshot::channel();
        let step = step.encode();
        let mut inner = self.lock();
        // Who asked may have gone; then nobody is to be told.
        if inner.closed {
            let _ = asker.send(Err(closed()));
        } else if inner.waiting_bytes > WAITING {
            let _ = asker.send(Err(AppendError::Busy));
        } else {
            inner.waiting_bytes += step.len();
            inner.waiting.push_back(Waiting { step, asker, deadline: Instant::now() + PATIENCE });
            self.changed.notify_all();
        }
        answer
    }

    /// Holds back what waits, or does so no more.
    pub(crate) fn hold(&self, hold: bool) {
        let mut inner = self.lock();
        if inner.held != hold {
            inner.held = hold;
            self.changed.notify_all();
        }
    }

    /// Waits until there is something to send; false when nothing is to be sent any more.
    pub(crate) fn wait(&self) -> bool {
        let nothing = |inner: &mut Inner| (inner.waiting.is_empty() || inner.held) && !inner.stopped;
        let inner = self.changed.wait_while(self.lock(), nothing).unwrap_or_else(PoisonError::into_inner);
        !inner.stopped
    }

    /// Takes what waits, as one group.
    pub(crate) fn take(&self) -> Option<Group> {
        let mut inner = self.lock();
        if inner.held {
            return None;
        }
        let deadline = inner.waiting.front()?.deadline;
        let (mut steps, mut askers) = (Vec::new(), Vec::new());
        while let Some(next) = inner.waiting.front()
            && askers.len() < GROUP
            && (askers.is_empty() || steps.len() + next.step.len() <= GROUP_BYTES)
            && let Some(next) = inner.waiting.pop_front()
        {
            inner.waiting_bytes -= next.step.len();
            put_bytes(&mut steps, &next.step);
            askers.push(next.asker);
        }
        inner.last += 1;
        let number = inner.last;
        inner.sent.insert(number, Sent { askers, deadline, uncertain: false });
        Some(Group { number, steps })
    }

    /// Says that a group is sent now. False when nobody waits for it any more: then it is not to be sent, as those who
    /// asked were told that it is not stored.
    pub(crate) fn sending(&self, number: u64) -> bool {
        match self.lock().sent.get_mut(&number) {
            Some(sent) => {
                sent.uncertain = true;
                true
            }
            None => false,
        }
    }

    /// Says that a group which was sent once, and no more, was refused.
    pub(crate) fn refused(&self, number: u64) {
        if let Some(sent) = self.lock().sent.get_mut(&number) {
            sent.uncertain = false;
        }
    }

    /// Whether somebody waits for a group.
    pub(crate) fn is_awaited(&self, number: u64) -> bool {
        self.lock().sent.contains_key(&number)
    }

    /// Who waits for the outcomes of a group, which has come back.
    pub(crate) fn came_back(&self, number: u64) -> Vec<Asker> {
        let mut inner = self.lock();
        let askers = inner.sent.remove(&number).map_or_else(Vec::new, |sent| sent.askers);
        if inner.closed {
            self.changed.notify_all();
        }
        askers
    }

    /// Why nothing is sent, for those who are told so.
    pub(crate) fn set_reason(&self, reason: Option<String>) {
        self.lock().reason = reason;
    }

    /// Answers those who have waited for too long.
    pub(crate) fn expire(&self, now: Instant) {
        let mut inner = self.lock();
        let reason = |inner: &Inner| inner.reason.clone().unwrap_or_else(|| "no answer in time".to_owned());
        while inner.waiting.front().is_some_and(|waiting| waiting.deadline <= now)
            && let Some(late) = inner.waiting.pop_front()
        {
            inner.waiting_bytes -= late.step.len();
            let _ = late.asker.send(Err(AppendError::NotStored(reason(&inner))));
        }
        let late: Vec<u64> =
            inner.sent.iter().filter(|(_, sent)| sent.deadline <= now).map(|(number, _)| *number).collect();
        for number in late {
            let Some(sent) = inner.sent.remove(&number) else { continue };
            for asker in sent.askers {
                let why = reason(&inner);
                let error =
                    if sent.uncertain { AppendError::Unknown(why) } else { AppendError::NotStored(why) };
                let _ = asker.send(Err(error));
            }
        }
        if inner.closed {
            self.changed.notify_all();
        }
    }

    /// Takes nothing more, and returns when all that was taken is answered.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        let busy = |inner: &mut Inner| !inner.waiting.is_empty() || !inner.sent.is_empty();
        // All of it is answered in time; the limit is for a thread that has panicked.
        let (mut inner, _) = self
            .changed
            .wait_timeout_while(inner, 3 * PATIENCE, busy)
            .unwrap_or_else(PoisonError::into_inner);
        inner.stopped = true;
        self.changed.notify_all();
    }

    /// Waits for some time; true when nothing is to be done any more.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let (inner, _) = self
            .changed
            .wait_timeout_while(self.lock(), time, |inner| !inner.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        inner.stopped
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}

pub(crate) fn closed() -> AppendError {
    AppendError::NotStored("the log is closed".to_owned())
}
