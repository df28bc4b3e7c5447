//! HOT 4. Writes to those who are behind, a slice at a time.
//!
//! A sweep never starts over: who has become behind meanwhile stands at the queue's end. Between two slices the worker
//! takes in new events, so what a subscriber is written is everything there is by then, in one call to the kernel; the
//! more there is to do, the cheaper each delivery gets. Nothing here allocates, locks, formats or logs.

use std::io::{ErrorKind, Write};

use tidings_hub::{Cut, Pending, Shard, SubscriberId, Timestamp};

use super::conn::{CloseReason, Conn};
use super::timers::Tick;

/// How many subscribers one slice serves at most: 256 calls to the kernel take about a millisecond, which is what
/// others wait.
const SUBSCRIBERS: usize = 256;
/// How many bytes one slice writes at most: as long as that takes.
const BYTES: usize = 4 << 20;
/// How many bytes one subscriber is written before it is the next one's turn.
const SUBSCRIBER_BYTES: usize = 256 << 10;

/// What a slice did beside writing.
#[derive(Debug, Default)]
pub(crate) struct Slice {
    /// Streams that are over, to be closed by the worker.
    pub(crate) over: Vec<(SubscriberId, CloseReason)>,
    /// Streams whose sockets are full since this slice.
    pub(crate) blocked: Vec<SubscriberId>,
}

/// Serves one slice of those who are ready. True if some are left.
pub(crate) fn sweep(
    shard: &mut Shard,
    conns: &mut [Option<Conn>],
    now: Timestamp,
    tick: Tick,
    slice: &mut Slice,
) -> bool {
    let mut bytes = 0;
    for _ in 0..SUBSCRIBERS {
        if bytes > BYTES {
            break;
        }
        let Some(id) = shard.next_ready() else { return false };
        let Some(Some(conn)) = conns.get_mut(id.0 as usize) else { continue };
        let (wrote, outcome) = serve(shard, id, conn, now, tick);
        bytes += wrote;
        match outcome {
            Outcome::Waits => {}
            Outcome::Blocked => slice.blocked.push(id),
            Outcome::More => shard.requeue(id),
            Outcome::Over(reason) => slice.over.push((id, reason)),
        }
    }
    true
}

enum Outcome {
    /// Up to date, or waiting for a page of the log.
    Waits,
    /// Its socket is full.
    Blocked,
    /// Its turn is over, and there is more.
    More,
    Over(CloseReason),
}

/// Writes what one subscriber is behind by.
fn serve(
    shard: &mut Shard,
    id: SubscriberId,
    conn: &mut Conn,
    now: Timestamp,
    tick: Tick,
) -> (usize, Outcome) {
    let mut total = 0;
    while total < SUBSCRIBER_BYTES {
        let (sent, all) = match shard.pending(id, now) {
            Pending::Bytes(bytes) => (conn.socket.write(bytes), bytes.len()),
            Pending::Nothing | Pending::Reading => {
                // What was stuck may have expired; and for a page of the log it is the server that is waited for.
                conn.deadlines.idle();
                return (total, Outcome::Waits);
            }
            Pending::Later => return (total, Outcome::More),
            Pending::Finished => {
                let reason = conn.deadlines.ending().unwrap_or(CloseReason::Gone);
                return (total, Outcome::Over(reason));
            }
            Pending::Over => return (total, Outcome::Over(CloseReason::Ended)),
            Pending::Cut(Cut::Overtaken) => return (total, Outcome::Over(CloseReason::Overtaken)),
            Pending::Cut(Cut::LogFailed) => return (total, Outcome::Over(CloseReason::LogFailed)),
        };
        match sent {
            Ok(count) => {
                shard.wrote(id, count, now);
                conn.bytes += count as u64;
                conn.deadlines.wrote(tick, count == all);
                total += count;
                if count < all {
                    // Less than all is as good as the refusal that would come next: the kernel tells when there is
                    // space again in both cases.
                    shard.block(id);
                    return (total, Outcome::Blocked);
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                conn.deadlines.stuck(tick);
                shard.block(id);
                return (total, Outcome::Blocked);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return (total, Outcome::Over(CloseReason::Gone)),
        }
    }
    (total, Outcome::More)
}
