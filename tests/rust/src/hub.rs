//! The real binary as a child process, killed and started again on the same port and data directory.

use std::env;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tidings_client::{Client, Publish};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::PATIENCE;

/// Clients come back at once, so that many losses take little time; hardly a heartbeat is counted as a byte of an event.
const CONFIG: &str = "retry = \"50ms\"\ndrain = \"2s\"\nheartbeat = \"10m\"\n[limits]\nper_user = 1000\n";

pub struct Hub {
    folder: TempDir,
    port: u16,
    process: Child,
    token: String,
}

impl Hub {
    pub async fn start() -> Hub {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tidings.toml"), CONFIG).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = serve(&folder, port).await;
        let token = make_token(&folder).await;
        Hub { folder, port, process, token }
    }

    /// A stop in order, with status 0.
    async fn stop(&mut self) {
        let id = self.process.id().expect("the server runs").to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let status = timeout(PATIENCE, self.process.wait()).await.expect("it ends in time").unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Stops the server. It must have ended well, and have told no token to its log.
    pub async fn end(mut self) {
        self.stop().await;
        assert!(!self.log().contains(&self.token), "a token was logged");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Stopped in order, and started again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.process = serve(&self.folder, self.port).await;
    }

    /// `kill -9`, and started again.
    pub async fn kill_and_restart(&mut self) {
        self.process.kill().await.unwrap();
        self.process = serve(&self.folder, self.port).await;
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// The project's own client.
    pub fn client(&self) -> Client {
        Client::builder(format!("http://127.0.0.1:{}", self.port)).token(&self.token).build().unwrap()
    }

    /// Publishes events to one channel, all or none; answers their ids.
    pub async fn publish(&self, channel: &str, events: &[(&str, &str)]) -> Vec<String> {
        let client = self.client();
        let events: Vec<_> = events
            .iter()
            .map(|(event, data)| Publish::to_channel(channel).event(*event).text(*data))
            .collect();
        client.publish_all(&events).await.unwrap().into_iter().map(|published| published.id).collect()
    }
}

fn command(folder: &TempDir, name: &str) -> Command {
    let mut command = Command::new(binary());
    command
        .current_dir(folder.path())
        .arg(name)
        .args(["--data-dir", "data", "--config", "tidings.toml"])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn serve(folder: &TempDir, port: u16) -> Child {
    let log = File::options().create(true).append(true).open(folder.path().join("log")).unwrap();
    let mut command = command(folder, "serve");
    command.arg("--listen").arg(format!("127.0.0.1:{port}")).stdout(log.try_clone().unwrap()).stderr(log);
    let mut process = command.spawn().unwrap();
    let ready = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            if let Some(status) = process.try_wait().unwrap() {
                let log = fs::read_to_string(folder.path().join("log")).unwrap();
                panic!("the server ended at its start: {status}\n{log}");
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, ready).await.expect("the server listens in time");
    process
}

async fn make_token(folder: &TempDir) -> String {
    let mut command = command(folder, "token");
    let grants = ["--subscribe", "**", "--presence", "**", "--publish", "**", "--publish", "$user/*"];
    let output = command.args(["--sub", "ana"]).args(grants).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Beside the test's own binary, or where `TIDINGS_BIN` says.
fn binary() -> PathBuf {
    let beside = || env::current_exe().unwrap().ancestors().nth(2).unwrap().join("tidings");
    let path = env::var_os("TIDINGS_BIN").map_or_else(beside, PathBuf::from);
    assert!(path.exists(), "{} is not there: run `cargo build --release` first", path.display());
    path
}
