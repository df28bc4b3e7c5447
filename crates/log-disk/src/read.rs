//! Reading: one snapshot of the tables for each page, checked for what is missing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tidings_hub::log::{Order, Page, ReadLimit, Record, Selection};
use tidings_hub::{Timestamp, View};
use tidings_wire::{Channel, Key, Sequence};

use crate::catalog::{Catalog, ChannelState};
use crate::error::{Result, StoreError};
use crate::record::Row;
use crate::store::{Place, Store};
use crate::writer::Shared;

/// How many rows one read looks at: some milliseconds.
const LOOK: usize = if cfg!(test) { 7 } else { 16_384 };
/// Up to how many channels a read goes through by their own places; for more of them it goes through all records.
const MERGED: usize = if cfg!(test) { 2 } else { 256 };
/// How many connections are kept for the next reads.
const IDLE: usize = 4;

/// Reads for any number of threads.
pub(crate) struct Readers {
    pub(crate) shared: Arc<Shared>,
    path: PathBuf,
    idle: Mutex<Vec<Store>>,
}

impl Readers {
    pub(crate) fn new(shared: Arc<Shared>, path: PathBuf) -> Readers {
        Readers { shared, path, idle: Mutex::default() }
    }

    /// A connection on a snapshot of all that is durable now.
    pub(crate) fn snapshot(self: &Arc<Self>) -> Result<Snapshot> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let store = match idle {
            Some(store) => store,
            None => Store::open_reader(&self.path)?,
        };
        // First the head, then the snapshot: all up to that head is in it.
        let head = self.shared.catalog().head.sequence;
        store.begin_snapshot()?;
        Ok(Snapshot { store: Some(store), readers: self.clone(), head })
    }

    /// A page of the selected records.
    pub(crate) fn read(
        self: &Arc<Self>,
        selections: &[Selection],
        order: Order,
        limit: ReadLimit,
        now: Timestamp,
    ) -> Result<Page> {
        let snapshot = self.snapshot()?;
        let through = limit.through.min(snapshot.head);
        let lanes = {
            let catalog = self.shared.catalog();
            // One that isn't known has no record.
            catalog.names().selected(selections, MERGED, |channel| Some(catalog.get(channel)?.id))
        };
        let mut page = Filling { limit, now, records: Vec::new(), bytes: 0, looked: 0, last: None };
        let complete = match lanes {
            Some(channels) => read_merged(snapshot.store(), channels, through, order, &mut page)?,
            None => read_all(snapshot.store(), selections, through, order, &mut page)?,
        };
        let through = match (complete, order) {
            (true, Order::Oldest) => through,
            (true, Order::Newest) => Sequence::START,
            (false, _) => page.last.unwrap_or_default(),
        };
        let mut records = Vec::with_capacity(page.records.len());
        for record in page.records {
            let lost = snapshot.lost_singly(&record)?;
            records.push((record, lost));
        }
        // What was removed meanwhile is taken out, and the floor is of the same moment: so the page is as if it had
        // been read then.
        let catalog = self.shared.catalog();
        records.retain(|(record, lost)| is_shown(record, lost, selections, &catalog));
        let floor = selections
            .iter()
            .map(|selection| (catalog.floor(&selection.view), selection.after))
            .filter(|(floor, after)| floor > after)
            .map(|(floor, _)| floor)
            .max()
            .unwrap_or_default();
        Ok(Page { records: records.into_iter().map(|(record, _)| record).collect(), through, floor })
    }

    /// The newest records of a channel with a key.
    pub(crate) fn keyed(
        self: &Arc<Self>,
        channel: &Channel,
        key: &Key,
        after: Sequence,
        limit: usize,
    ) -> Result<Vec<Record>> {
        let snapshot = self.snapshot()?;
        let Some(id) = self.shared.catalog().get(channel).map(|state| state.id) else {
            return Ok(Vec::new());
        };
        // A channel that has no row in this snapshot began later.
        let Some(row) = snapshot.store().channel(id)? else { return Ok(Vec::new()) };
        let mut records = Vec::new();
        for sequence in snapshot.store().keyed(id, key, after.max(row.gone), snapshot.head, limit)? {
            match snapshot.store().record(sequence)? {
                Some(Row::Event(record))
                    if record.event.key.as_ref() == Some(key)
                        && record.event.to.channels().contains(channel) =>
                {
                    records.push(record);
                }
                _ => return Err(StoreError::damaged(sequence, "a key names it, but it is lost")),
            }
        }
        // As of now, like a page.
        let catalog = self.shared.catalog();
        records.retain(|record| catalog.holds(channel, record.position.sequence));
        Ok(records)
    }

    /// From where on to read for the newest `count` records of each channel that the views show.
    pub(crate) fn newest(
        self: &Arc<Self>,
        views: &[View],
        count: usize,
        through: Sequence,
    ) -> Result<Vec<Selection>> {
        let snapshot = self.snapshot()?;
        let through = through.min(snapshot.head);
        let channels: BTreeMap<Channel, ChannelState> = {
            let catalog = self.shared.catalog();
            let shown = views.iter().flat_map(|view| catalog.shown_by(view));
            shown
                .filter(|(_, state)| state.records > 0)
                .map(|(channel, state)| (channel.clone(), state.clone()))
                .collect()
        };
        let mut selections = Vec::new();
        for (channel, ChannelState { id, gone, last, .. }) in channels {
            let places = snapshot.store().places_down_from(id, through.min(last), gone, count.max(1))?;
            let (Some(newest), Some(oldest)) = (places.first(), places.last()) else { continue };
            let after = if count == 0 { newest.sequence } else { Sequence(oldest.sequence.0 - 1) };
            selections.push(Selection { view: View::Channel(channel), after });
        }
        Ok(selections)
    }
}

/// Whether a selection shows a record in a channel that still has it and is none of those that lost it.
fn is_shown(record: &Record, lost: &[Channel], selections: &[Selection], catalog: &Catalog) -> bool {
    let sequence = record.position.sequence;
    record.event.to.channels().iter().any(|channel| {
        selections.iter().any(|selection| sequence > selection.after && selection.view.shows(channel))
            && catalog.holds(channel, sequence)
            && !lost.contains(channel)
    })
}

/// A connection during one snapshot; it goes back to the others at the end.
pub(crate) struct Snapshot {
    /// Only empty while it is dropped.
    store: Option<Store>,
    readers: Arc<Readers>,
    /// The newest record that may be handed out.
    pub(crate) head: Sequence,
}

impl Snapshot {
    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().expect("it is there until the drop")
    }

    /// The channels that lost a record for a newer state, while others keep it.
    fn lost_singly(&self, record: &Record) -> Result<Vec<Channel>> {
        let mut lost = Vec::new();
        let channels = record.event.to.channels();
        // With one channel it would be gone.
        if record.event.key.is_some() && channels.len() > 1 {
            for channel in channels {
                // One that isn't known has no record.
                let id = self.readers.shared.catalog().get(channel).map(|state| state.id);
                if let Some(id) = id
                    && self.store().place(id, record.position.sequence)?.is_none()
                {
                    lost.push(channel.clone());
                }
            }
        }
        Ok(lost)
    }

    /// Whether all channels still have a record.
    pub(crate) fn is_whole(&self, record: &Record) -> Result<bool> {
        let held = {
            let catalog = self.readers.shared.catalog();
            let sequence = record.position.sequence;
            record.event.to.channels().iter().all(|channel| catalog.holds(channel, sequence))
        };
        Ok(held && self.lost_singly(record)?.is_empty())
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        // One whose transaction doesn't end is closed instead.
        if let Some(store) = self.store.take()
            && store.roll_back().is_ok()
        {
            let mut idle = self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE {
                idle.push(store);
            }
        }
    }
}

/// Goes through the places of some channels together. Says whether it came to the end.
fn read_merged(
    store: &Store,
    channels: BTreeMap<i64, Sequence>,
    through: Sequence,
    order: Order,
    page: &mut Filling,
) -> Result<bool> {
    // As many places at a time as the page may need, but not for every one of many channels.
    let chunk = (page.limit.records.saturating_mul(2) / channels.len().max(1)).clamp(4, 256);
    let mut lanes = Vec::with_capacity(channels.len());
    for (id, after) in channels {
        lanes.extend(Lane::new(store, id, after, through, order, chunk)?);
    }
    // The smallest key comes out first; the newest record has to have the smallest for the other order.
    let key = |sequence: Sequence| match order {
        Order::Oldest => sequence.0,
        Order::Newest => u64::MAX - sequence.0,
    };
    let mut heap = BinaryHeap::with_capacity(lanes.len());
    for (at, lane) in lanes.iter_mut().enumerate() {
        heap.extend(lane.next(store)?.map(|sequence| Reverse((key(sequence), sequence, at))));
    }
    let mut before = None;
    while let Some(Reverse((_, sequence, at))) = heap.pop() {
        heap.extend(lanes[at].next(store)?.map(|sequence| Reverse((key(sequence), sequence, at))));
        if before.replace(sequence) == Some(sequence) {
            continue;
        }
        if page.is_tired() {
            return Ok(false);
        }
        match store.record(sequence)? {
            Some(Row::Event(record)) => {
                if !page.take(record) {
                    return Ok(false);
                }
            }
            _ => return Err(StoreError::damaged(sequence, "a channel has it, but it is lost")),
        }
    }
    Ok(true)
}

/// The places of one channel, in one direction, each checked to be the neighbour of the one before.
struct Lane {
    id: i64,
    order: Order,
    chunk: usize,
    /// Places up to here don't matter: they were seen, or are gone.
    after: Sequence,
    through: Sequence,
    /// The last one that has a row.
    last: Sequence,
    /// Where the next chunk begins.
    next: Sequence,
    /// Oldest: the place that was seen last. Newest: the one that has to be next.
    neighbour: Sequence,
    ready: VecDeque<Place>,
    done: bool,
}

impl Lane {
    fn new(
        store: &Store,
        id: i64,
        after: Sequence,
        through: Sequence,
        order: Order,
        chunk: usize,
    ) -> Result<Option<Lane>> {
        // A channel that has no row in this snapshot began later.
        let Some(row) = store.channel(id)? else { return Ok(None) };
        let after = after.max(row.gone);
        if after >= through {
            return Ok(None);
        }
        let (next, neighbour) = match order {
            Order::Oldest => (after, after),
            Order::Newest => {
                let behind = store.places_after(id, through, row.last, 1)?.pop();
                let newest = behind.map_or(row.last, |place| place.prev);
                (newest, newest)
            }
        };
        Ok(Some(Lane {
            id,
            order,
            chunk,
            after,
            through,
            last: row.last,
            next,
            neighbour,
            ready: VecDeque::new(),
            done: false,
        }))
    }

    fn next(&mut self, store: &Store) -> Result<Option<Sequence>> {
        if self.done {
            return Ok(None);
        }
        if self.ready.is_empty() {
            self.ready = match self.order {
                Order::Oldest => store.places_after(self.id, self.next, self.last, self.chunk)?,
                Order::Newest => store.places_down_from(self.id, self.next, self.after, self.chunk)?,
            }
            .into();
        }
        let place = self.ready.pop_front();
        let lost = |at: Sequence| Err(StoreError::damaged(at, "its place in a channel is lost"));
        match (self.order, place) {
            (Order::Oldest, Some(place)) => {
                if place.prev > self.neighbour {
                    return lost(place.prev);
                }
                if place.sequence > self.through {
                    self.done = true;
                    return Ok(None);
                }
                self.neighbour = place.sequence;
                self.next = place.sequence;
                Ok(Some(place.sequence))
            }
            (Order::Oldest, None) => {
                self.done = true;
                if self.last > self.neighbour { lost(self.last) } else { Ok(None) }
            }
            (Order::Newest, place) => {
                if self.neighbour <= self.after {
                    self.done = true;
                    return Ok(None);
                }
                match place {
                    Some(place) if place.sequence == self.neighbour => {
                        self.neighbour = place.prev;
                        self.next = place.prev;
                        Ok(Some(place.sequence))
                    }
                    _ => lost(self.neighbour),
                }
            }
        }
    }
}

/// Goes through all records and takes those that a selection shows. Says whether it came to the end.
fn read_all(
    store: &Store,
    selections: &[Selection],
    through: Sequence,
    order: Order,
    page: &mut Filling,
) -> Result<bool> {
    let after = selections.iter().map(|selection| selection.after).min().unwrap_or(through);
    if after >= through {
        return Ok(true);
    }
    let wanted = |record: &Record| {
        record.event.to.channels().iter().any(|channel| {
            selections
                .iter()
                .any(|selection| record.position.sequence > selection.after && selection.view.shows(channel))
        })
    };
    walk(store, after, through, order, |sequence, row| {
        if page.is_tired() {
            return Ok(false);
        }
        match row {
            Row::Event(record) if wanted(&record) => Ok(page.take(record)),
            _ => {
                page.pass(sequence);
                Ok(true)
            }
        }
    })
}

/// Goes through all rows of a range, and finds out when one is missing. Of a run of removed records `each` gets the
/// end that is reached last, within the range. Says whether it came to the end.
pub(crate) fn walk(
    store: &Store,
    after: Sequence,
    through: Sequence,
    order: Order,
    mut each: impl FnMut(Sequence, Row) -> Result<bool>,
) -> Result<bool> {
    let missing = |at: Sequence| StoreError::damaged(at, "it is in no row");
    let mut stopped = false;
    match order {
        Order::Oldest => {
            let mut expected = after.next();
            // The run in which the range begins has its row before it.
            let Some((first, _)) = store.row_around(expected)? else { return Err(missing(expected)) };
            store.rows_from(first, |at, row| {
                let end = match &row {
                    Row::Event(_) => at,
                    Row::Run(last) => *last,
                };
                if at > expected || end < expected {
                    return Err(missing(expected));
                }
                expected = end.next();
                stopped = !each(end.min(through), row)?;
                Ok(!stopped && end < through)
            })?;
            if !stopped && expected <= through {
                return Err(missing(expected));
            }
        }
        Order::Newest => {
            let mut expected = through;
            store.rows_down_from(through, |at, row| {
                let end = match &row {
                    Row::Event(_) => at,
                    Row::Run(last) => *last,
                };
                if end < expected {
                    return Err(missing(expected));
                }
                if at <= after {
                    // A run that reaches into the range, or a row that is behind it.
                    expected = after;
                    return Ok(false);
                }
                expected = Sequence(at.0 - 1);
                stopped = !each(at, row)?;
                Ok(!stopped && expected > after)
            })?;
            if !stopped && expected > after {
                return Err(missing(expected));
            }
        }
    }
    Ok(!stopped)
}

/// A page while it is filled.
struct Filling {
    limit: ReadLimit,
    now: Timestamp,
    records: Vec<Record>,
    bytes: usize,
    looked: usize,
    /// The last one that was looked at.
    last: Option<Sequence>,
}

impl Filling {
    /// Whether it has looked at enough for one read.
    fn is_tired(&self) -> bool {
        self.looked >= LOOK
    }

    /// Takes a record if it is not expired. `false` when it has to wait for the next page.
    fn take(&mut self, record: Record) -> bool {
        let sequence = record.position.sequence;
        if !record.expired(self.now) {
            let bytes = self.bytes + record.event.data.as_str().len();
            let full = self.records.len() >= self.limit.records || bytes > self.limit.bytes;
            if full && !self.records.is_empty() {
                return false;
            }
            self.bytes = bytes;
            self.records.push(record);
        }
        self.pass(sequence);
        true
    }

    fn pass(&mut self, sequence: Sequence) {
        self.looked += 1;
        self.last = Some(sequence);
    }
}
