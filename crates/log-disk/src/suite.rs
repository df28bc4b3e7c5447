//! The suite that every log runs, and what is the disk's own.

use std::sync::Arc;

use tempfile::TempDir;
use tidings_hub::Timestamp;
use tidings_hub::log::suite::Logs;
use tidings_hub::log::{Log, Retention};

use crate::{DataDir, DiskLog, DiskLogConfig, SyncPolicy};

/// Each log in a directory of its own.
struct OnDisk {
    dirs: Vec<(TempDir, Retention)>,
}

impl OnDisk {
    fn new() -> OnDisk {
        OnDisk { dirs: Vec::new() }
    }

    fn open(&self) -> Arc<dyn Log> {
        let (dir, retention) = self.dirs.last().unwrap();
        let config = DiskLogConfig {
            retention: retention.clone(),
            // The suite is about what is answered; what outlives a loss of power has tests of its own.
            sync: SyncPolicy::Never,
            reserve_bytes: 0,
            ..DiskLogConfig::new(DataDir::open(dir.path()).unwrap())
        };
        Arc::new(DiskLog::open(config, Timestamp(1_763_645_351_000)).unwrap())
    }
}

impl Logs for OnDisk {
    fn create(&mut self, retention: Retention) -> Arc<dyn Log> {
        self.dirs.push((tempfile::tempdir().unwrap(), retention));
        self.open()
    }

    fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log> {
        log.close();
        drop(log);
        self.open()
    }
}

tidings_hub::log_suite!(OnDisk::new());
