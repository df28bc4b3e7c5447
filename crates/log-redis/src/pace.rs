//! How much one read asks for: Redis counts what it hands out, and not its bytes.

/// About how many bytes one read is to return.
const BYTES: u64 = 16 << 20;
/// How many parts one read asks for, at least and at most, if they are small: any may have 16 megabytes.
const PARTS: std::ops::RangeInclusive<u64> = 4..=64;

/// How many parts the next read asks for: as far as they are as large as those of the last one.
#[derive(Debug)]
pub(crate) struct Pace(u64);

impl Pace {
    /// Nothing is known yet.
    pub(crate) fn new() -> Pace {
        Pace(*PARTS.start())
    }

    pub(crate) fn count(&self) -> u64 {
        self.0
    }

    /// What the last read returned. Of the next one twice as many are expected at most, so that a few large ones behind
    /// many small ones don't come all at once.
    pub(crate) fn took(&mut self, parts: usize, bytes: u64) {
        let parts = parts as u64;
        let Some(mean) = bytes.checked_div(parts) else { return };
        let fit = BYTES / mean.max(1);
        self.0 = (2 * parts).clamp(*PARTS.start(), *PARTS.end()).min(fit).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parts_come_in_large_numbers_and_large_ones_alone() {
        let mut pace = Pace::new();
        let mut asked = Vec::new();
        for size in [100, 100, 100, 100, 100, 5 << 20, 16 << 20, 40 << 20, 100, 100] {
            asked.push(pace.count());
            pace.took(pace.count() as usize, pace.count() * size);
        }
        assert_eq!(asked, [4, 8, 16, 32, 64, 64, 3, 1, 1, 4]);
        // Where little comes, and where nothing does.
        pace.took(1, 100);
        pace.took(0, 0);
        assert_eq!(pace.count(), 4);
    }
}
