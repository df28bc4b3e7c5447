//! The data directory: one process at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::OpenError;

/// The directory in which a server keeps all that outlives it, locked against every other process for as long as a
/// clone of this lives.
///
/// Whoever writes anything there opens this first. Who only reads (a command that signs a token with the server's
/// secret) needs no lock.
#[derive(Debug, Clone)]
pub struct DataDir {
    path: PathBuf,
    /// Its lock ends with the file, and the file with the process, however that ends.
    _lock: Arc<File>,
}

impl DataDir {
    /// Makes the directory if it isn't there, readable for its owner only, and locks it.
    ///
    /// # Errors
    /// When another process has it, or it can't be made or written to.
    pub fn open(path: impl Into<PathBuf>) -> Result<DataDir, OpenError> {
        let path = path.into();
        let failed = |error: io::Error| OpenError::Directory { path: path.clone(), error };
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
            // The parents' entries too have to outlive a loss of power: else a synced log is in no directory.
            for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
                if sync_directory(parent).is_err() {
                    break;
                }
            }
        }
        let mode = fs::metadata(&path).map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed)?;
        }
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDir { path, _lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(OpenError::InUse { path }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes what was created in or removed from a directory outlive a loss of power.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner_and_is_its_owners_only() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(matches!(DataDir::open(&path), Err(OpenError::InUse { .. })));
        let clone = dir.clone();
        drop(dir);
        assert!(matches!(DataDir::open(&path), Err(OpenError::InUse { .. })));
        drop(clone);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_file_in_its_place_is_said() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, "").unwrap();
        assert!(matches!(DataDir::open(&path), Err(OpenError::Directory { .. })));
    }
}
