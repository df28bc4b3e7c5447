//! Where files are.

use std::path::Path;

/// `TMPFS_MAGIC` and `RAMFS_MAGIC` (statfs(2)).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// Whether what is written to this folder stays in memory, so that a sync costs nothing.
pub(crate) fn is_in_memory(folder: &Path) -> bool {
    // The type's width differs from system to system; the numbers have 32 bits.
    rustix::fs::statfs(folder).is_ok_and(|found| IN_MEMORY.contains(&(found.f_type as u32)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::is_in_memory;

    #[test]
    fn memory_is_told_from_disks() {
        assert!(is_in_memory(Path::new("/dev/shm")));
        assert!(!is_in_memory(Path::new("/proc")) && !is_in_memory(Path::new("/nowhere")));
    }
}
