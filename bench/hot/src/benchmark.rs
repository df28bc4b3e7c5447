//! What is measured.

mod encode;
mod publish;
mod request;
mod shard;
mod sweep;
mod worker;

use crate::meter::Meter;

/// Does once what is to be measured, and tells the meter which part of it that is.
type Once = Box<dyn FnMut(&mut Meter)>;

/// One thing to be measured.
pub(crate) struct Benchmark {
    pub(crate) name: &'static str,
    /// How often it is done to warm up: until everything that grows is as large as it gets.
    pub(crate) warm_up: usize,
    /// How often it is done and counted.
    pub(crate) rounds: usize,
    /// Prepares it, and returns what is to be done once.
    pub(crate) prepare: fn() -> Once,
}

/// All of them, in the order of the table.
pub(crate) fn all() -> impl Iterator<Item = &'static Benchmark> {
    [encode::ALL, shard::ALL, sweep::ALL, publish::ALL, request::ALL].into_iter().flatten()
}
