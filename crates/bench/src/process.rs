//! Processes under measurement, by the system's own accounting in `/proc`.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// What processes hold, in bytes. Of what several share each counts its part, so that a sum counts it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Memory {
    /// All that is resident, their files included.
    pub(crate) all: u64,
    /// Anonymous and shared memory: what programs hold, without their files, and without what the kernel holds for their
    /// sockets.
    pub(crate) own: u64,
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

/// What these processes hold; those that are gone count nothing. Takes the system a while, as it walks through all their
/// pages: nothing for the middle of a measurement.
pub(crate) fn memory(processes: &[u32]) -> Memory {
    let mut total = Memory::default();
    for pid in processes {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let held = shares(&read("smaps_rollup")).or_else(|| resident(&read("status"))).unwrap_or_default();
        total.all += held.all;
        total.own += held.own;
    }
    total
}

/// By `/proc/PID/smaps_rollup`, which may be another user's, or not be there.
fn shares(rollup: &str) -> Option<Memory> {
    let own = line(rollup, "Pss_Anon:")? + line(rollup, "Pss_Shmem:")?;
    Some(Memory { all: line(rollup, "Pss:")?, own })
}

/// By `/proc/PID/status`, where what is shared counts for each.
fn resident(status: &str) -> Option<Memory> {
    let own = line(status, "RssAnon:")? + line(status, "RssShmem:")?;
    Some(Memory { all: line(status, "VmRSS:")?, own })
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

/// A line of /proc/PID/status, smaps_rollup or /proc/meminfo, in bytes.
pub(crate) fn line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{Memory, cpu, memory, resident, shares, tree};

    #[test]
    fn this_process_is_found_with_its_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let this = std::process::id();
        let all = tree(&[this]);
        assert!(all.contains(&this) && all.contains(&child.id()));
        let held = memory(&all);
        assert!(held.own > 0 && held.all >= held.own);
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

    #[test]
    fn memory_that_is_shared_counts_once() {
        let rollup = "55d0-7ffd ---p 00000000 00:00 0    [rollup]\nRss:   9 kB\nPss:   6 kB\nPss_Dirty: 1 kB\n\
                      Pss_Anon:   3 kB\nPss_File:   1 kB\nPss_Shmem:  2 kB\n";
        assert_eq!(shares(rollup), Some(Memory { all: 6 << 10, own: 5 << 10 }));
        let status = "VmRSS:\t    9 kB\nRssAnon:\t    4 kB\nRssFile:\t 3 kB\nRssShmem:\t 2 kB\n";
        assert_eq!(resident(status), Some(Memory { all: 9 << 10, own: 6 << 10 }));
        // Kernels before 5.4 don't part it, and that of others is empty.
        assert_eq!(shares("Rss: 9 kB\nPss: 6 kB\n"), None);
        assert_eq!(shares(""), None);
    }

    #[test]
    fn this_process_can_be_looked_at_closely() {
        let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        assert!(shares(&rollup).is_some_and(|held| held.own > 0 && held.all > held.own), "{rollup}");
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(resident(&status).is_some_and(|held| held.own > 0 && held.all > held.own), "{status}");
    }
}
