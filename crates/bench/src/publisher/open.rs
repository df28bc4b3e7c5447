//! One publisher that waits for nothing: an open loop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::Requests;
use crate::answer;
use crate::error::BenchError;
use crate::payload::Stamp;

/// Publishes over one connection without waiting: answers are read and counted meanwhile.
#[derive(Debug)]
pub(crate) struct Publisher<'a> {
    requests: Requests<'a>,
    socket: TcpStream,
    request: Vec<u8>,
    sent: u64,
    answers: Arc<Answers>,
}

#[derive(Debug, Default)]
struct Answers {
    count: AtomicU64,
    /// The body of the newest one, if asked for.
    body: Mutex<String>,
    failed: Mutex<Option<String>>,
}

impl<'a> Publisher<'a> {
    pub(crate) fn new(requests: Requests<'a>) -> Result<Publisher<'a>, BenchError> {
        let socket = requests.connect()?;
        let reading = socket.try_clone().map_err(BenchError::system("a socket can't be shared"))?;
        let answers = Arc::new(Answers::default());
        thread::spawn({
            let answers = answers.clone();
            move || answers.read(reading)
        });
        Ok(Publisher { requests, socket, request: Vec::new(), sent: 0, answers })
    }

    /// Publishes one event. Waits for nothing but space in the socket.
    pub(crate) fn publish(&mut self, stamp: Stamp, size: usize) -> Result<(), BenchError> {
        self.request.clear();
        self.requests.put(stamp, size, &mut self.request);
        self.sent += 1;
        if let Err(error) = self.socket.write_all(&self.request) {
            self.check()?;
            return Err(BenchError::Publish(error.to_string()));
        }
        Ok(())
    }

    /// Waits until everything is answered, and returns the last answer's body.
    pub(crate) fn finish(&mut self) -> Result<String, BenchError> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.answers.count.load(Ordering::Acquire) < self.sent {
            self.check()?;
            if Instant::now() > deadline {
                return Err(BenchError::Publish("the server does not answer".to_owned()));
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.check()?;
        Ok(self.answers.body.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    fn check(&self) -> Result<(), BenchError> {
        match &*self.answers.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(what) => Err(BenchError::Publish(what.clone())),
            None => Ok(()),
        }
    }
}

impl Drop for Publisher<'_> {
    fn drop(&mut self) {
        // Ends the thread that reads.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

impl Answers {
    fn read(&self, mut socket: TcpStream) {
        let mut bytes = Vec::new();
        let mut piece = [0; 16 << 10];
        loop {
            match socket.read(&mut piece) {
                Ok(0) | Err(_) => return self.fail("the server closed the connection".to_owned()),
                Ok(count) => bytes.extend_from_slice(&piece[..count]),
            }
            loop {
                let (length, good, summary, body) = match answer::parse(&bytes) {
                    Ok(None) => break,
                    Ok(Some(answer)) => {
                        let good = (200..300).contains(&answer.status);
                        let summary = if good { String::new() } else { answer.summary() };
                        (answer.length, good, summary, String::from_utf8_lossy(&answer.body).into_owned())
                    }
                    Err(error) => return self.fail(error.to_string()),
                };
                if !good {
                    return self.fail(summary);
                }
                bytes.drain(..length);
                *self.body.lock().unwrap_or_else(PoisonError::into_inner) = body;
                self.count.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn fail(&self, what: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }
}
