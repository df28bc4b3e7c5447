//! The cheap way: how often does the mark come?

use memchr::memmem::Finder;

/// Counts the marks of one stream, also those that are split over two reads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counter {
    /// So much of the mark's beginning is what was read last.
    matched: u8,
}

impl Counter {
    /// How many marks end in these bytes.
    pub(crate) fn count(&mut self, mark: &Finder<'_>, bytes: &[u8]) -> u64 {
        let needle = mark.needle();
        let mut count = 0;
        let mut rest = bytes;
        if let Some(length) = self.completed_by(needle, bytes) {
            count += 1;
            rest = &bytes[length..];
            self.matched = 0;
        }
        let mut from = 0;
        while let Some(at) = mark.find(&rest[from..]) {
            count += 1;
            from += at + needle.len();
        }
        self.matched =
            self.beginning_at_the_end(needle, &rest[from..], rest.len() == bytes.len() && from == 0);
        count
    }

    /// How many of these bytes complete a mark that began in the bytes before.
    fn completed_by(self, needle: &[u8], bytes: &[u8]) -> Option<usize> {
        let before = &needle[..usize::from(self.matched)];
        (1..=before.len()).rev().find_map(|length| {
            let missing = &needle[length..];
            (before.ends_with(&needle[..length]) && bytes.starts_with(missing)).then_some(missing.len())
        })
    }

    /// How much of a mark's beginning ends these bytes, and those before if they belong together.
    fn beginning_at_the_end(self, needle: &[u8], bytes: &[u8], joined: bool) -> u8 {
        let before = if joined { &needle[..usize::from(self.matched)] } else { &[] };
        let longest = (needle.len() - 1).min(before.len() + bytes.len());
        let length = (1..=longest).rev().find(|&length| {
            let wanted = &needle[..length];
            if length <= bytes.len() {
                bytes.ends_with(wanted)
            } else {
                let (first, second) = wanted.split_at(length - bytes.len());
                before.ends_with(first) && bytes == second
            }
        });
        // A mark is a few characters; a longer one than 255 is refused with the target.
        u8::try_from(length.unwrap_or(0)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use memchr::memmem::Finder;

    use super::Counter;

    #[test]
    fn marks_count_wherever_reads_are_split() {
        for (mark, text, expected) in [
            ("@@", "data: @@1 2 3 xx;\n\ndata: @@1 3 4 x;\n\n", 2),
            ("aab", "aaabaabaab ab aaab", 4),
            ("\nid: ", "\n\nid: 1\n\nid: 2\n\n\nid:", 2),
        ] {
            let finder = Finder::new(mark);
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let mut counter = Counter::default();
                    let pieces = [&text[..first], &text[first..second], &text[second..]];
                    let count: u64 =
                        pieces.iter().map(|piece| counter.count(&finder, piece.as_bytes())).sum();
                    assert_eq!(count, expected, "{mark:?} in {pieces:?}");
                }
            }
        }
    }
}
