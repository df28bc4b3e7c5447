//! A server under measurement, by the system's own accounting.

use std::fs;
use std::net::SocketAddr;
use std::process::Child;
use std::time::Duration;

use anyhow::Context;

/// A server that was started for one run, and ends with it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn new(child: Child, address: SocketAddr) -> Server {
        Server { child, address }
    }

    /// Anonymous memory in bytes: what the program holds, without what the kernel holds for its sockets.
    pub(crate) fn memory(&self) -> anyhow::Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: f64 = line
            .and_then(|line| line.trim().strip_suffix(" kB"))
            .context("the system tells a process's anonymous memory")?
            .parse()?;
        Ok(kilobytes * 1024.0)
    }

    /// CPU time of all threads, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("a stat line has a name in brackets")?;
        let field = |n: usize| -> anyhow::Result<u64> {
            Ok(fields.split_whitespace().nth(n).context("a stat line has its times")?.parse()?)
        };
        // utime and stime, in ticks of 10 ms (proc(5); USER_HZ is 100 on Linux).
        Ok(Duration::from_millis((field(11)? + field(12)?) * 10))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
