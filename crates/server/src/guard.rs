//! Stands between a socket and hyper: every head of a connection is checked before hyper sees it.
//!
//! hyper gets exactly one request at a time, its head and then its body to the last byte. When the next request is a
//! stream or must be refused, hyper is told that the client sends no more; it finishes, gives the socket back, and the
//! [`Verdict`] says how the connection goes on. So a stream may be the tenth request of a browser's keep-alive
//! connection and still ends on a worker.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};

use http::StatusCode;
use http::request::Parts;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::drain::Drain;
use crate::route::{Body, Route, Routes, empty_lines};
use crate::{Problem, TimeoutsConfig};

/// The buffer that a connection begins with, in bytes: a browser's usual head.
const FIRST_BUFFER: usize = 4 * 1024;

/// How a connection goes on without hyper.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// With a stream.
    Stream(Box<Parts>),
    /// With this answer, then it is closed.
    Refuse(Problem),
    /// The client closed it, or was silent for too long between two requests.
    Over,
}

/// What went wrong with a body while its request was being handled. The handler only sees that reading failed; who
/// sends its answer looks here and says why.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyFault(Arc<AtomicU8>);

impl BodyFault {
    const SLOW: u8 = 1;
    const MALFORMED: u8 = 2;

    fn set(&self, fault: u8) {
        self.0.store(fault, Ordering::Release);
    }

    /// The answer to the request, if its body failed.
    pub(crate) fn problem(&self) -> Option<Problem> {
        match self.0.load(Ordering::Acquire) {
            BodyFault::SLOW => Some(too_slow("no byte of the request's body came for too long")),
            BodyFault::MALFORMED => Some(Problem::bad_request("the body's chunks are not valid")),
            _ => None,
        }
    }
}

fn too_slow(detail: &'static str) -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too_slow", "The request came too slowly", detail)
}

/// A socket of which hyper sees one checked request after the other.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    io: S,
    routes: Routes,
    timeouts: Arc<TimeoutsConfig>,
    /// What was read and not handed on is `buffer[start..end]`.
    buffer: Vec<u8>,
    /// The largest that the buffer may be: a head and the byte that makes it too large.
    largest: usize,
    start: usize,
    end: usize,
    state: State,
    deadline: Instant,
    /// Fires at the deadline or before it: moving a deadline back costs nothing.
    timer: Option<Pin<Box<Sleep>>>,
    /// hyper has bytes that the socket did not take. While it has, it is not told that there is no more to read:
    /// it would be done, and these bytes lost.
    unflushed: bool,
    /// Waits for those bytes.
    flushed: Option<Waker>,
    fault: BodyFault,
    /// Once begun, no further request is waited for.
    drain: Drain,
}

#[derive(Debug)]
enum State {
    /// Between requests, or in a head of which `scanned` bytes were looked at.
    Head { scanned: usize },
    /// In a request that hyper reads: `ready` bytes of the buffer are its, then the rest of the body.
    Request { ready: usize, rest: Body },
    /// hyper reads no more.
    Done(Verdict),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guard<S> {
    pub(crate) fn new(io: S, routes: Routes, timeouts: Arc<TimeoutsConfig>, drain: Drain) -> Guard<S> {
        Guard {
            io,
            largest: routes.longest_head() + 1,
            routes,
            timeouts,
            buffer: vec![0; FIRST_BUFFER],
            start: 0,
            end: 0,
            state: State::Head { scanned: 0 },
            deadline: Instant::now() + timeouts.head,
            timer: None,
            unflushed: false,
            flushed: None,
            fault: BodyFault::default(),
            drain,
        }
    }

    /// Waits for the first request. `Some` when hyper is not needed for it.
    pub(crate) async fn first(&mut self) -> Option<Verdict> {
        std::future::poll_fn(|cx| self.poll_request(cx)).await;
        self.take_verdict()
    }

    /// How the connection goes on, once hyper has given it back.
    pub(crate) fn take_verdict(&mut self) -> Option<Verdict> {
        match &mut self.state {
            State::Done(verdict) => Some(std::mem::replace(verdict, Verdict::Over)),
            _ => None,
        }
    }

    /// The socket. What was read ahead is lost.
    pub(crate) fn into_inner(self) -> S {
        self.io
    }

    /// Where a body's failure is told.
    pub(crate) fn fault(&self) -> BodyFault {
        self.fault.clone()
    }

    /// Ready when there is something for hyper to read, or nothing ever will be.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let State::Head { scanned } = self.state {
            self.state = match self.next_head(scanned) {
                Ok(Some(state)) => state,
                Ok(None) => ready!(self.poll_more_of_head(cx)),
                Err(problem) => State::Done(Verdict::Refuse(problem)),
            };
        }
        Poll::Ready(())
    }

    /// What follows from the bytes that are there. `None`: more are needed.
    fn next_head(&mut self, mut scanned: usize) -> Result<Option<State>, Problem> {
        if scanned == 0 {
            self.start += empty_lines(&self.buffer[self.start..self.end])?;
        }
        if self.start == self.end {
            return Ok(None);
        }
        let head = self.routes.read(&self.buffer[self.start..self.end], &mut scanned)?;
        Ok(head.map(|head| match head.route {
            Route::Stream(parts) => State::Done(Verdict::Stream(parts)),
            Route::Http(rest) => State::Request { ready: head.len, rest },
        }))
    }

    fn poll_more_of_head(&mut self, cx: &mut Context<'_>) -> Poll<State> {
        let begun = self.end > self.start;
        if !begun && self.drain.is_begun() {
            return Poll::Ready(State::Done(Verdict::Over));
        }
        let scanned = self.end - self.start;
        match self.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(State::Done(Verdict::Over)),
            Poll::Ready(Ok(_)) => {
                if !begun {
                    self.deadline = Instant::now() + self.timeouts.head;
                }
                // All that is in the buffer but the last read was looked at.
                return Poll::Ready(State::Head { scanned });
            }
            Poll::Pending => {}
        }
        ready!(self.poll_deadline(cx));
        Poll::Ready(State::Done(match begun {
            true => Verdict::Refuse(too_slow("the request's head was not complete in time")),
            false => Verdict::Over,
        }))
    }

    /// Reads once. 0: the client sends no more.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let full = self.end == self.buffer.len();
        if full || self.start == self.end {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if full && self.buffer.len() < self.largest {
            self.buffer.resize((self.buffer.len() * 2).min(self.largest), 0);
        }
        let mut free = ReadBuf::new(&mut self.buffer[self.end..]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut free))?;
        let count = free.filled().len();
        self.end += count;
        Poll::Ready(Ok(count))
    }

    /// Ready when the deadline is over.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.deadline;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            timer.as_mut().reset(deadline);
        }
    }

    /// How many bytes of the buffer hyper may have now. 0: the client sends no more.
    fn poll_ready_bytes(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_request(cx));
            let State::Request { ready, rest } = &mut self.state else {
                return self.poll_end(cx).map(|()| Ok(0));
            };
            if *ready > 0 {
                return Poll::Ready(Ok(*ready));
            }
            if rest.is_done() {
                self.deadline = Instant::now() + self.timeouts.idle;
                self.state = State::Head { scanned: 0 };
            } else if self.start < self.end {
                match rest.advance(&self.buffer[self.start..self.end]) {
                    Ok(count) => *ready = count,
                    Err(_) => {
                        self.fault.set(BodyFault::MALFORMED);
                        self.state = State::Done(Verdict::Over);
                        return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                    }
                }
            } else {
                ready!(self.poll_more_of_body(cx))?;
            }
        }
    }

    fn poll_more_of_body(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(0)) => self.state = State::Done(Verdict::Over),
            Poll::Ready(Ok(_)) => self.deadline = Instant::now() + self.timeouts.body,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                ready!(self.poll_deadline(cx));
                self.fault.set(BodyFault::SLOW);
                self.state = State::Done(Verdict::Over);
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when hyper may be told that there is no more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.unflushed {
            self.flushed = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Body {
    fn is_done(&self) -> bool {
        match self {
            Body::Length(left) => *left == 0,
            Body::Chunked(chunked) => chunked.is_done(),
        }
    }

    /// How many of these bytes belong to the body.
    fn advance(&mut self, bytes: &[u8]) -> Result<usize, crate::chunked::BadChunk> {
        match self {
            Body::Length(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= count as u64;
                Ok(count)
            }
            Body::Chunked(chunked) => chunked.advance(bytes),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let count = ready!(this.poll_ready_bytes(cx))?.min(into.remaining());
        into.put_slice(&this.buffer[this.start..this.start + count]);
        this.start += count;
        if let State::Request { ready, rest } = &mut this.state {
            *ready -= count;
            if *ready == 0 && !rest.is_done() {
                this.deadline = Instant::now() + this.timeouts.body;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Guard<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write(cx, bytes);
        this.unflushed = true;
        written
    }

    /// hyper flushes when it has handed on all that it had.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.io).poll_flush(cx))?;
        this.unflushed = false;
        if let Some(waker) = this.flushed.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, parts);
        this.unflushed = true;
        written
    }
}
