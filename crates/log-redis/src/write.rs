//! The thread that appends: one group after the other, each until it is known to be stored or nobody waits for it.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Connection;

use crate::error::{Result, Trouble};
use crate::follow::{meta, settle};
use crate::log::{Part, Shared};
use crate::queue::{Group, PATIENCE};
use crate::script::{Arg, FORMAT, Script, run as run_script};

/// How long it is waited before something is tried again.
pub(crate) const AGAIN: Duration = Duration::from_millis(100);
/// How long an answer may take before the connection is given up.
const ANSWER: Duration = Duration::from_millis(1000);

pub(crate) fn run(shared: &Shared) {
    let mut link = Link { connection: None, switches: 0 };
    let mut well = true;
    loop {
        // Also when nobody asks for anything: the trouble is said to be over when it is.
        let over = if well { !shared.queue.wait() } else { shared.queue.pause(AGAIN) };
        if over {
            return;
        }
        // No group is taken while there is no connection: so who waits in vain learns for sure that nothing was stored.
        let connected = link.connect(shared).map(drop);
        shared.trouble(Part::Writing, connected.as_ref().err());
        well = connected.is_ok();
        if well && let Some(group) = shared.queue.take() {
            well = send(shared, &mut link, &group);
        }
    }
}

struct Link {
    connection: Option<Connection>,
    /// How often the master had changed before it was opened.
    switches: u64,
}

impl Link {
    fn connect(&mut self, shared: &Shared) -> Result<&mut Connection> {
        let switches = shared.connector.switches();
        if self.connection.is_none() || self.switches != switches {
            self.connection = None;
            self.switches = switches;
            let opened = shared.connector.connect().and_then(|mut connection| {
                settle(shared, &mut connection)?;
                connection.set_read_timeout(Some(ANSWER))?;
                connection.set_write_timeout(Some(ANSWER))?;
                Ok(connection)
            });
            self.connection = Some(opened?);
        }
        self.connection.as_mut().ok_or(Trouble::Away("there is no connection".to_owned()))
    }
}

/// Sends a group, again and again if need be: Redis stores it once. False when it was given up.
fn send(shared: &Shared, link: &mut Link, group: &Group) -> bool {
    let node = shared.keys.of_node("node", &shared.node);
    let keys = [&shared.keys.stream[..], &shared.keys.meta, &node];
    // Whether it was sent before and nobody knows what became of it.
    let mut lost = false;
    loop {
        let stored = match link.connect(shared) {
            Err(trouble) => Err(trouble),
            Ok(connection) => {
                if !shared.queue.sending(group.number) {
                    return true;
                }
                let (known, asked) = (shared.known(), shared.clock.here());
                let args = [
                    Arg::Text(FORMAT),
                    Arg::Text(&shared.node),
                    Arg::Number(group.number),
                    Arg::Bytes(&group.steps),
                    Arg::Bytes(&shared.cursor_key),
                    Arg::Number(known.number),
                    Arg::Number(known.epoch.into()),
                ];
                let stored = run_script(connection, Script::Append, &keys, &args);
                match &stored {
                    Ok(_) => {}
                    Err(Trouble::Away(_)) => lost = true,
                    Err(_) if lost => {}
                    Err(_) => shared.queue.refused(group.number),
                }
                stored.and_then(|answer| {
                    shared.clock.compare(asked, meta(answer)?.now);
                    Ok(())
                })
            }
        };
        shared.full.store(matches!(stored, Err(Trouble::Full(_))), Ordering::Relaxed);
        let Err(trouble) = stored else {
            shared.trouble(Part::Writing, None);
            return true;
        };
        shared.trouble(Part::Writing, Some(&trouble));
        link.connection = None;
        let quickly = matches!(trouble, Trouble::Moved(_) | Trouble::Gone);
        if shared.queue.pause(if quickly { Duration::ZERO } else { AGAIN })
            || !shared.queue.is_awaited(group.number)
        {
            return false;
        }
    }
}

const _: () = assert!(ANSWER.as_millis() < PATIENCE.as_millis());
