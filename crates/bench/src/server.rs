//! A server under measurement, started for one run or there already.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::error::BenchError;
use crate::process::{self, Usage};
use crate::target::{Origin, Process, Target, Values};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);

/// A server that runs. One that was started ends when this is dropped, with all its descendants.
#[derive(Debug)]
pub(crate) struct Server {
    child: Option<Child>,
    processes: Vec<u32>,
    pub(crate) address: SocketAddr,
    /// What every path begins with.
    pub(crate) base: String,
    pub(crate) ports: [u16; 3],
    /// Held for its files.
    tmp: tempfile::TempDir,
}

impl Server {
    /// Starts a target, pinned to processors if they are given as `taskset` takes them, and waits until it answers.
    pub(crate) fn start(target: &Target, cpus: Option<&str>) -> Result<Server, BenchError> {
        let failed = |what: String| BenchError::Server { target: target.name.clone(), what };
        let tmp = tempfile::tempdir().map_err(BenchError::system("a temporary folder can't be made"))?;
        let path = tmp.path().to_string_lossy().into_owned();
        let ports = free_ports().map_err(BenchError::system("no free port is found"))?;
        let values = Values { ports, tmp: &path, ..Values::default() };
        let mut server = match &target.origin {
            Origin::Running { address, base, .. } => {
                let mut addresses = address.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
                let address = addresses.next().ok_or_else(|| failed(format!("{address} is no address")))?;
                let port = address.port();
                Server {
                    child: None,
                    processes: Vec::new(),
                    address,
                    base: base.clone(),
                    ports: [port; 3],
                    tmp,
                }
            }
            Origin::Command(command) => {
                let mut argv: Vec<String> = command.argv.iter().map(|word| word.fill(&values)).collect();
                if let Some(cpus) = cpus {
                    argv.splice(0..0, ["taskset".to_owned(), "-c".to_owned(), cpus.to_owned()]);
                }
                let log = File::create(tmp.path().join("output"))
                    .map_err(BenchError::system("a file can't be made"))?;
                let log_too = log.try_clone().map_err(BenchError::system("a file can't be opened twice"))?;
                let mut process = Command::new(&argv[0]);
                process.args(&argv[1..]).current_dir(&command.dir).process_group(0);
                process.stdin(Stdio::null()).stdout(log).stderr(log_too);
                for (name, value) in [("PORT", 0), ("PORT2", 1), ("PORT3", 2)] {
                    process.env(name, ports[value].to_string());
                }
                process.env("TMP", &path);
                // What the user has set for a server of their own is not for this one.
                for (name, _) in
                    std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TIDINGS_"))
                {
                    process.env_remove(name);
                }
                process.envs(command.env.iter().map(|(name, value)| (name, value.fill(&values))));
                let child = process.spawn().map_err(|error| failed(format!("{:?}: {error}", argv[0])))?;
                Server {
                    processes: vec![child.id()],
                    child: Some(child),
                    address: SocketAddr::from(([127, 0, 0, 1], ports[0])),
                    base: String::new(),
                    ports,
                    tmp,
                }
            }
        };
        server.wait_until_ready(target).map_err(failed)?;
        let process = match &target.origin {
            Origin::Command(command) => &command.process,
            Origin::Running { process, .. } => process,
        };
        match process {
            Some(Process::Id(pid)) => server.processes.push(*pid),
            Some(Process::File(file)) => {
                let file = file.fill(&values);
                let text = fs::read_to_string(&file).map_err(|error| failed(format!("{file}: {error}")))?;
                let pid = text.trim().parse().map_err(|_| failed(format!("{file} holds no process id")))?;
                server.processes.push(pid);
            }
            None => {}
        }
        Ok(server)
    }

    fn wait_until_ready(&mut self, target: &Target) -> Result<(), String> {
        let deadline = Instant::now() + START;
        loop {
            if self.answers(target.ready.as_deref()) {
                return Ok(());
            }
            if let Some(child) = &mut self.child
                && let Ok(Some(status)) = child.try_wait()
                && !status.success()
            {
                return Err(format!("it ended with {status}: {}", self.output()));
            }
            if Instant::now() > deadline {
                return Err(format!("it does not answer at {} after 20 s: {}", self.address, self.output()));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what it printed.
    fn output(&self) -> String {
        let text = fs::read(self.tmp.path().join("output")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(500)..]).trim().to_owned()
    }

    fn answers(&self, ready: Option<&str>) -> bool {
        let Ok(mut socket) = TcpStream::connect_timeout(&self.address, Duration::from_secs(1)) else {
            return false;
        };
        let Some(path) = ready else { return true };
        let request =
            format!("GET {}{path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.base, self.host());
        let mut status = [0; 12];
        let answered = socket.set_read_timeout(Some(Duration::from_secs(2))).is_ok()
            && socket.write_all(request.as_bytes()).is_ok()
            && socket.read_exact(&mut status).is_ok();
        answered && (b'1'..b'5').contains(&status[9])
    }

    /// The header `Host` of requests to it.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// What it holds and has used so far, with all its descendants.
    pub(crate) fn usage(&self) -> Usage {
        process::usage(&process::tree(&self.processes))
    }

    /// Whether its processes are known, so that CPU and memory can be told.
    pub(crate) fn is_accounted(&self) -> bool {
        !self.processes.is_empty()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // Its own descendants, never a process that only a file or a person named. Those that have left the group are
        // killed by their ids.
        let all = process::tree(&[child.id()]);
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        for pid in all.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let _ = child.wait();
    }
}

fn free_ports() -> std::io::Result<[u16; 3]> {
    let held = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0"));
    let mut ports = [0; 3];
    for (port, listener) in ports.iter_mut().zip(held) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}
