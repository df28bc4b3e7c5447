//! Space kept in reserve, so that a full disk is noticed before it happens, and records can still be removed then.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How large SQLite's pages are.
pub(crate) const PAGE: u64 = 4_096;

/// A file that takes up space until that is needed.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    reserve: PathBuf,
    size: u64,
    held: bool,
}

impl Space {
    /// Takes `size` bytes in reserve, if there are that many.
    pub(crate) fn new(dir: &Path, size: u64) -> Space {
        let reserve = dir.join("reserve");
        let held = size == 0 || fs::metadata(&reserve).is_ok_and(|file| file.len() == size);
        let mut space = Space { dir: dir.to_owned(), reserve, size, held };
        if !held {
            // A part of one, from a process that was killed while it wrote.
            let _ = fs::remove_file(&space.reserve);
            space.restore();
        }
        space
    }

    /// Gives away what a process before took in reserve. Says whether there was something.
    pub(crate) fn give_up(dir: &Path) -> bool {
        let reserve = dir.join("reserve");
        fs::metadata(&reserve).is_ok_and(|file| file.len() > 0) && fs::remove_file(reserve).is_ok()
    }

    /// What has to be free beside what is written, for the pages around it.
    fn margin(&self) -> u64 {
        self.size / 4
    }

    /// How many bytes the file system has for this process.
    fn free(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Whether so many bytes can be stored and the log's own work still goes on. `pending`: how many bytes the
    /// write-ahead log has for the database. `inside`: how many bytes are free inside the database, asked for only
    /// when it matters.
    pub(crate) fn has_room(&self, bytes: u64, pending: u64, inside: impl FnOnce() -> u64) -> bool {
        // What comes is written twice, to the write-ahead log and from there into the database. A reserve that was
        // given away is taken again first: nothing new lives on it.
        let missing = if self.held { 0 } else { self.size };
        let needed = [missing, self.margin(), pending, bytes.saturating_mul(2)]
            .into_iter()
            .fold(0, u64::saturating_add);
        // What can't be asked is found out by writing.
        self.free().map_or(true, |free| free >= needed || free.saturating_add(inside()) >= needed)
    }

    /// Gives the reserve away, so that records can be removed: SQLite writes for that too.
    /// Says whether there was one.
    pub(crate) fn release(&mut self) -> bool {
        let released = self.held && self.size > 0 && fs::remove_file(&self.reserve).is_ok();
        self.held &= !released;
        released
    }

    /// How many pages the write-ahead log may have when it is copied into the database, which may grow by as many:
    /// half of the reserve, and at most 16 MB, so that one copy doesn't keep appends waiting for long.
    pub(crate) fn checkpoint_pages(&self) -> u64 {
        (self.size / 2 / PAGE).clamp(256, 4_096)
    }

    /// Takes the reserve again, once there is enough space for it.
    pub(crate) fn restore(&mut self) {
        if !self.held && self.free().is_ok_and(|free| free >= self.size.saturating_add(self.margin())) {
            self.held = self.fill().is_ok();
            if !self.held {
                let _ = fs::remove_file(&self.reserve);
            }
        }
    }

    /// Written, not only claimed: a sparse file reserves nothing.
    fn fill(&self) -> io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.reserve)?;
        let block = vec![0xA5; 64 * 1024];
        let mut left = self.size;
        while left > 0 {
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(block.len());
            file.write_all(&block[..part])?;
            left -= part as u64;
        }
        file.sync_all()
    }
}
