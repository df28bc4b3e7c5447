//! The log of Tidings on Redis 7 or Valkey, for any number of nodes that are one hub.
//!
//! **The log entry is the truth, and every node is the same machine over the entries.** One Redis stream holds what
//! was asked for, in one order: batches, notes, removals, rounds of retention, leases, each as it came from a node. Every
//! node reads all of it and does the same steps with the same [`Replica`](tidings_hub::log::Replica), so that all come to
//! the same positions, the same refusals and the same history. Nothing is decided twice, nothing has to be agreed on, and
//! reading history costs Redis nothing: it goes on while Redis is away.
//!
//! # Keys
//!
//! All have one hash tag, so that they lie on one node of a Redis Cluster.
//!
//! - `tidings:{NAME}:log`, the stream. An entry's id is `N-EPOCH`: entries are numbered without a hole, and each says of
//!   which epoch it is. Whoever reads sees by that if anything is missing, or if it is another history than the one that it
//!   knows. An entry has the time of Redis's clock, who sent it with the how-manieth group of that node it is, and one
//!   group commit: the steps that waited in a node at that moment.
//! - `tidings:{NAME}:meta`, a hash: the format, the run of Redis that stored last (`master_replid`, new with every start
//!   and every failover), the last entry and its epoch, the entry up to which `base` goes, and the key of the hub's
//!   cursors.
//! - `tidings:{NAME}:base`, a list: the state after that entry, see [`base`]. Entries up to it are gone from the stream. A
//!   node makes a new one when most of what is stored is not needed any more, in a key of its own that then takes the
//!   place of the old one.
//! - `tidings:{NAME}:bus:DATABASE`, and `tidings:{NAME}:bus:DATABASE:NODE`: no keys, but where nodes speak to each other,
//!   see [`RedisBus`].
//! - `tidings:{NAME}:node:NODE`: the number of the newest group of a node, for an hour.
//! - For a minute: `seen:NODE`, what a node writes to wait for replicas or the disk; `base:NODE:N`, a base that is being
//!   written, the how-manieth of that node; `rebasing:lock`, so that not all nodes write one at once (if they do, one of
//!   them counts).
//!
//! # Who decides what
//!
//! The script that appends (`script.rs`) decides the order, and no more. It begins a new epoch with an entry of its own
//! if the run of Redis is another one than before; it stores no group of a node twice, however often it is sent; it refuses
//! when the log is gone or of another format. All else is decided by the order of the entries, when a node takes one in:
//! positions, ended channels, idempotency keys, leases, what retention removes. A refused batch is an entry that changes
//! nothing.
//!
//! An answer is given when the node that asked has read its own group back. Before it takes in what it read, a node
//! waits until that is as durable as the configuration says (`WAIT`, `WAITAOF`), whoever appended it: so nothing is seen
//! before.
//!
//! A node that finds another history than its own (another epoch, entries that are missing) makes its state anew from
//! `base` and the entries behind it, says [`TailItem::Forked`](tidings_hub::log::TailItem::Forked), and goes on. After
//! `FLUSHALL` the first node that notices begins a new log, in a larger epoch.

mod base;
mod bus;
mod clock;
mod cluster;
mod connect;
mod entry;
mod error;
mod follow;
mod log;
mod pace;
mod queue;
mod rebase;
mod script;
mod step;
mod url;
mod write;

pub use bus::RedisBus;
pub use error::OpenError;
pub use log::{Ack, BadAck, RedisLog, RedisLogConfig};
pub use url::{BadUrl, RedisUrl};

#[cfg(test)]
mod tests;
