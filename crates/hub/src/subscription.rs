//! A subscriber in the same process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings_wire::{ClientId, Cursor, Event, Position, UserId};
use tokio::sync::Notify;

use crate::filter::Filter;
use crate::hub::Hub;
use crate::log::{ReadError, Record};
use crate::resume::{Resume, Start};
use crate::shard::{Cut, Shard, SubscriberId, Taken};
use crate::subscriber::{Change, Lens, ToldGap, Who};
use crate::{Timestamp, View};

/// What a subscriber in the same process follows.
#[derive(Debug, Clone)]
pub struct Subscribe {
    /// The channels and patterns.
    pub views: Vec<View>,
    /// Where it begins.
    pub start: Start,
    /// Who it is, for events that exclude somebody.
    pub user: Option<UserId>,
    /// The id that it chose, likewise.
    pub client: Option<ClientId>,
    /// What it wants of its channels, by the events' tags.
    pub filter: Option<Arc<Filter>>,
}

impl Subscribe {
    /// From now on, as nobody in particular.
    pub fn new(views: impl IntoIterator<Item = View>) -> Subscribe {
        let views = views.into_iter().collect();
        Subscribe { views, start: Start::Now, user: None, client: None, filter: None }
    }
}

/// One thing that a subscription hands out.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// An event, and the cursor to come back with after it.
    Event {
        /// Its cursor.
        id: Cursor,
        /// The event with its place and time.
        record: Record,
    },
    /// Something that should have been here can't be replayed.
    Gap(ToldGap),
    /// All its channels have ended: there is nothing more to come.
    End,
}

impl Delivery {
    /// The event, unless this is a gap.
    pub fn event(&self) -> Option<&Event> {
        match self {
            Delivery::Event { record, .. } => Some(&record.event),
            Delivery::Gap(_) | Delivery::End => None,
        }
    }
}

/// Why a subscription can't go on; a new one with the last cursor can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// The log could not be read.
    #[error("the log could not be read")]
    LogFailed,
}

/// A cursor in the log that waits for what comes. Nothing is queued for it: who takes nothing costs nothing.
#[derive(Debug)]
pub struct Subscription {
    hub: Hub,
    shard: Shard,
    id: SubscriberId,
    news: Arc<Notify>,
    lens: Lens,
    taken: VecDeque<Delivery>,
    opened_at: Position,
}

impl Subscription {
    pub(crate) fn open(hub: &Hub, subscribe: Subscribe) -> Result<Subscription, ReadError> {
        let now = Timestamp::now();
        let who = Who { user: subscribe.user, client: subscribe.client };
        let lens = Lens { who, filter: subscribe.filter };
        let resume = hub.resume(&subscribe.views, &subscribe.start, &lens, now)?;
        Ok(Subscription::at(hub, &subscribe.views, lens, resume, now))
    }

    pub(crate) fn at(hub: &Hub, views: &[View], lens: Lens, resume: Resume, now: Timestamp) -> Subscription {
        let news = Arc::new(Notify::new());
        let mut shard = hub.shard({
            let news = news.clone();
            Box::new(move || news.notify_one())
        });
        let (id, opened_at, gap) = shard.subscribe_records(views, resume, lens.clone(), now);
        let taken = gap.map(Delivery::Gap).into_iter().collect();
        Subscription { hub: hub.clone(), shard, id, news, lens, taken, opened_at }
    }

    /// The next event or gap; waits for one. It may be dropped while it waits: nothing is lost.
    ///
    /// # Errors
    /// When the log can't be read.
    pub async fn next(&mut self) -> Result<Delivery, SubscriptionError> {
        loop {
            if let Some(delivery) = self.take(Timestamp::now())? {
                return Ok(delivery);
            }
            self.news.notified().await;
        }
    }

    /// The next event or gap, if there is one already.
    ///
    /// # Errors
    /// When the log can't be read.
    pub fn take(&mut self, now: Timestamp) -> Result<Option<Delivery>, SubscriptionError> {
        loop {
            if let Some(delivery) = self.taken.pop_front() {
                return Ok(Some(delivery));
            }
            while self.shard.consume(usize::MAX) {}
            match self.shard.take(self.id, now) {
                Taken::Records(records) => {
                    let event = |(record, id)| Delivery::Event { id, record };
                    self.taken.extend(records.into_iter().map(event));
                }
                Taken::Gap(gap) => self.taken.push_back(Delivery::Gap(gap)),
                Taken::Later => {}
                Taken::End => return Ok(Some(Delivery::End)),
                Taken::Nothing => return Ok(None),
                Taken::Cut(Cut::LogFailed | Cut::Overtaken) => return Err(SubscriptionError::LogFailed),
            }
        }
    }

    /// Changes what it follows while it runs: what it is to follow too, and what no more. What is taken away comes no
    /// more, though it may have waited already.
    ///
    /// What is added begins at the cursor that is returned, its present place, since it never goes back. What lies
    /// before that is to be had with another subscription. A subscription that has ended stays so.
    pub fn change(
        &mut self,
        add: impl IntoIterator<Item = View>,
        remove: impl IntoIterator<Item = View>,
    ) -> Cursor {
        let (add, remove): (Vec<View>, Vec<View>) = (add.into_iter().collect(), remove.into_iter().collect());
        let removes = !remove.is_empty();
        let from = self.shard.change(self.id, Change { ended: self.hub.ended(&add), add, remove });
        if removes {
            let views: Vec<View> = self.shard.views(self.id).cloned().collect();
            let lens = &self.lens;
            let shown = |event: &Event| {
                lens.shows(event, &views)
                    && views.iter().any(|view| event.to.channels().iter().any(|to| view.shows(to)))
            };
            self.taken.retain(|delivery| delivery.event().is_none_or(shown));
        }
        self.hub.key().seal(from)
    }

    /// How many events were passed over so far because newer ones with the same keys came.
    pub fn skipped(&self) -> u64 {
        self.shard.stats().skipped.load(Ordering::Relaxed)
    }

    /// The cursor of where it began: to come back with if nothing came.
    pub fn opened_at(&self) -> Cursor {
        self.hub.key().seal(self.opened_at)
    }
}
