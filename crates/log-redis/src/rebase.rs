//! A new base in the place of the old one, and of the entries that it stands for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use redis::{Connection, Value, cmd};

use crate::base;
use crate::error::{Result, Trouble, damaged};
use crate::follow::ANSWER;
use crate::log::{Shared, Size};
use crate::script::{Arg, FORMAT, Script, run as run_script};

/// So many bytes of entries may lie behind the base before a new one is thought of.
const ENTRY_BYTES: u64 = if cfg!(test) { 64 << 10 } else { 8 << 20 };
/// How long what is there of a new base lasts when nothing more is added to it.
const DRAFT_MS: u64 = 30_000;
/// How long it takes until somebody tries again when a new base could not be written.
const PAUSE_MS: u64 = 1_000;

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
        let size = {
            let state = shared.lock();
            let stats = state.replica.stats();
            let needed = stats.bytes + 100 * stats.records;
            let full = shared.full.load(Ordering::Relaxed);
            if self.writing.load(Ordering::Relaxed) || !is_due(state.size, needed, full) {
                return Ok(());
            }
            state.size
        };
        let lock = shared.keys.of_node("rebasing", "lock");
        let args = [Arg::Number(size.base), Arg::Text(&shared.node), Arg::Number(DRAFT_MS)];
        let answer = run_script(connection, Script::Claim, &[&shared.keys.meta, &lock], &args)?;
        let (base, mine): (u64, bool) =
            redis::from_redis_value(answer).map_err(|error| damaged(format!("of its base {error}")))?;
        if base != size.base {
            // Another node has done it; how much is left behind its base is not known exactly.
            let mut state = shared.lock();
            state.size = Size { base, base_bytes: state.replica.stats().bytes, entries: 0 };
        }
        if !mine {
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

/// Whether a new base is worth its writing. `needed`: about how much it has.
///
/// While it is written it lies beside what it takes the place of: one and a half times what is kept, what is published
/// meanwhile (at full speed another half), and the base itself. With what Redis's allocator adds that is three and a half
/// times what is kept at most; the less often a base is written, the more.
fn is_due(size: Size, needed: u64, full: bool) -> bool {
    let Size { base_bytes, entries, .. } = size;
    let all = base_bytes + entries;
    if full {
        // Rather than nothing being stored any more: for as little as an eighth.
        return entries >= base_bytes / 8 && all >= needed + needed / 8;
    }
    entries >= ENTRY_BYTES.max(base_bytes / 2) && all >= needed + needed / 2
}

/// Writes the state of this moment down, and puts it in the place of the base and of the entries up to now.
pub(crate) fn rebase(shared: &Shared) -> Result<()> {
    /// No two bases are ever written under one name: what is sent late, after the next has begun, can't get into that.
    static DRAFTS: AtomicU64 = AtomicU64::new(0);
    let mut connection = shared.connector.connect()?;
    connection.set_read_timeout(Some(10 * ANSWER))?;
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = shared.keys.of_node("base", &format!("{}:{number}", shared.node));
    let done = write(shared, &mut connection, &draft);
    let lock = shared.keys.of_node("rebasing", "lock");
    if let Ok(true) = done {
        cmd("DEL").arg(lock).exec(&mut connection)?;
    } else {
        // As far as there is a connection; otherwise both go by themselves. It is not tried again at once.
        let _ = cmd("UNLINK").arg(&draft).exec(&mut connection);
        let _ = cmd("PEXPIRE").arg(lock).arg(PAUSE_MS).exec(&mut connection);
    }
    done.map(drop)
}

/// Whether the state of this moment is the base now. It is not if another node has made one in the meantime.
fn write(shared: &Shared, connection: &mut Connection, draft: &str) -> Result<bool> {
    let (saved, at, size) = {
        let state = shared.lock();
        (state.replica.save(), state.at, state.size)
    };
    let keys = &shared.keys;
    let lock = keys.of_node("rebasing", "lock");
    let (mut chunks, mut base_bytes) = (0, 0);
    base::encode(&saved, at, |chunk| -> Result<()> {
        let args = [Arg::Number(chunks), Arg::Bytes(chunk), Arg::Number(DRAFT_MS), Arg::Text(&shared.node)];
        if run_script(connection, Script::Draft, &[draft, &lock], &args)? != Value::Int(1) {
            return Err(Trouble::Refused("a new base took too long to write".to_owned()));
        }
        chunks += 1;
        base_bytes += chunk.len() as u64;
        Ok(())
    })?;
    let four = [&keys.stream[..], &keys.meta, &keys.base, draft];
    let args = [
        Arg::Text(FORMAT),
        Arg::Number(at.epoch.into()),
        Arg::Number(size.base),
        Arg::Number(at.number),
        Arg::Number(chunks),
    ];
    let done = run_script(connection, Script::Rebase, &four, &args)? == Value::Int(1);
    if done {
        let mut state = shared.lock();
        let entries = state.size.entries.saturating_sub(size.entries);
        state.size = Size { base: at.number, base_bytes, entries };
    }
    Ok(done)
}
