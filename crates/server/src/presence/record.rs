//! Users' comings and goings in the log: events in `$presence`, and notes.
//!
//! `online/<user>` is there while a user is said to be online, so that after a crash those who stay away are said to
//! have gone; `seen/<user>` is when it was there last. Both hold milliseconds since 1970, in decimal digits. The note
//! that somebody is online comes before the event, and goes after the one that takes it back: a crash in between says
//! something twice, and leaves nobody online for ever.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tidings_hub::log::{Log, Noting, ReadError};
use tidings_hub::{Hub, PublishError, Published, Timestamp, Transition};
use tidings_wire::{Channel, Data, Event, EventType, UserId};

use super::text;

/// How long users whom a stop or a crash took off may take to come back before they are said to have gone: a drain
/// sends them away for up to twice the retry time, and a machine takes its time to start.
pub(super) const RETURN: Duration = Duration::from_secs(30);
/// How many events are stored at once.
const BATCH: usize = 1000;
/// How many transitions wait while the log stores nothing. The oldest go first: newer ones say what is true.
const WAITING: usize = 200_000;
/// How many notes are read at once.
const PAGE: usize = 1000;

const ONLINE: &str = "online/";
const SEEN: &str = "seen/";

type Publishing = Pin<Box<dyn Future<Output = Result<Vec<Published>, PublishError>> + Send>>;

/// Stores what became of users, without ever waiting for it.
pub(super) struct Recorder {
    hub: Hub,
    events: bool,
    waiting: VecDeque<Transition>,
    /// The first so many of those that wait are being stored.
    publishing: Option<(usize, Publishing)>,
    notes: Vec<Noting>,
    /// The last attempt failed, and that was said.
    failed: bool,
}

impl Recorder {
    /// With `events`, comings and goings are published.
    pub(super) fn new(hub: Hub, events: bool) -> Recorder {
        Recorder { hub, events, waiting: VecDeque::new(), publishing: None, notes: Vec::new(), failed: false }
    }

    /// Takes in what happened and carries on with what is under way.
    pub(super) fn advance(&mut self, transitions: Vec<Transition>) {
        for transition in transitions {
            if transition.online && self.events {
                self.note(ONLINE, &transition, true);
            }
            if self.events {
                self.waiting.push_back(transition);
            } else if !transition.online {
                self.note(SEEN, &transition, true);
            }
        }
        let mut context = Context::from_waker(Waker::noop());
        let mut lost = (0_usize, None);
        self.notes.retain_mut(|noting| match noting.as_mut().poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                lost = (lost.0 + 1, Some(error));
                false
            }
        });
        if let (notes, Some(error)) = lost {
            tracing::warn!(%error, notes, "when users were seen is not noted");
        }
        loop {
            let Some((count, publishing)) = &mut self.publishing else {
                if self.waiting.is_empty() {
                    return;
                }
                self.publish();
                continue;
            };
            match publishing.as_mut().poll(&mut context) {
                Poll::Pending => return,
                Poll::Ready(Ok(_)) => {
                    let count = *count;
                    self.publishing = None;
                    self.failed = false;
                    let stored: Vec<_> = self.waiting.drain(..count).collect();
                    for gone in stored.iter().filter(|transition| !transition.online) {
                        self.note(SEEN, gone, true);
                        self.note(ONLINE, gone, false);
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.publishing = None;
                    if !std::mem::replace(&mut self.failed, true) {
                        tracing::warn!(%error, "who came and went can't be published, and will be later");
                    }
                    let over = self.waiting.len().saturating_sub(WAITING);
                    self.waiting.drain(..over);
                    // It is tried again with the next tick.
                    return;
                }
            }
        }
    }

    /// Whether nothing is under way.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.notes.is_empty()
    }

    fn publish(&mut self) {
        let count = self.waiting.len().min(BATCH);
        let events = self.waiting.iter().take(count).map(event).collect();
        self.publishing = Some((count, Box::pin(self.hub.publish_batch(events))));
    }

    fn note(&mut self, kind: &str, transition: &Transition, set: bool) {
        let value = set.then(|| transition.at.0.to_string().into_bytes());
        self.notes.push(self.hub.log().set_note(format!("{kind}{}", transition.user), value));
    }
}

/// The event of somebody's coming or going. Its key is the user, so that `history=latest` is who is there.
fn event(transition: &Transition) -> Event {
    let Transition { user, online, at } = transition;
    let kind = if *online { "online" } else { "offline" };
    Event {
        // Neither a type of letters nor a key that is a user's id is ever refused.
        event: kind.parse().unwrap_or_else(|_| EventType::default()),
        key: user.as_str().parse().ok(),
        ..Event::to(Channel::presence(), Data::Json(text::transition(user, *at).into()))
    }
}

/// When a user was there last, if it has ever gone.
pub(super) fn seen(log: &dyn Log, user: &UserId) -> Result<Option<Timestamp>, ReadError> {
    let note = log.note(&format!("{SEEN}{user}"))?;
    let at = note.and_then(|value| std::str::from_utf8(&value).ok()?.parse().ok());
    Ok(at.map(Timestamp))
}

/// The users who were said to be online.
pub(super) fn online(log: &dyn Log, mut each: impl FnMut(UserId)) -> Result<(), ReadError> {
    let mut after: Option<String> = None;
    loop {
        let page = log.notes(ONLINE, after.as_deref(), PAGE)?;
        let users = page.iter().filter_map(|(name, _)| name.strip_prefix(ONLINE)?.parse().ok());
        users.for_each(&mut each);
        match page.into_iter().nth(PAGE - 1) {
            Some((last, _)) => after = Some(last),
            None => return Ok(()),
        }
    }
}
