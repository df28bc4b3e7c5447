//! What is sent to publish.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::answer;
use crate::clients::channel;
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::server::Server;
use crate::target::{Target, Values};

/// Requests of one target.
#[derive(Debug, Clone)]
pub(crate) struct Requests<'a> {
    target: &'a Target,
    address: SocketAddr,
    pub(super) base: &'a str,
    ports: [u16; 3],
    pub(super) host: String,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(target: &'a Target, server: &'a Server) -> Requests<'a> {
        let port = target.publish.port.as_ref();
        let port = port
            .and_then(|port| port.fill(&Values { ports: server.ports, ..Values::default() }).parse().ok());
        let address = SocketAddr::new(server.address.ip(), port.unwrap_or(server.address.port()));
        Requests {
            target,
            address,
            base: &server.base,
            ports: server.ports,
            host: format!("localhost:{}", address.port()),
        }
    }

    /// Appends the request that publishes one event.
    pub(super) fn put(&self, stamp: Stamp, size: usize, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(size + 64);
        stamp.write(size, &mut data);
        let data = String::from_utf8_lossy(&data);
        let name = channel(stamp.channel);
        let values = Values { channel: &name, data: &data, ports: self.ports, ..Values::default() };
        let publish = &self.target.publish;
        let path = publish.path.fill_path(&values);
        let headers = publish.headers.iter().map(|(name, value)| (name.as_str(), value.fill(&values)));
        self.put_request(&publish.method, &path, headers, publish.body.fill(&values).as_bytes(), out);
    }

    /// Appends a request that publishes several events at once, as Tidings takes them.
    pub(super) fn put_batch(&self, batch: usize, first: Stamp, size: usize, out: &mut Vec<u8>) {
        let mut body = vec![b'['];
        for number in 0..batch {
            let stamp = Stamp { sequence: first.sequence + number as u64, ..first };
            if number > 0 {
                body.push(b',');
            }
            put_json(stamp, size, &mut body);
        }
        body.push(b']');
        let headers = self.rights().chain([("Content-Type", "application/json".to_owned())]);
        self.put_request("POST", "/publish", headers, &body, out);
    }

    /// The headers that say who publishes: all but what the body of one event is.
    pub(super) fn rights(&self) -> impl Iterator<Item = (&str, String)> {
        let values = Values { ports: self.ports, ..Values::default() };
        let headers = self.target.publish.headers.iter();
        headers
            .filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Type"))
            .map(move |(name, value)| (&name[..], value.fill(&values)))
    }

    fn put_request<'h>(
        &self,
        method: &str,
        path: &str,
        headers: impl Iterator<Item = (&'h str, String)>,
        body: &[u8],
        out: &mut Vec<u8>,
    ) {
        // Writing to memory doesn't fail.
        let _ = write!(out, "{method} {}{path} HTTP/1.1\r\nHost: {}\r\n", self.base, self.host);
        for (name, value) in headers {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        let _ = write!(out, "Content-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(body);
    }

    /// What a path of the server says, if it answers with 200.
    pub(crate) fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut socket = self.connect().ok()?;
        socket.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let mut head = format!("GET {}{path} HTTP/1.1\r\nHost: {}\r\n", self.base, self.host);
        for (name, value) in self.rights() {
            head += &format!("{name}: {value}\r\n");
        }
        write!(socket, "{head}Connection: close\r\n\r\n").ok()?;
        let mut bytes = Vec::new();
        socket.read_to_end(&mut bytes).ok()?;
        let answer = answer::parse(&bytes).ok()??;
        (answer.status == 200).then(|| answer.body.into_owned())
    }

    pub(super) fn connect(&self) -> Result<TcpStream, BenchError> {
        let connect = || {
            let socket = TcpStream::connect(self.address)?;
            socket.set_nodelay(true)?;
            Ok(socket)
        };
        connect().map_err(BenchError::system("a publisher can't connect"))
    }
}

/// Appends an event as Tidings reads it in JSON.
pub(super) fn put_json(stamp: Stamp, size: usize, out: &mut Vec<u8>) {
    let _ = write!(out, "{{\"channel\":\"{}\",\"data\":\"", channel(stamp.channel));
    stamp.write(size, out);
    out.extend_from_slice(b"\"}");
}
