//! Processes under measurement, by the system's own accounting in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// What processes hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Anonymous memory in bytes: what programs hold, without what the kernel holds for their sockets.
    pub(crate) anonymous: u64,
    /// Resident memory in bytes: the same, and their files.
    pub(crate) resident: u64,
}

/// The children of a process.
pub(crate) fn children(of: u32) -> Vec<u32> {
    by_parent().remove(&of).unwrap_or_default()
}

/// All processes of the machine, by their parents.
fn by_parent() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            && let Some(stat) = stat(pid)
        {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    children
}

/// A process and all that descend from it.
pub(crate) fn tree(roots: &[u32]) -> Vec<u32> {
    let mut children = by_parent();
    let mut all: Vec<u32> = roots.to_vec();
    let mut at = 0;
    while at < all.len() {
        for child in children.remove(&all[at]).unwrap_or_default() {
            if !all.contains(&child) {
                all.push(child);
            }
        }
        at += 1;
    }
    all
}

/// The CPU time, user and system, that these processes have used, and those of their children that have ended: a server
/// may end and start processes at any time, and what it has used does not become less by that.
pub(crate) fn cpu(processes: &[u32]) -> Duration {
    processes.iter().filter_map(|pid| stat(*pid)).map(|stat| stat.cpu + stat.ended).sum()
}

/// What these processes hold; those that are gone count nothing.
pub(crate) fn memory(processes: &[u32]) -> Memory {
    let mut total = Memory::default();
    for &pid in processes {
        if let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) {
            total.anonymous += field(&status, "RssAnon:");
            total.resident += field(&status, "VmRSS:");
        }
    }
    total
}

/// The CPU time of this process, without its children's.
pub(crate) fn own_cpu() -> Duration {
    stat(std::process::id()).map(|stat| stat.cpu).unwrap_or_default()
}

struct Stat {
    parent: u32,
    cpu: Duration,
    /// That of its children that have ended and were waited for.
    ended: Duration,
}

fn stat(pid: u32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |n: usize| fields.get(n)?.parse::<u64>().ok();
    // In ticks of 10 ms (proc_pid_stat(5); USER_HZ is 100 on Linux).
    let ticks = |ticks: u64| Duration::from_millis(ticks * 10);
    Some(Stat {
        parent: u32::try_from(field(1)?).ok()?,
        // utime and stime, cutime and cstime.
        cpu: ticks(field(11)? + field(12)?),
        ended: ticks(field(13)? + field(14)?),
    })
}

/// A line of /proc/PID/status or /proc/meminfo, in bytes.
pub(crate) fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{cpu, memory, tree};

    #[test]
    fn this_process_is_found_with_its_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let this = std::process::id();
        let all = tree(&[this]);
        assert!(all.contains(&this) && all.contains(&child.id()));
        let held = memory(&all);
        assert!(held.anonymous > 0 && held.resident >= held.anonymous);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn what_a_child_has_used_still_counts_when_it_has_ended() {
        let script = "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done); echo ended; exec sleep 60";
        let mut parent = Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let all = tree(&[parent.id()]);
        assert_eq!(all, [parent.id()]);
        assert!(cpu(&all) >= Duration::from_millis(50), "{:?}", cpu(&all));
        parent.kill().unwrap();
        parent.wait().unwrap();
    }
}
