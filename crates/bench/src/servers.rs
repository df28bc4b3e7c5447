//! The servers that this process has started.

use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every server that was started and has not ended. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Servers {
    supervisors: Arc<Mutex<Vec<Child>>>,
}

/// All servers have ended. While this is held none is started, and who wants to end one waits.
#[derive(Debug)]
pub struct Ended<'a>(#[allow(dead_code, reason = "it is held, not read")] MutexGuard<'a, Vec<Child>>);

impl Servers {
    /// Starts a supervisor, whose standard input is a pipe: which one it is.
    pub(crate) fn start(&self, supervisor: &mut Command) -> io::Result<u32> {
        let mut supervisors = self.lock();
        let child = supervisor.spawn()?;
        let id = child.id();
        supervisors.push(child);
        Ok(id)
    }

    /// Ends one, and waits until it and its server are gone.
    pub(crate) fn end(&self, id: u32) {
        let mut supervisors = self.lock();
        if let Some(at) = supervisors.iter().position(|child| child.id() == id) {
            // Waiting closes the pipe first.
            let _ = supervisors.swap_remove(at).wait();
        }
    }

    /// Ends all of them, for a process that is about to exit.
    pub fn end_all(&self) -> Ended<'_> {
        let mut supervisors = self.lock();
        let inputs: Vec<_> = supervisors.iter_mut().map(|child| child.stdin.take()).collect();
        drop(inputs);
        for mut child in supervisors.drain(..) {
            let _ = child.wait();
        }
        Ended(supervisors)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Child>> {
        self.supervisors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
