//! A new base in the place of the old one, and of the entries that it stands for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use redis::{Connection, Value, cmd};

use crate::base;
use crate::error::{Result, Trouble};
use crate::follow::{ANSWER, base_of};
use crate::log::{Shared, Size};
use crate::script::{Arg, FORMAT, Script, run as run_script};

/// So many bytes of entries may lie behind the base before a new one is thought of.
const ENTRY_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// How long a new base may take to write.
const REBASE_MS: u64 = 60_000;

/// The bases that a node writes, one at a time.
pub(crate) struct Bases {
    shared: Arc<Shared>,
    writing: Arc<AtomicBool>,
}

impl Bases {
    pub(crate) fn new(shared: Arc<Shared>) -> Bases {
        Bases { shared, writing: Arc::default() }
    }

    /// Puts a new base into Redis when most of what lies there is not needed any more.
    pub(crate) fn think(&self, connection: &mut Connection) -> Result<()> {
        let shared = &self.shared;
        {
            let state = shared.lock();
            let Size { base_bytes, entries, .. } = state.size;
            if entries < ENTRY_BYTES || entries < base_bytes || self.writing.load(Ordering::Relaxed) {
                return Ok(());
            }
            let stats = state.replica.stats();
            let needed = stats.bytes + 100 * stats.records;
            if base_bytes + entries < 2 * needed {
                return Ok(());
            }
        }
        let base = base_of(connection, &shared.keys)?;
        let mut state = shared.lock();
        if base != state.size.base {
            // Another node has done it; how much is left behind its base is not known exactly.
            state.size = Size { base, base_bytes: state.replica.stats().bytes, entries: 0 };
            return Ok(());
        }
        drop(state);
        let lock = shared.keys.of_node("rebasing", "lock");
        let mine: Option<String> =
            cmd("SET").arg(lock).arg(&shared.node).arg("NX").arg("PX").arg(REBASE_MS).query(connection)?;
        if mine.is_none() {
            return Ok(());
        }
        self.writing.store(true, Ordering::Relaxed);
        let (shared, writing) = (shared.clone(), self.writing.clone());
        thread::spawn(move || {
            // If it fails, the old base is as good as it was.
            let _ = rebase(&shared);
            writing.store(false, Ordering::Relaxed);
        });
        Ok(())
    }
}

/// A connection to the node that has the log.
fn connect_to_keys(shared: &Shared) -> Result<Connection> {
    let mut moved: Option<String> = None;
    loop {
        let mut connection = shared.connector.connect(moved.as_deref())?;
        match base_of(&mut connection, &shared.keys) {
            Err(Trouble::Moved(to)) if moved.is_none() => moved = Some(to),
            found => return found.map(|_| connection),
        }
    }
}

/// Writes the state of this moment down, and puts it in the place of the base and of the entries up to now.
pub(crate) fn rebase(shared: &Shared) -> Result<()> {
    let (saved, at, size) = {
        let state = shared.lock();
        (state.replica.save(), state.at, state.size)
    };
    let keys = &shared.keys;
    let mut connection = connect_to_keys(shared)?;
    connection.set_read_timeout(Some(10 * ANSWER))?;
    let new = keys.of_node("base", &shared.node);
    cmd("DEL").arg(&new).exec(&mut connection)?;
    let mut base_bytes = 0;
    base::encode(&saved, at, |chunk| -> Result<()> {
        base_bytes += chunk.len() as u64;
        cmd("RPUSH").arg(&new).arg(chunk).exec(&mut connection)?;
        // What is not finished goes by itself.
        Ok(cmd("PEXPIRE").arg(&new).arg(REBASE_MS).exec(&mut connection)?)
    })?;
    let four = [&keys.stream[..], &keys.meta, &keys.base, &new];
    let args =
        [Arg::Text(FORMAT), Arg::Number(at.epoch.into()), Arg::Number(size.base), Arg::Number(at.number)];
    let done = run_script(&mut connection, Script::Rebase, &four, &args)?;
    cmd("DEL").arg(keys.of_node("rebasing", "lock")).exec(&mut connection)?;
    if done == Value::Int(1) {
        let mut state = shared.lock();
        let entries = state.size.entries.saturating_sub(size.entries);
        state.size = Size { base: at.number, base_bytes, entries };
    }
    Ok(())
}
