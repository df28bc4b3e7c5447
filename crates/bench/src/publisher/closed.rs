//! Many publishers that wait for their answers: a closed loop.

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::{Events, Interest, Poll, Token};

use super::Requests;
use crate::clients::histogram;
use crate::error::BenchError;
use crate::payload::Stamp;
use crate::{answer, clock};

/// What publishers that wait for their answers reached.
#[derive(Debug)]
pub(crate) struct Reached {
    pub(crate) events: u64,
    pub(crate) seconds: f64,
    /// From a request to its answer.
    pub(crate) latencies: Histogram<u64>,
}

/// Publishes over so many connections, each of which waits for the answer before it goes on, to one channel. A `batch`
/// of more than one event is one request.
pub(crate) fn closed_loop(
    requests: &Requests<'_>,
    connections: usize,
    batch: usize,
    size: usize,
    seconds: f64,
) -> Result<Reached, BenchError> {
    struct Connection {
        socket: mio::net::TcpStream,
        answer: Vec<u8>,
        began: u64,
    }
    let system = || BenchError::system("publishers' sockets can't be watched");
    let mut poll = Poll::new().map_err(system())?;
    let mut reached = Reached { events: 0, seconds: 0.0, latencies: histogram() };
    let mut sequence = 0;
    let mut request = Vec::new();
    let mut piece = vec![0; 64 << 10];
    let mut send = |connection: &mut Connection| -> Result<(), BenchError> {
        request.clear();
        connection.began = clock::now();
        let stamp = Stamp { channel: 0, sequence, due: connection.began };
        sequence += batch as u64;
        if batch > 1 {
            requests.put_batch(batch, stamp, size, &mut request);
        } else {
            requests.put(stamp, size, &mut request);
        }
        let mut rest = &request[..];
        while !rest.is_empty() {
            match connection.socket.write(rest) {
                Ok(count) => rest = &rest[count..],
                // A batch may be larger than what a socket takes at once.
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
                Err(error) => return Err(BenchError::Publish(error.to_string())),
            }
        }
        Ok(())
    };
    let mut all = Vec::with_capacity(connections);
    for number in 0..connections {
        let socket = requests.connect()?;
        socket.set_nonblocking(true).map_err(system())?;
        let mut socket = mio::net::TcpStream::from_std(socket);
        poll.registry().register(&mut socket, Token(number), Interest::READABLE).map_err(system())?;
        all.push(Connection { socket, answer: Vec::new(), began: 0 });
    }
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    all.iter_mut().try_for_each(&mut send)?;
    let mut events = Events::with_capacity(connections.max(64));
    let mut waiting = connections;
    let patience = end + Duration::from_secs(20);
    while waiting > 0 {
        if Instant::now() > patience {
            return Err(BenchError::Publish("the server does not answer".to_owned()));
        }
        match poll.poll(&mut events, Some(Duration::from_secs(1))) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(system()(error)),
            _ => {}
        }
        let goes_on = Instant::now() < end;
        for event in &events {
            let connection = &mut all[event.token().0];
            loop {
                match connection.socket.read(&mut piece) {
                    Ok(0) => {
                        return Err(BenchError::Publish("the server closed a connection".to_owned()));
                    }
                    Ok(count) => {
                        connection.answer.extend_from_slice(&piece[..count]);
                        if count < piece.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(BenchError::Publish(error.to_string())),
                }
            }
            let parsed = answer::parse(&connection.answer).map_err(|e| BenchError::Publish(e.to_string()))?;
            let Some(answer) = parsed else { continue };
            if !(200..300).contains(&answer.status) {
                return Err(BenchError::Publish(answer.summary()));
            }
            connection.answer.clear();
            let _ = reached.latencies.record(clock::now().saturating_sub(connection.began));
            reached.events += batch as u64;
            if goes_on {
                send(connection)?;
            } else {
                waiting -= 1;
            }
        }
    }
    reached.seconds = begin.elapsed().as_secs_f64();
    Ok(reached)
}
