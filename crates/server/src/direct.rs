//! Small publishes and polls, answered by the listener itself, as the router would answer them; the first request that is
//! anything else goes to hyper, with those that follow.
//!
//! What a publish costs is mostly its way through the layers between a socket and the hub, and back ends send many of
//! them over a few connections: here the head is parsed once, and answers to requests that came together go out
//! together. A poll waits for long, and its client may go away meanwhile. hyper doesn't look for that: it is told that the
//! input ends when something comes that is not its own (`guard`), so it has to go on then.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use ::http::header::CONNECTION;
use ::http::request::Parts;
use ::http::{HeaderValue, Request, Response, Version};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::guard::{Guard, Verdict};
use crate::stream::head;
use crate::{App, http};

/// How many bytes of answers are kept together at most.
const TOGETHER: usize = 16 << 10;

/// The publishes and polls of one connection.
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

    /// Answers publishes and polls until something else comes: how the connection goes on. `None`: with hyper. `first`
    /// is a poll that came while hyper had the connection.
    pub(crate) async fn run(mut self, first: Option<Box<Parts>>) -> Option<Verdict> {
        let verdict = match first {
            Some(parts) => self.poll(*parts).await,
            None => Ok(()),
        };
        let verdict = match verdict {
            Ok(()) => self.requests().await,
            Err(verdict) => Some(verdict),
        };
        if self.send().await { verdict } else { Some(Verdict::Over) }
    }

    async fn requests(&mut self) -> Option<Verdict> {
        loop {
            let (parts, length) = match self.next().await {
                Some(Verdict::Publish(parts, length)) => (parts, length),
                Some(Verdict::Poll(parts)) => match self.poll(*parts).await {
                    Ok(()) => continue,
                    Err(verdict) => return Some(verdict),
                },
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

    /// Answers a poll, unless its client goes away. An error is how the connection ends.
    async fn poll(&mut self, parts: Parts) -> Result<(), Verdict> {
        if !self.send().await {
            return Err(Verdict::Over);
        }
        let goes_on = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"keep-alive");
        let last =
            parts.version == Version::HTTP_10 || !parts.headers.get_all(CONNECTION).iter().all(goes_on);
        let request = Request::from_parts(parts, Body::empty());
        // Boxed, since the other connections need no room for it.
        let answering = Box::pin(http::events(self.app.clone(), self.peer, request));
        let response = tokio::select! {
            biased;
            response = answering => response,
            () = self.guard.hung_up() => return Err(Verdict::Over),
        };
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let last = last || self.app.drain.is_begun();
        head::put_answer(&mut self.answers, parts.status, &parts.headers, &body, last);
        if last {
            return Err(Verdict::Answered);
        }
        self.guard.await_next();
        Ok(())
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
