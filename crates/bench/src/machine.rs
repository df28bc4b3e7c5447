//! The machine that something was measured on, as the system tells it.

use std::fs;

use crate::process;
use crate::results::Machine;
use crate::scenario::Settings;

/// The machine that this runs on.
pub fn machine(settings: &Settings) -> Machine {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let name = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        processor: name.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
        cores: cpus.lines().filter(|line| line.starts_with("processor")).count(),
        memory: process::line(&read("/proc/meminfo"), "MemTotal:").unwrap_or_default(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        server_cpus: settings.server_cpus.clone(),
        client_cpus: settings.client_cpus.clone(),
    }
}
