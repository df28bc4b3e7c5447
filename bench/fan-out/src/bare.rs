//! The limit: a loop that accepts, and sends each event to each socket with one call.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

enum Command {
    Subscribe(TcpStream),
    Send(Vec<u8>),
}

/// Serves until it is killed.
pub(crate) fn run() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    writeln!(std::io::stdout(), "http://{}", listener.local_addr()?)?;
    let (commands, incoming) = channel();
    thread::spawn(move || send_all(&incoming));
    for socket in listener.incoming() {
        let socket = socket?;
        socket.set_nodelay(true)?;
        accept(socket, &commands)?;
    }
    Ok(())
}

/// A subscriber begins with `GET`, the publisher with `POST`.
fn accept(socket: TcpStream, commands: &Sender<Command>) -> anyhow::Result<()> {
    let mut first = [0; 4];
    loop {
        match socket.peek(&mut first)? {
            4 => break,
            0 => return Ok(()),
            _ => thread::yield_now(),
        }
    }
    if &first == b"POST" {
        let commands = commands.clone();
        thread::spawn(move || publish(socket, &commands));
    } else {
        commands.send(Command::Subscribe(socket))?;
    }
    Ok(())
}

fn publish(socket: TcpStream, commands: &Sender<Command>) -> anyhow::Result<()> {
    let mut socket = BufReader::new(socket);
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut chunk = vec![0; line.trim().trim_start_matches("POST ").parse()?];
        socket.read_exact(&mut chunk)?;
        commands.send(Command::Send(chunk))?;
    }
}

fn send_all(incoming: &Receiver<Command>) {
    let mut sockets: Vec<TcpStream> = Vec::new();
    for command in incoming {
        match command {
            Command::Subscribe(mut socket) => {
                let mut head = [0; 1024];
                let head_came = socket.read(&mut head).is_ok();
                let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                if head_came && socket.write_all(answer).is_ok() && socket.set_nonblocking(true).is_ok() {
                    sockets.push(socket);
                }
            }
            Command::Send(chunk) => sockets.retain_mut(|socket| match socket.write(&chunk) {
                Ok(written) => written == chunk.len(),
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            }),
        }
    }
}
