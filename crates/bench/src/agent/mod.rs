//! The client's side: a process of its own with thousands of subscribers, told what to do line by line.
//!
//! One process can't have more than some 20,000 descriptors, and what clients cost must not count as the server's, so
//! that `tidings bench` starts itself several times in this role. Orders come on the standard input, reports go to the
//! standard output, one JSON document a line; when the input ends, so does the process.

mod body;
mod group;
pub(crate) mod message;
mod reader;
mod request;

use std::io::{self, BufRead, ErrorKind, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use self::group::Group;
use self::message::{Order, Report};
use self::reader::Reader;
use crate::{clock, process};

/// Large enough for what a burst leaves in a socket, small enough to stay in the cache.
const SCRATCH: usize = 128 << 10;
const WAKE: Token = Token(usize::MAX);

/// Is a client process, until its standard input ends.
///
/// # Errors
///
/// When the system refuses what it takes (epoll, pipes).
pub fn run() -> io::Result<()> {
    let poll = Poll::new()?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
    let (sender, orders) = channel();
    thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() || waker.wake().is_err() {
                return;
            }
        }
        drop(sender);
        // The channel is closed now, which is what the loop is woken to see.
        let _ = waker.wake();
    });
    let agent = Agent {
        poll,
        readers: Vec::new(),
        groups: Vec::new(),
        scratch: vec![0; SCRATCH],
        watching: false,
        progress: 0,
    };
    agent.serve(&orders)
}

#[derive(Debug)]
struct Agent {
    poll: Poll,
    readers: Vec<Reader>,
    groups: Vec<Group>,
    scratch: Vec<u8>,
    /// Whether to report how many events the average subscriber of the first group has.
    watching: bool,
    progress: u64,
}

impl Agent {
    fn serve(mut self, orders: &Receiver<String>) -> io::Result<()> {
        let mut events = Events::with_capacity(4096);
        loop {
            match self.poll.poll(&mut events, Some(Duration::from_millis(500))) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                if event.token() != WAKE {
                    self.read(event.token().0, event.is_read_closed());
                }
            }
            if self.watching {
                self.tell_progress()?;
            }
            self.connect_more()?;
            loop {
                match orders.try_recv() {
                    Ok(line) => self.obey(&line)?,
                    Err(std::sync::mpsc::TryRecvError::Empty) => break,
                    Err(std::sync::mpsc::TryRecvError::Disconnected) => return Ok(()),
                }
            }
        }
    }

    fn obey(&mut self, line: &str) -> io::Result<()> {
        let order: Order = serde_json::from_str(line)?;
        match order {
            Order::Connect(connect) => {
                let index = connect.group;
                while self.groups.len() <= index {
                    self.groups.push(Group::default());
                }
                self.groups[index].connect(*connect);
                self.connect_more()
            }
            Order::Begin { timeline } => {
                for reader in &mut self.readers {
                    reader.begin();
                }
                for group in &mut self.groups {
                    group.begin(timeline);
                }
                self.progress = 0;
                say(&Report::Begun)
            }
            Order::Watch(watching) => {
                self.watching = watching;
                Ok(())
            }
            Order::Status => say(&Report::Status {
                counted: self.groups.iter().map(|group| group.counted).collect(),
                closed: self.groups.iter().map(|group| group.closed).collect(),
            }),
            Order::Collect { published, spans } => {
                let groups =
                    (0..self.groups.len()).map(|group| self.judge(group, &published, &spans)).collect();
                say(&Report::Collected { groups, cpu: process::own_cpu().as_secs_f64() })
            }
            Order::Stall { group } => {
                self.readers.iter_mut().filter(|reader| reader.group == group).for_each(Reader::stall);
                say(&Report::Begun)
            }
        }
    }

    /// Connects as many as may be in flight at once.
    fn connect_more(&mut self) -> io::Result<()> {
        for index in 0..self.groups.len() {
            let group = &mut self.groups[index];
            let mut failed = group.failed.take();
            while failed.is_none()
                && let Some(place) = group.next_place()
            {
                match Reader::connect(index, place, group, self.poll.registry(), self.readers.len()) {
                    Ok(reader) => self.readers.push(reader),
                    Err(what) => failed = Some(what),
                }
            }
            if let Some(what) = failed {
                group.give_up();
                say(&Report::Failed { what })?;
            } else if let Some(connected) = group.connected() {
                say(&connected)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, index: usize, closed: bool) {
        let reader = &mut self.readers[index];
        let group = &mut self.groups[reader.group];
        reader.read(group, &mut self.scratch, closed, self.poll.registry(), index);
    }

    fn tell_progress(&mut self) -> io::Result<()> {
        let Some(group) = self.groups.first() else { return Ok(()) };
        let average = group.counted / group.size().max(1);
        if average > self.progress {
            self.progress = average;
            say(&Report::Progress(average))?;
        }
        Ok(())
    }

    /// What a group's subscribers have of what was published in each channel.
    fn judge(&self, index: usize, published: &[u64], spans: &[(u64, u64)]) -> message::GroupReport {
        let group = &self.groups[index];
        let mut report = group.report(spans);
        for reader in self.readers.iter().filter(|reader| reader.group == index && !reader.is_stalled()) {
            let channels = &group.wire(reader).channels;
            let due: u64 = channels.iter().filter_map(|channel| published.get(*channel as usize)).sum();
            report.lacking += u64::from(reader.counted() < due);
            report.missing += due.saturating_sub(reader.counted());
            report.excess += reader.counted().saturating_sub(due);
        }
        report
    }
}

fn say(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

/// Microseconds since a time of the shared clock.
fn since(time: u64) -> u64 {
    clock::now().saturating_sub(time)
}
