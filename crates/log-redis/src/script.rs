//! What Redis does in one step.

use std::sync::LazyLock;

use redis::{Cmd, ConnectionLike, ErrorKind, ServerErrorKind, Value, cmd};

use crate::error::{Result, Trouble};

/// What is in Redis is of this format, and every node does the same with an entry. Any change to either is a new format.
pub(crate) const FORMAT: &str = "1";

/// Begins a log where there is none, or only a part of one. KEYS: stream, meta. ARGV: format, the least epoch, the key
/// of the cursors, the first entry's steps.
const BEGIN: &str = r"
local meta = redis.call('HMGET', KEYS[2], 'format', 'epoch')
if meta[1] and meta[1] ~= ARGV[1] then
  return redis.error_reply('TIDINGS the log in Redis has format ' .. meta[1] .. ', this version knows ' .. ARGV[1])
end
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then
  return redis.error_reply('TIDINGS ' .. KEYS[1] .. ' is a ' .. kind .. ' and no log')
end
if meta[1] and kind == 'stream' then return 0 end
local time = redis.call('TIME')
local epoch = math.max(tonumber(meta[2] or 0) + 1, tonumber(ARGV[2]), tonumber(time[1]))
local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
redis.call('DEL', KEYS[1], KEYS[2])
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('XADD', KEYS[1], string.format('1-%.0f', epoch), 't', now, 'd', ARGV[4])
redis.call('HSET', KEYS[2], 'format', ARGV[1], 'run', run, 'last', 1, 'epoch', epoch, 'base', 0, 'key', ARGV[3])
return 1
";

/// Appends one group of a node, if it is not there yet. KEYS: stream, meta, node. ARGV: format, the node, the group's
/// number, its steps, the key of the cursors if it is known, the number and the epoch of the newest entry that the node
/// knows. Without a group's number only what has to be is done: a new epoch, if this is another run of Redis, or if
/// somebody has put an older state of the log in its place, so that the same numbers would be given a second time. An epoch
/// is the time in seconds, and what tells two runs apart that begin in the same second, each for itself.
const APPEND: &str = r"
local meta = redis.call('HMGET', KEYS[2], 'format', 'run', 'last', 'epoch', 'key')
if not meta[1] or redis.call('EXISTS', KEYS[1]) == 0 then
  return redis.error_reply('TIDINGSGONE the log is gone')
end
if meta[1] ~= ARGV[1] then
  return redis.error_reply('TIDINGS the log in Redis has format ' .. meta[1] .. ', this version knows ' .. ARGV[1])
end
if ARGV[5] ~= '' and ARGV[5] ~= meta[5] then
  return redis.error_reply('TIDINGS the log in Redis is another one now: the key of its cursors is not that of this node')
end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local run = string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)')
local last, epoch = tonumber(meta[3]), tonumber(meta[4])
local function add(...)
  last = last + 1
  redis.call('XADD', KEYS[1], string.format('%.0f-%.0f', last, epoch), 't', now, ...)
end
if run ~= meta[2] or (epoch == tonumber(ARGV[7]) and last < tonumber(ARGV[6])) then
  epoch = math.max(epoch + 1, tonumber(time[1])) + tonumber(string.sub(run, 1, 2), 16)
  add('fork', meta[4])
  redis.call('HSET', KEYS[2], 'run', run, 'last', last, 'epoch', epoch)
end
if ARGV[3] ~= '' and tonumber(redis.call('GET', KEYS[3]) or 0) < tonumber(ARGV[3]) then
  add('n', ARGV[2], 'k', ARGV[3], 'd', ARGV[4])
  redis.call('HSET', KEYS[2], 'last', last)
  redis.call('SET', KEYS[3], ARGV[3], 'PX', 3600000)
end
return {last, epoch, meta[5], now}
";

/// Whether a node may write a new base. KEYS: meta, the lock. ARGV: the entry up to which it thinks that the base goes, the
/// node, for how long the lock is its. Answers up to which entry it goes, and whether the lock is the node's.
const CLAIM: &str = r"
local base = redis.call('HGET', KEYS[1], 'base')
if not base then return redis.error_reply('TIDINGSGONE the log is gone') end
local free = base == ARGV[1] and redis.call('SET', KEYS[2], ARGV[2], 'NX', 'PX', ARGV[3])
return {tonumber(base), free and 1 or 0}
";

/// Adds a chunk to a base that is being written, if all chunks before it are there: it goes away when its writer is
/// suspended, and must not begin with what comes after that. KEYS: the list, the lock. ARGV: how many chunks come
/// before, the chunk, for how long both last from now on, whose lock it is.
const DRAFT: &str = r"
if redis.call('LLEN', KEYS[1]) ~= tonumber(ARGV[1]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
if redis.call('GET', KEYS[2]) == ARGV[4] then redis.call('PEXPIRE', KEYS[2], ARGV[3]) end
return 1
";

/// Puts a new base in the place of the old one and lets go of the entries that it stands for. KEYS: stream, meta, base,
/// the new base. ARGV: format, the epoch, the entry up to which the old base goes, and the new one, and how many chunks
/// that has.
const REBASE: &str = r"
local meta = redis.call('HMGET', KEYS[2], 'format', 'epoch', 'base', 'last')
-- A run that has lost entries has the epoch of the one before until something is appended.
if meta[1] ~= ARGV[1] or meta[2] ~= ARGV[2] or meta[3] ~= ARGV[3] or tonumber(meta[4]) < tonumber(ARGV[4])
  or redis.call('LLEN', KEYS[4]) ~= tonumber(ARGV[5]) then
  redis.call('DEL', KEYS[4])
  return 0
end
redis.call('RENAME', KEYS[4], KEYS[3])
redis.call('PERSIST', KEYS[3])
redis.call('HSET', KEYS[2], 'base', ARGV[4])
redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-0', tonumber(ARGV[4]) + 1))
return 1
";

/// Writes something that is waited for. KEYS: what is written. ARGV: for how long.
const MARK: &str = r"
return redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])
";

/// What a script begins with that runs though the memory of Redis is full: those that make room, and what has to be
/// written before that.
const THOUGH_FULL: &str = "#!lua flags=allow-oom\n";

/// A script, by what it does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Script {
    Begin,
    Append,
    /// As `Append`, without a group.
    Fork,
    Claim,
    Draft,
    Rebase,
    Mark,
}

impl Script {
    /// All of them, in the order of their declaration.
    const ALL: [Script; 7] = [
        Script::Begin,
        Script::Append,
        Script::Fork,
        Script::Claim,
        Script::Draft,
        Script::Rebase,
        Script::Mark,
    ];

    /// Its text with its sum, which is made once.
    fn prepared(self) -> &'static redis::Script {
        static PREPARED: LazyLock<[redis::Script; Script::ALL.len()]> =
            LazyLock::new(|| Script::ALL.map(|script| redis::Script::new(&script.text())));
        &PREPARED[self as usize]
    }

    fn text(self) -> String {
        match self {
            Script::Begin => BEGIN.to_owned(),
            Script::Append => APPEND.to_owned(),
            Script::Fork => format!("{THOUGH_FULL}{APPEND}"),
            Script::Claim => format!("{THOUGH_FULL}{CLAIM}"),
            Script::Draft => format!("{THOUGH_FULL}{DRAFT}"),
            Script::Rebase => format!("{THOUGH_FULL}{REBASE}"),
            Script::Mark => format!("{THOUGH_FULL}{MARK}"),
        }
    }
}

/// The names of a log's keys.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    prefix: String,
    pub(crate) stream: String,
    pub(crate) meta: String,
    pub(crate) base: String,
}

impl Keys {
    pub(crate) fn new(name: &str) -> Keys {
        let prefix = format!("tidings:{{{name}}}:");
        let key = |what: &str| format!("{prefix}{what}");
        Keys { stream: key("log"), meta: key("meta"), base: key("base"), prefix }
    }

    /// What all of them begin with.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The one that belongs to a node.
    pub(crate) fn of_node(&self, what: &str, node: &str) -> String {
        format!("{}{what}:{node}", self.prefix)
    }
}

/// What a script is given.
pub(crate) enum Arg<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
    Number(u64),
}

/// Runs a script. Its text is sent only to a server that doesn't know it.
pub(crate) fn run(
    connection: &mut impl ConnectionLike,
    script: Script,
    keys: &[&str],
    args: &[Arg<'_>],
) -> Result<Value> {
    let call = |command: &str, what: &str| -> Cmd {
        let mut call = cmd(command);
        call.arg(what).arg(keys.len()).arg(keys);
        for arg in args {
            match arg {
                Arg::Text(text) => call.arg(*text),
                Arg::Bytes(bytes) => call.arg(*bytes),
                Arg::Number(number) => call.arg(*number),
            };
        }
        call
    };
    match call("EVALSHA", script.prepared().get_hash()).query(connection) {
        Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            Ok(call("EVAL", &script.text()).query(connection)?)
        }
        answer => answer.map_err(Trouble::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_has_its_own_sum() {
        for (place, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script as usize, place, "{script:?}");
            assert_eq!(script.prepared().get_hash(), redis::Script::new(&script.text()).get_hash());
        }
    }
}
