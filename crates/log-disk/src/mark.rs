//! The head mark: what this log has come to, kept apart from the database.
//!
//! The database alone can't tell that it is an older copy of itself, or that the end of its write-ahead log was lost:
//! SQLite takes what it finds for all there was. The mark says what there has to be. Only if it says that the last
//! process ended in order, at exactly the record that is found, does the present epoch go on; anything else (a
//! killed process, a lost tail, a restored copy, a missing mark) begins a new one, so that no position is ever given
//! to two events. Whoever restores a whole directory removes the mark.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use tidings_wire::{Epoch, Position, Sequence};

use crate::dir::sync_directory;

/// What the mark says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The newest record; while a process runs, one that is at most a moment old.
    pub(crate) head: Position,
    /// The place where that epoch forked off.
    pub(crate) start: Sequence,
    /// Whether the process ended in order.
    pub(crate) clean: bool,
}

const MAGIC: [u8; 4] = *b"tdgM";
/// magic, clean, epoch, start, head, counter, CRC of all that.
const SLOT: usize = 4 + 4 + 4 + 8 + 8 + 8 + 4;
/// Slots lie in different sectors, so that a torn write damages one of them only.
const STRIDE: u64 = 4096;

/// The file, of two slots that are written in turn: one of them is always whole.
#[derive(Debug)]
pub(crate) struct MarkFile {
    file: File,
    counter: u64,
}

impl MarkFile {
    /// Opens the file, and says what it said: `None` if it is new or no slot of it is whole.
    pub(crate) fn open(dir: &Path) -> io::Result<(MarkFile, Option<Mark>)> {
        let path = dir.join("head");
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        sync_directory(dir)?;
        let newest = [0, 1].into_iter().filter_map(|slot| read_slot(&file, slot)).max_by_key(|slot| slot.0);
        let counter = newest.map_or(0, |(counter, _)| counter);
        Ok((MarkFile { file, counter }, newest.map(|(_, mark)| mark)))
    }

    /// Writes the mark; the system stores it when it likes.
    pub(crate) fn note(&mut self, mark: Mark) -> io::Result<()> {
        self.counter += 1;
        self.file.write_all_at(&encode(self.counter, mark), (self.counter % 2) * STRIDE)
    }

    /// Writes the mark and waits until it is stored.
    pub(crate) fn store(&mut self, mark: Mark) -> io::Result<()> {
        self.note(mark)?;
        self.file.sync_all()
    }
}

fn encode(counter: u64, mark: Mark) -> [u8; SLOT] {
    let mut slot = [0; SLOT];
    slot[..4].copy_from_slice(&MAGIC);
    slot[4..8].copy_from_slice(&u32::from(mark.clean).to_le_bytes());
    slot[8..12].copy_from_slice(&mark.head.epoch.0.to_le_bytes());
    slot[12..20].copy_from_slice(&mark.start.0.to_le_bytes());
    slot[20..28].copy_from_slice(&mark.head.sequence.0.to_le_bytes());
    slot[28..36].copy_from_slice(&counter.to_le_bytes());
    let crc = crc32fast::hash(&slot[..36]);
    slot[36..].copy_from_slice(&crc.to_le_bytes());
    slot
}

fn read_slot(file: &File, slot: u64) -> Option<(u64, Mark)> {
    let mut bytes = [0; SLOT];
    file.read_exact_at(&mut bytes, slot * STRIDE).ok()?;
    let u32_at = |at: usize| bytes[at..at + 4].try_into().ok().map(u32::from_le_bytes);
    let u64_at = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
    if bytes[..4] != MAGIC || u32_at(36)? != crc32fast::hash(&bytes[..36]) {
        return None;
    }
    let head = Position { epoch: Epoch(u32_at(8)?), sequence: Sequence(u64_at(20)?) };
    Some((u64_at(28)?, Mark { head, start: Sequence(u64_at(12)?), clean: u32_at(4)? == 1 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(head: u64) -> Mark {
        let head = Position { epoch: Epoch(3), sequence: Sequence(head) };
        Mark { head, start: Sequence(2), clean: head.sequence.0.is_multiple_of(3) }
    }

    #[test]
    fn the_newest_whole_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, found) = MarkFile::open(dir.path()).unwrap();
        assert_eq!(found, None);
        for head in 1..=7 {
            file.store(mark(head)).unwrap();
            let (_, found) = MarkFile::open(dir.path()).unwrap();
            assert_eq!(found, Some(mark(head)));
        }
        // The last write is torn at any byte: the one before it counts, or the last if it was whole already.
        let whole = std::fs::read(dir.path().join("head")).unwrap();
        let last = STRIDE as usize;
        for torn in last..last + SLOT {
            let mut bytes = whole.clone();
            bytes[torn] ^= 1;
            std::fs::write(dir.path().join("head"), &bytes).unwrap();
            assert_eq!(MarkFile::open(dir.path()).unwrap().1, Some(mark(6)), "byte {torn}");
        }
        std::fs::write(dir.path().join("head"), "").unwrap();
        assert_eq!(MarkFile::open(dir.path()).unwrap().1, None);
    }
}
