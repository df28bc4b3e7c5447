//! Small publishes, answered by the listener itself. What they cost is mostly their way through the layers between a
//! socket and the hub, and back ends send many of them over a few connections: here the head is parsed once, and
//! answers to requests that came together go out together. The answers are those of `http::publish`; the first request
//! that is anything else goes to hyper, with the rest of its connection.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ::http::request::Parts;
use ::http::{Request, Response};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::guard::{Guard, Verdict};
use crate::stream::head;
use crate::{App, http};

/// How many bytes of answers are kept together at most.
const TOGETHER: usize = 16 << 10;

/// The publishes of one connection.
pub(crate) struct Direct<'a, S> {
    app: &'a Arc<App>,
    guard: &'a mut Guard<S>,
    peer: SocketAddr,
    /// Answers that are not sent yet.
    answers: Vec<u8>,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Direct<'a, S> {
    pub(crate) fn new(app: &'a Arc<App>, guard: &'a mut Guard<S>, peer: SocketAddr) -> Direct<'a, S> {
        Direct { app, guard, peer, answers: Vec::new() }
    }

    /// Answers publishes until something else comes: how the connection goes on. `None`: with hyper.
    pub(crate) async fn run(mut self) -> Option<Verdict> {
        let verdict = self.publishes().await;
        if self.send().await { verdict } else { Some(Verdict::Over) }
    }

    async fn publishes(&mut self) -> Option<Verdict> {
        loop {
            let (parts, length) = match self.next().await {
                Some(Verdict::Publish(parts, length)) => (parts, length),
                verdict => return verdict,
            };
            if !self.guard.has(length) && !self.send().await {
                return Some(Verdict::Over);
            }
            let body = match self.guard.body_of(length).await {
                Ok(body) => body,
                Err(verdict) => return Some(verdict),
            };
            let (parts, body) = self.answer(*parts, body).await.into_parts();
            // The body of such an answer is there as a whole, and can't fail.
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            let last = self.app.drain.is_begun();
            head::put_answer(&mut self.answers, parts.status, &parts.headers, &body, last);
            if last {
                return Some(Verdict::Answered);
            }
            if self.answers.len() > TOGETHER && !self.send().await {
                return Some(Verdict::Over);
            }
        }
    }

    /// The next request. Answers are sent before it is waited for.
    async fn next(&mut self) -> Option<Verdict> {
        if let Poll::Ready(verdict) = poll_fn(|cx| Poll::Ready(self.guard.poll_next(cx))).await {
            return verdict;
        }
        if !self.send().await {
            return Some(Verdict::Over);
        }
        let drain = &self.app.drain;
        tokio::select! {
            biased;
            verdict = self.guard.next() => verdict,
            // The guard looks whether a drain has begun each time it is asked, so asking again is enough.
            () = drain.begun() => self.guard.next().await,
        }
    }

    async fn answer(&mut self, parts: Parts, body: Bytes) -> Response<Body> {
        let request = Request::from_parts(parts, Body::from(body));
        let mut answering = pin!(http::publish(self.app.clone(), self.peer, request));
        let at_once = poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx))).await;
        match at_once {
            Poll::Ready(response) => response,
            Poll::Pending => {
                // Nobody's answer waits for another's disk. If they can't be sent, the next ones can't either.
                let _ = self.send().await;
                answering.await
            }
        }
    }

    /// Sends the answers that wait; whether that went well.
    async fn send(&mut self) -> bool {
        if self.answers.is_empty() {
            return true;
        }
        let sent = self.guard.send(&self.answers).await.is_ok();
        self.answers.clear();
        sent
    }
}
