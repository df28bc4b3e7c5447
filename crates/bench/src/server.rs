//! A server under measurement, started for one run or there already.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::process::{self, Memory};
use crate::scenario::Settings;
use crate::servers::Servers;
use crate::supervisor;
use crate::target::{self, Origin, Process, Target, Values};

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(20);
/// The file in its folder that gets what a server prints.
const OUTPUT: &str = "output";

/// A server that runs. One that was started ends when this is dropped, with all its descendants.
#[derive(Debug)]
pub(crate) struct Server {
    started: Option<Started>,
    /// Its processes that are found by their ids.
    processes: Vec<u32>,
    pub(crate) address: SocketAddr,
    /// What every path begins with.
    pub(crate) base: String,
    pub(crate) ports: [u16; 3],
}

/// What is only of a server that was started.
#[derive(Debug)]
struct Started {
    servers: Servers,
    supervisor: u32,
    /// For its files; the supervisor removes it.
    folder: PathBuf,
}

impl Server {
    /// Starts a target, unless it runs already, and waits until it answers.
    pub(crate) fn start(target: &Target, settings: &Settings) -> Result<Server, BenchError> {
        let failed = |what: String| BenchError::Server { target: target.name.clone(), what };
        let (mut server, process, folder) = match &target.origin {
            Origin::Running { address, base, process } => {
                let mut addresses = address.to_socket_addrs().map_err(|error| failed(error.to_string()))?;
                let address = addresses.next().ok_or_else(|| failed(format!("{address} is no address")))?;
                let ports = [address.port(); 3];
                let server =
                    Server { started: None, processes: Vec::new(), address, base: base.clone(), ports };
                (server, process, PathBuf::new())
            }
            Origin::Command(command) => {
                let ports = free_ports().map_err(BenchError::system("no free port is found"))?;
                let started = Started::new(command, ports, settings, failed)?;
                let folder = started.folder.clone();
                let server = Server {
                    started: Some(started),
                    processes: Vec::new(),
                    address: SocketAddr::from(([127, 0, 0, 1], ports[0])),
                    base: String::new(),
                    ports,
                };
                (server, &command.process, folder)
            }
        };
        server.wait_until_ready(target).map_err(failed)?;
        match process {
            Some(Process::Id(pid)) => server.processes.push(*pid),
            Some(Process::File(file)) => {
                let tmp = folder.to_string_lossy();
                let file = file.fill(&Values { ports: server.ports, tmp: &tmp, ..Values::default() });
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
            let Err(reason) = self.answers(target.ready.as_deref()) else { return Ok(()) };
            let started = self.started.as_ref();
            if started.is_none() {
                return Err(format!("no server answers at {}: {reason}; is it running there?", self.address));
            }
            if let Some(what) = started.and_then(|started| supervisor::failure(&started.folder)) {
                return Err(format!("{what}: {}", self.output()));
            }
            if Instant::now() > deadline {
                let address = self.address;
                return Err(format!(
                    "it does not answer at {address} after 20 s ({reason}): {}",
                    self.output()
                ));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The end of what it printed.
    fn output(&self) -> String {
        let Some(started) = &self.started else { return String::new() };
        let text = fs::read(started.folder.join(OUTPUT)).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(500)..]).trim().to_owned()
    }

    /// Whether it answers, or why not.
    fn answers(&self, ready: Option<&str>) -> Result<(), String> {
        let ask = || -> std::io::Result<Option<[u8; 12]>> {
            let mut socket = TcpStream::connect_timeout(&self.address, Duration::from_secs(1))?;
            let Some(path) = ready else { return Ok(None) };
            let host = self.host();
            let request =
                format!("GET {}{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n", self.base);
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            socket.write_all(request.as_bytes())?;
            let mut status = [0; 12];
            socket.read_exact(&mut status)?;
            Ok(Some(status))
        };
        match ask() {
            Err(error) => Err(error.to_string()),
            Ok(Some(status)) if !(b'1'..b'5').contains(&status[9]) => {
                Err(format!("it says {:?}", String::from_utf8_lossy(&status)))
            }
            Ok(_) => Ok(()),
        }
    }

    /// The header `Host` of requests to it.
    pub(crate) fn host(&self) -> String {
        format!("localhost:{}", self.address.port())
    }

    /// The CPU time that it has used so far, with all its descendants.
    pub(crate) fn cpu(&self) -> Duration {
        process::cpu(&process::tree(&self.roots()))
    }

    /// The same since it had used so much. Never less than nothing, should a process end that nobody waits for.
    pub(crate) fn cpu_since(&self, before: Duration) -> f64 {
        self.cpu().saturating_sub(before).as_secs_f64()
    }

    /// What it holds, with all its descendants.
    pub(crate) fn memory(&self) -> Memory {
        process::memory(&process::tree(&self.roots()))
    }

    /// The processes from which all others of it descend.
    fn roots(&self) -> Vec<u32> {
        // What supervises it is none of its own.
        let started = self.started.iter().flat_map(|started| process::children(started.supervisor));
        started.chain(self.processes.iter().copied()).collect()
    }

    /// Whether its processes are known, so that CPU and memory can be told.
    pub(crate) fn is_accounted(&self) -> bool {
        self.started.is_some() || !self.processes.is_empty()
    }
}

impl Started {
    fn new(
        command: &target::Command,
        ports: [u16; 3],
        settings: &Settings,
        failed: impl Fn(String) -> BenchError,
    ) -> Result<Started, BenchError> {
        let tmp = tempfile::Builder::new().prefix("tidings-bench-").tempdir_in(&settings.data_dir);
        let tmp = tmp.map_err(BenchError::system("a folder for the server can't be made"))?;
        let path = tmp.path().to_string_lossy().into_owned();
        let values = Values { ports, tmp: &path, ..Values::default() };
        let log =
            File::create(tmp.path().join(OUTPUT)).map_err(BenchError::system("a file can't be made"))?;
        let log_too = log.try_clone().map_err(BenchError::system("a file can't be opened twice"))?;
        let mut words = settings.supervisor.iter();
        let mut process = Command::new(words.next().map_or("", String::as_str));
        process.args(words).arg("--folder").arg(tmp.path()).arg("--");
        // This process may be pinned to the clients' processors, which the server would inherit.
        if let Some(cpus) = settings.server_cpus.as_ref().or(settings.unpinned.as_ref()) {
            process.args(["taskset", "-c", cpus]);
        }
        process.args(command.argv.iter().map(|word| word.fill(&values)));
        process.current_dir(&command.dir).process_group(0);
        process.stdin(Stdio::piped()).stdout(log).stderr(log_too);
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
        let servers = settings.servers.clone();
        let supervisor = servers
            .start(&mut process)
            .map_err(|error| failed(format!("it can't be started in {}: {error}", command.dir.display())))?;
        Ok(Started { servers, supervisor, folder: tmp.keep() })
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // Its own descendants, never a process that only a file or a person named.
        self.servers.end(self.supervisor);
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
