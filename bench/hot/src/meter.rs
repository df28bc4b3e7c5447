//! Tells what is counted from what is only prepared for it.

use std::hint::black_box;

use allocation_counter::measure;

/// What [`counted`] is called in callgrind's eyes, whatever the compiler adds to it.
pub(crate) const COUNTED: &str = "*tidings_hot*meter*counted*";

/// Counts what is done inside of [`Meter::count`], and nothing else.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    on: bool,
    pub(crate) operations: u64,
    pub(crate) allocations: u64,
}

impl Meter {
    /// From now on it counts; until then the benchmark warms up.
    pub(crate) fn switch_on(&mut self) {
        self.on = true;
    }

    /// Does so many operations. What it returns is dropped by the caller, uncounted.
    pub(crate) fn count<T>(&mut self, operations: u64, work: impl FnOnce() -> T) -> Option<T> {
        if !self.on {
            return Some(work());
        }
        let mut work = Some(work);
        let mut done = None;
        let cost = measure(|| counted(&mut || done = work.take().map(|work| work())));
        self.operations += operations;
        self.allocations += cost.count_total;
        done
    }
}

/// callgrind counts from here to the return.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
    // Were the call above the last thing, this function would have returned before it.
    black_box(());
}
