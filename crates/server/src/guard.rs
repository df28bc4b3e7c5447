//! Stands between a socket and hyper: every head of a connection is checked before hyper sees it.
//!
//! hyper gets exactly one request at a time, its head and then its body to the last byte. When the next request is a
//! stream or must be refused, hyper is told that the client sends no more; it finishes, gives the socket back, and the
//! [`Verdict`] says how the connection goes on. So a stream may be the tenth request of a browser's keep-alive
//! connection and still ends on a worker.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::drain::Drain;
use crate::route::{Body, Route, Routes, empty_lines};
use crate::{Problem, TimeoutsConfig};

/// The buffer that a connection begins with, in bytes: a browser's usual head.
const FIRST_BUFFER: usize = 4 * 1024;

/// How long a new connection may take for its first byte while the server is stopping: who comes back is told to come
/// again later, who only opened a socket for later use does not hold the stop up.
const FIRST_IN_DRAIN: Duration = Duration::from_secs(1);

/// How a connection goes on without hyper.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// With a stream.
    Stream(Box<Parts>),
    /// With a request for events that is to be answered once; then the guard goes on, by [`Guard::await_next`].
    Poll(Box<Parts>),
    /// With a publish whose body, of so many bytes, is had from [`Guard::body_of`]; then the guard goes on.
    Publish(Box<Parts>, usize),
    /// With this answer, then it is closed.
    Refuse(Problem),
    /// It is closed: the client was told so in the last answer, which it may not have read yet.
    Answered,
    /// The client closed it, or was silent for too long between two requests.
    Over,
}

/// How the body of the present request does. The handler only sees that reading failed; who sends its answer looks
/// here and says why.
#[derive(Debug, Clone, Default)]
pub(crate) struct BodyProgress(Arc<AtomicU8>);

impl BodyProgress {
    const COMPLETE: u8 = 0;
    const UNREAD: u8 = 1;
    const SLOW: u8 = 2;
    const MALFORMED: u8 = 3;

    fn set(&self, progress: u8) {
        self.0.store(progress, Ordering::Release);
    }

    /// Whether there is more of it than was read: an answer now ends the connection, since where the next request
    /// begins is not known before the rest was read.
    pub(crate) fn is_unread(&self) -> bool {
        self.0.load(Ordering::Acquire) != BodyProgress::COMPLETE
    }

    /// The answer to the request, if its body failed.
    pub(crate) fn problem(&self) -> Option<Problem> {
        match self.0.load(Ordering::Acquire) {
            BodyProgress::SLOW => Some(body_too_slow()),
            BodyProgress::MALFORMED => Some(Problem::bad_request("the body's chunks are not valid")),
            _ => None,
        }
    }
}

fn body_too_slow() -> Problem {
    too_slow("no byte of the request's body came for too long")
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
    body: BodyProgress,
    /// hyper does not have the connection yet: publishes are answered without it.
    direct: bool,
    /// No request has come yet.
    fresh: bool,
    /// Once begun, no further request is waited for, and the first one not for long.
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
            deadline: Instant::now() + timeouts.head,
            timeouts,
            buffer: vec![0; FIRST_BUFFER],
            start: 0,
            end: 0,
            state: State::Head { scanned: 0 },
            timer: None,
            unflushed: false,
            flushed: None,
            body: BodyProgress::default(),
            direct: true,
            fresh: true,
            drain,
        }
    }

    /// Waits for a request. `None`: it is hyper's, and so is the connection from now on.
    pub(crate) async fn next(&mut self) -> Option<Verdict> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, for who has something to do meanwhile.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Verdict>> {
        ready!(self.poll_request(cx));
        let verdict = self.take_verdict();
        self.direct &= verdict.is_some();
        Poll::Ready(verdict)
    }

    /// Whether so many bytes after the head are here already.
    pub(crate) fn has(&self, length: usize) -> bool {
        self.end - self.start >= length
    }

    /// The body of a publish, after which the next request may be waited for. An error is how the connection ends.
    pub(crate) async fn body_of(&mut self, length: usize) -> Result<Bytes, Verdict> {
        let mut body = Vec::with_capacity(length);
        loop {
            let count = (self.end - self.start).min(length - body.len());
            body.extend_from_slice(&self.buffer[self.start..self.start + count]);
            self.start += count;
            if body.len() == length {
                break;
            }
            self.deadline = Instant::now() + self.timeouts.body;
            poll_fn(|cx| match self.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Err(Verdict::Over)),
                Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
                Poll::Pending => {
                    ready!(self.poll_deadline(cx));
                    Poll::Ready(Err(Verdict::Refuse(body_too_slow())))
                }
            })
            .await?;
        }
        self.next_request();
        Ok(body.into())
    }

    /// Sends all of it.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.io.write_all(bytes).await
    }

    /// Begins to wait for the next request, which need not be hyper's.
    pub(crate) fn await_next(&mut self) {
        self.direct = true;
        self.next_request();
    }

    fn next_request(&mut self) {
        self.deadline = Instant::now() + self.timeouts.idle;
        self.state = State::Head { scanned: 0 };
    }

    /// Completes when the client has closed the connection, while an answer is made without hyper. What it sends
    /// meanwhile is kept, as far as there is room.
    pub(crate) async fn hung_up(&mut self) {
        poll_fn(|cx| {
            while self.end - self.start < self.largest {
                if let Ok(0) | Err(_) = ready!(self.poll_fill(cx)) {
                    return Poll::Ready(());
                }
            }
            // Who sends this much ahead of an answer is there. Whoever waits for the answer is woken by that.
            Poll::Pending
        })
        .await;
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

    /// Where it is told how bodies do.
    pub(crate) fn body(&self) -> BodyProgress {
        self.body.clone()
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
        self.fresh &= head.is_none();
        Ok(head.map(|head| match head.route {
            Route::Stream(parts) => State::Done(Verdict::Stream(parts)),
            Route::Poll(parts) => {
                self.start += head.len;
                State::Done(Verdict::Poll(parts))
            }
            Route::Publish(parts, length) if self.direct => {
                self.start += head.len;
                State::Done(Verdict::Publish(parts, length))
            }
            Route::Publish(_, length) => self.for_hyper(head.len, Body::Length(length as u64)),
            Route::Http(rest) => self.for_hyper(head.len, rest),
        }))
    }

    fn for_hyper(&self, head: usize, rest: Body) -> State {
        let progress = if rest.is_done() { BodyProgress::COMPLETE } else { BodyProgress::UNREAD };
        self.body.set(progress);
        State::Request { ready: head, rest }
    }

    fn poll_more_of_head(&mut self, cx: &mut Context<'_>) -> Poll<State> {
        let begun = self.end > self.start;
        if !begun && self.drain.is_begun() {
            if !self.fresh {
                return Poll::Ready(State::Done(Verdict::Over));
            }
            self.deadline = self.deadline.min(Instant::now() + FIRST_IN_DRAIN);
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
                self.next_request();
            } else if self.start < self.end {
                match rest.advance(&self.buffer[self.start..self.end]) {
                    Ok(count) => {
                        *ready = count;
                        if rest.is_done() {
                            self.body.set(BodyProgress::COMPLETE);
                        }
                    }
                    Err(_) => {
                        self.body.set(BodyProgress::MALFORMED);
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
                self.body.set(BodyProgress::SLOW);
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::BodyExt;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::{BasePath, LimitsConfig};

    /// Answers with what was asked and what the body was.
    async fn echo(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
        let asked = format!("{} {}", request.method(), request.uri());
        Ok(Response::new(match request.into_body().collect().await {
            Ok(body) => format!("[{asked} {:?}]", String::from_utf8_lossy(&body.to_bytes())),
            Err(_) => format!("[{asked} fault]"),
        }))
    }

    struct Served {
        verdict: Option<Verdict>,
        fault: Option<u16>,
    }

    /// A connection as the listener serves it; the other end of its socket is a wire of `wire` bytes.
    fn serve(wire: usize, drain: Drain) -> (DuplexStream, JoinHandle<Served>) {
        let (client, io) = duplex(wire);
        let routes = Routes::new(&BasePath::default(), &LimitsConfig::default(), false);
        let mut guard = Guard::new(io, routes, Arc::new(TimeoutsConfig::default()), drain);
        let served = tokio::spawn(async move {
            let body = guard.body();
            let verdict = match guard.next().await {
                Some(verdict) => Some(verdict),
                None => {
                    let connection = hyper::server::conn::http1::Builder::new()
                        .half_close(true)
                        .header_read_timeout(None)
                        .serve_connection(guard, service_fn(echo));
                    connection.without_shutdown().await.unwrap().io.take_verdict()
                }
            };
            Served { verdict, fault: body.problem().map(|problem| problem.status().as_u16()) }
        });
        (client, served)
    }

    /// Sends all of it, in writes of `piece` bytes, and says what came back and how the connection would go on.
    async fn exchange(sent: &str, piece: usize) -> (Vec<String>, String) {
        let (client, served) = serve(16, Drain::new());
        let (mut from, mut to) = tokio::io::split(client);
        let sent = sent.to_owned();
        let sending = tokio::spawn(async move {
            for piece in sent.as_bytes().chunks(piece) {
                // The server may stop reading when it has seen enough.
                if to.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            to
        });
        let mut received = String::new();
        from.read_to_string(&mut received).await.unwrap();
        let served = served.await.unwrap();
        sending.abort();
        let answers = received.split('[').skip(1).filter_map(|part| part.split(']').next());
        let verdict = match served.verdict {
            Some(Verdict::Stream(parts)) => format!("stream {}", parts.uri),
            Some(Verdict::Poll(parts)) => format!("poll {}", parts.uri),
            Some(Verdict::Publish(parts, length)) => format!("publish {} {length}", parts.uri),
            Some(Verdict::Refuse(problem)) => problem.status().as_u16().to_string(),
            Some(Verdict::Answered) => "answered".to_owned(),
            Some(Verdict::Over) => "over".to_owned(),
            None => "closed".to_owned(),
        };
        (answers.map(str::to_owned).collect(), verdict)
    }

    async fn check(sent: &str, answers: &[&str], verdict: &str) {
        for piece in [1, 2, 7, 100_000] {
            let expected = (answers.iter().map(|&answer| answer.to_owned()).collect(), verdict.to_owned());
            assert_eq!(exchange(sent, piece).await, expected, "{sent:?} in pieces of {piece}");
        }
    }

    const STREAM: &str = "GET /events?channel=a HTTP/1.1\r\nHost: a\r\n\r\n";

    #[tokio::test]
    async fn a_poll_is_not_hypers() {
        check("GET /events?poll=1 HTTP/1.1\r\nHost: a\r\n\r\n", &[], "poll /events?poll=1").await;
        let later = "GET /x HTTP/1.1\r\nHost: a\r\n\r\nGET /events?poll=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        check(later, &["GET /x \"\""], "poll /events?poll=1").await;
    }

    #[tokio::test]
    async fn a_stream_may_be_the_first_request_or_a_later_one() {
        let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        check(STREAM, &[], "stream /events?channel=a").await;
        check(&format!("\r\n{STREAM}"), &[], "stream /events?channel=a").await;
        let many: String = (1..10).map(|n| get(&format!("/{n}"))).collect();
        let answers: Vec<_> = (1..10).map(|n| format!("GET /{n} \"\"")).collect();
        let answers: Vec<_> = answers.iter().map(String::as_str).collect();
        check(&format!("{many}{STREAM}"), &answers, "stream /events?channel=a").await;
    }

    #[tokio::test]
    async fn bodies_end_where_their_framing_says() {
        let length = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\n\r\nGET /events HTTP/1.1\r\nHost: no stream\r\n";
        check(
            &format!("{length}{STREAM}"),
            &["POST /a \"GET /events HTTP/1.1\\r\\nHost: no stream\\r\\n\""],
            "stream /events?channel=a",
        )
        .await;
        let chunked = "POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n3\r\n\r\n0\r\n0\r\nA: b\r\n\r\n";
        check(
            &format!("{chunked}{length}{chunked}{STREAM}"),
            &[
                "POST /b \"hello\\r\\n0\"",
                "POST /a \"GET /events HTTP/1.1\\r\\nHost: no stream\\r\\n\"",
                "POST /b \"hello\\r\\n0\"",
            ],
            "stream /events?channel=a",
        )
        .await;
    }

    #[tokio::test]
    async fn every_head_is_checked_and_earlier_answers_are_sent() {
        let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        let smuggled =
            "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        check(smuggled, &[], "400").await;
        check(&format!("{get}{smuggled}"), &["GET /a \"\""], "400").await;
        check(&format!("{get}{get}GET /b HTTP/1.1\r\n\r\n"), &["GET /a \"\"", "GET /a \"\""], "400").await;
        check(&format!("{get}GET /b HTTP/3.0\r\nHost: a\r\n\r\n"), &["GET /a \"\""], "505").await;
        let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(8192));
        check(&format!("{get}{long}"), &["GET /a \"\""], "414").await;
    }

    #[tokio::test]
    async fn a_connection_that_its_requests_end_is_closed() {
        check("GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", &["GET /a \"\""], "closed").await;
        check("GET /a HTTP/1.0\r\n\r\n", &["GET /a \"\""], "closed").await;
    }

    #[tokio::test]
    async fn broken_chunks_are_told_to_the_handler_and_nothing_after_them_is_read() {
        for piece in [1, 100] {
            let sent =
                format!("POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{STREAM}");
            let (mut client, served) = serve(1000, Drain::new());
            for piece in sent.as_bytes().chunks(piece) {
                client.write_all(piece).await.unwrap();
            }
            let mut received = String::new();
            client.read_to_string(&mut received).await.unwrap();
            assert!(received.ends_with("[POST /a fault]"), "{received:?}");
            let served = served.await.unwrap();
            assert_eq!(served.fault, Some(400));
            assert!(!matches!(served.verdict, Some(Verdict::Stream(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn slow_heads_are_refused_and_silent_connections_closed() {
        let sent_then_waits = async |sent: &str| {
            let (mut client, served) = serve(1000, Drain::new());
            let begin = Instant::now();
            for byte in sent.as_bytes() {
                client.write_all(&[*byte]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let served = served.await.unwrap();
            let status = match served.verdict {
                Some(Verdict::Refuse(problem)) => problem.status().as_u16(),
                Some(Verdict::Over) => 0,
                other => panic!("{other:?}"),
            };
            (status, begin.elapsed().as_secs(), served.fault)
        };
        assert_eq!(sent_then_waits("").await, (0, 10, None), "no request at all");
        assert_eq!(sent_then_waits("GET /").await, (408, 10, None), "half a head");
        let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        let sent = get.len() as u64 / 10;
        assert_eq!(sent_then_waits(get).await, (0, 75 + sent, None), "silence after a request");
        let again = format!("{get}GET");
        assert_eq!(sent_then_waits(&again).await, (408, 10 + sent, None), "half a second head");
        let half = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhal";
        let sent = half.len() as u64 / 10;
        assert_eq!(sent_then_waits(half).await, (0, 30 + sent, Some(408)), "half a body");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_take_long_while_it_moves() {
        let (mut client, served) = serve(1000, Drain::new());
        client
            .write_all(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\nConnection: close\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            client.write_all(b"x").await.unwrap();
        }
        assert_eq!(served.await.unwrap().fault, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_ends_connections_between_requests() {
        let drain = Drain::new();
        drain.begin();
        let begin = Instant::now();
        let (_client, served) = serve(1000, drain.clone());
        assert!(matches!(served.await.unwrap().verdict, Some(Verdict::Over)));
        assert_eq!(begin.elapsed().as_secs(), 1, "a first request is waited for a little");
        let (mut client, served) = serve(1000, drain.clone());
        client.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        assert!(matches!(served.await.unwrap().verdict, Some(Verdict::Over)));
        assert_eq!(begin.elapsed().as_secs(), 1, "another one is not");
        let (mut client, served) = serve(1000, drain);
        client.write_all(STREAM.as_bytes()).await.unwrap();
        assert!(matches!(served.await.unwrap().verdict, Some(Verdict::Stream(_))));
    }
}
