//! A process between the benchmark and a server that it measures, so that the server ends with the benchmark.
//!
//! The benchmark may end in any way, `kill -9` among them, and neither the server nor its files may stay. So what starts
//! the server is a process of its own, whose standard input is a pipe from the benchmark: when that ends, the supervisor
//! ends the server with all its descendants and removes its folder. It has a process group of its own, so that a
//! terminal's Ctrl-C does not end it before it has done that.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};

use crate::process;

/// The file in the server's folder that says how it ended, if it failed.
const FAILURE: &str = "failure";
/// After which time a process that was killed and does not end is left to the system.
const END: Duration = Duration::from_secs(10);

/// Is a supervisor until the standard input ends: runs the command, then ends all that came of it and removes the folder.
///
/// # Errors
///
/// When the system refuses what it takes, or the folder can't be removed.
pub fn supervise(folder: &Path, command: &[OsString]) -> io::Result<()> {
    // What leaves its parent, as daemons do, becomes a child of this process, and is found.
    set_child_subreaper(Some(getpid()))?;
    let (program, arguments) = command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut server = Command::new(program);
    server.args(arguments).stdin(Stdio::null()).process_group(0);
    let file = folder.to_owned();
    let waiting = match server.spawn() {
        Ok(mut child) => Some(thread::spawn(move || match child.wait() {
            Ok(status) if !status.success() => say(&file, &format!("it ended with {status}")),
            _ => Ok(()),
        })),
        Err(error) => {
            say(folder, &format!("{program:?} can't be started: {error}"))?;
            None
        }
    };
    // Nothing is ever written there.
    let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    if end_descendants()
        && let Some(waiting) = waiting
    {
        // Or it could write into the folder while that is removed.
        let _ = waiting.join();
    }
    fs::remove_dir_all(folder)
}

/// How the server of this folder failed, if it has.
pub(crate) fn failure(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join(FAILURE)).ok()
}

fn say(folder: &Path, what: &str) -> io::Result<()> {
    // It is there as a whole or not at all.
    let draft = folder.join("failure.new");
    fs::write(&draft, what)?;
    fs::rename(draft, folder.join(FAILURE))
}

/// Whether all have ended.
fn end_descendants() -> bool {
    let this = std::process::id();
    let deadline = Instant::now() + END;
    loop {
        // Again each time: what a process has started just before it was killed is a child of this one now.
        for pid in process::tree(&[this]).into_iter().filter(|pid| *pid != this) {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        match wait(WaitOptions::NOHANG) {
            Err(Errno::CHILD) => return true,
            Ok(Some(_)) => {}
            _ if Instant::now() > deadline => return false,
            _ => thread::sleep(Duration::from_millis(2)),
        }
    }
}
