//! Cursors older than the window: pages of the log, read by a few threads for all workers.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tidings_wire::{CursorKey, EncodedEvent, Epoch, Sequence};

use crate::Timestamp;
use crate::conflate::Sight;
use crate::log::{Log, Order, ReadError, ReadLimit, Record, Selection};
use crate::resume::{Ended, ended};
use crate::window::Waker;

/// How many records one page may have.
const PAGE_RECORDS: usize = 512;
/// How many bytes of data one page may have, unless its first event alone is larger.
const PAGE_BYTES: usize = 256 << 10;

/// A page that a subscriber waits for.
#[derive(Debug)]
pub(crate) struct PageRequest {
    pub(crate) ticket: Ticket,
    pub(crate) selections: Vec<Selection>,
    pub(crate) through: Sequence,
    /// Whether it is to be found out which of the reader's channels have ended.
    pub(crate) ends: bool,
    /// Who reads.
    pub(crate) sight: Sight,
    pub(crate) now: Timestamp,
    pub(crate) reply: Sender<PageAnswer>,
    pub(crate) waker: Arc<Waker>,
}

/// Whom an answer is for: a slot, and the subscriber that had it when it asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

#[derive(Debug)]
pub(crate) struct PageAnswer {
    pub(crate) ticket: Ticket,
    pub(crate) page: Result<EncodedPage, ReadError>,
}

/// A page of the log, ready to be written.
#[derive(Debug)]
pub(crate) struct EncodedPage {
    pub(crate) records: Vec<(Record, EncodedEvent)>,
    /// How many events are not there because newer ones with the same keys came.
    pub(crate) skipped: u64,
    pub(crate) through: Sequence,
    pub(crate) floor: Sequence,
    /// Which of the reader's channels have ended, if that was asked.
    pub(crate) ended: Option<Ended>,
    /// In which it was read.
    pub(crate) epoch: Epoch,
}

impl EncodedPage {
    pub(crate) fn read(
        log: &dyn Log,
        key: &CursorKey,
        request: &PageRequest,
    ) -> Result<EncodedPage, ReadError> {
        loop {
            let epoch = log.head().epoch;
            let page = EncodedPage::read_in(log, key, request, epoch)?;
            if log.head().epoch == epoch {
                return Ok(page);
            }
        }
    }

    fn read_in(
        log: &dyn Log,
        key: &CursorKey,
        request: &PageRequest,
        epoch: Epoch,
    ) -> Result<EncodedPage, ReadError> {
        let limit = ReadLimit { through: request.through, records: PAGE_RECORDS, bytes: PAGE_BYTES };
        let mut page = log.read(&request.selections, Order::Oldest, limit, request.now)?;
        // After the records, so that it is known as of a place that is not before theirs.
        let ended = request.ends.then(|| ended(log, &request.sight.views));
        let skipped = request.sight.choose(log, &mut page.records)?;
        let encode = |record: Record| {
            let encoded = EncodedEvent::new(&record.event, &key.seal(record.position));
            (record, encoded)
        };
        Ok(EncodedPage {
            records: page.records.into_iter().map(encode).collect(),
            skipped,
            through: page.through,
            floor: page.floor,
            ended,
            epoch,
        })
    }
}

/// The threads that read. They end when the last sender of requests is dropped.
#[derive(Debug, Clone)]
pub(crate) struct CatchUp {
    requests: Sender<PageRequest>,
}

impl CatchUp {
    pub(crate) fn start(log: &Arc<dyn Log>, key: &CursorKey, threads: usize) -> CatchUp {
        let (requests, incoming) = channel();
        let incoming = Arc::new(Mutex::new(incoming));
        for _ in 0..threads.max(1) {
            let (log, key, incoming) = (log.clone(), key.clone(), incoming.clone());
            thread::spawn(move || {
                while let Some(request) = next(&incoming) {
                    let page = EncodedPage::read(&*log, &key, &request);
                    // A worker that is gone needs no page.
                    let _ = request.reply.send(PageAnswer { ticket: request.ticket, page });
                    request.waker.wake();
                }
            });
        }
        CatchUp { requests }
    }

    /// One whose requests somebody else serves.
    #[cfg(test)]
    pub(crate) fn through(requests: Sender<PageRequest>) -> CatchUp {
        CatchUp { requests }
    }

    pub(crate) fn ask(&self, request: PageRequest) {
        // Only fails when every reading thread has panicked; the subscriber then makes no progress and is cut.
        let _ = self.requests.send(request);
    }
}

fn next(incoming: &Mutex<Receiver<PageRequest>>) -> Option<PageRequest> {
    incoming.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
