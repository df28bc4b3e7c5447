//! What ends a benchmark before it is done: Ctrl-C, a stop, a terminal that is closed.

use std::fs;
use std::process;
use std::thread;

use anyhow::{Context, Result};
use tidings_bench::Servers;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Ends the servers and then this process, with the code that shells give a signal, once one comes. From here on.
pub(super) fn heed(servers: Servers) -> Result<()> {
    let failed = "signals can't be heeded";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context(failed)?;
    let ignored = ignored();
    let on = |kind: SignalKind| -> Result<Option<Signal>> {
        // `nohup`, and a script's `&`, mean it.
        let wanted = ignored >> (kind.as_raw_value() - 1) & 1 == 0;
        wanted.then(|| signal(kind)).transpose().context(failed)
    };
    let inside = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [interrupt, terminate, hangup] = [on(kinds[0])?, on(kinds[1])?, on(kinds[2])?];
    drop(inside);
    thread::spawn(move || {
        let kind = runtime.block_on(async {
            tokio::select! {
                () = come(interrupt) => kinds[0],
                () = come(terminate) => kinds[1],
                () = come(hangup) => kinds[2],
            }
        });
        let _none_is_started = servers.end_all();
        process::exit(128 + kind.as_raw_value());
    });
    Ok(())
}

async fn come(signal: Option<Signal>) {
    if let Some(mut signal) = signal
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending().await
}

/// The signals that this process was started to ignore, signal 1 as the lowest bit (proc_pid_status(5)).
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}
