//! A subscription: one stream of updates over as many connections as it takes.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_core::Stream;
use reqwest::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use tidings_wire::{ParseError, Parser};
use tokio::time::{Instant, Sleep, sleep};

use crate::backoff::Backoff;
use crate::connect::{Answer, connect};
use crate::error::chain;
use crate::{Client, Closing, Error, Lost, LostReason, Open, Subscribe, Update};

/// A stream of updates that comes back by itself. Made by [`Client::subscribe`](crate::Client::subscribe).
///
/// It ends after an error, and after [`Update::End`] when there is nothing more to come. It does something
/// only while it is asked for the next update; dropping it closes the connection.
pub struct Subscription {
    pub(crate) client: Client,
    /// What the next connection asks for: with all changes that were made.
    pub(crate) subscribe: Subscribe,
    backoff: Backoff,
    /// The id to connect with; while reading, the parser has a newer one.
    last_event_id: String,
    state: State,
}

enum State {
    /// To be connected.
    Idle,
    /// The request is sent.
    Connecting(Pin<Box<dyn Future<Output = Answer> + Send>>),
    /// The stream is open.
    Reading(Box<Reading>),
    /// The stream was lost; the next attempt is made when this is over.
    Waiting(Pin<Box<Sleep>>),
    /// Nothing more will come.
    Done,
}

/// An open stream.
struct Reading {
    body: Pin<Box<dyn Stream<Item = Result<Bytes, reqwest::Error>> + Send>>,
    parser: Parser,
    /// What has come and is not parsed yet.
    input: Bytes,
    /// Ends when nothing came for too long.
    watchdog: Pin<Box<Sleep>>,
    silence: Duration,
    /// By what it is changed while it runs; told by its first block.
    handle: Option<Handle>,
}

/// What a running connection is changed by.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) connection: String,
    /// Where it has no user.
    pub(crate) secret: Option<String>,
}

/// What an open stream has next.
enum Read {
    Message(tidings_wire::Message),
    Lost(LostReason),
    Broken(ParseError),
}

impl Subscription {
    pub(crate) fn new(client: Client, subscribe: Subscribe) -> Subscription {
        let last_event_id = subscribe.first_id();
        let backoff = Backoff::new(subscribe.retry);
        Subscription { client, subscribe, backoff, last_event_id, state: State::Idle }
    }

    /// The next update. Safe to be dropped at any time, as in `select!`: nothing is lost.
    ///
    /// `None` after [`Update::End`] (there is nothing more to come, now or later) and after an error.
    pub async fn next(&mut self) -> Option<Result<Update, Error>> {
        poll_fn(|context| self.poll(context)).await
    }

    /// The id of the last event that came out of here, to be kept by who wants to go on from it later with
    /// [`Start::After`](crate::Start::After). Empty until there is one.
    pub fn last_event_id(&self) -> &str {
        match &self.state {
            State::Reading(reading) => reading.parser.last_event_id(),
            _ => &self.last_event_id,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Update, Error>>> {
        loop {
            match &mut self.state {
                State::Idle => self.state = State::Connecting(self.attempt()),
                State::Connecting(answer) => match ready!(answer.as_mut().poll(context)) {
                    Answer::Stream(response) => self.state = self.read(response),
                    Answer::Nothing => {
                        self.state = State::Done;
                        return Poll::Ready(Some(Ok(Update::End)));
                    }
                    Answer::NotNow { reason, not_before } => {
                        return Poll::Ready(Some(Ok(self.lose(reason, not_before))));
                    }
                    Answer::Never(error) => return Poll::Ready(Some(Err(self.give_up(error)))),
                },
                State::Reading(reading) => match ready!(reading.poll(context)) {
                    Read::Message(message) => {
                        if let Some(update) = self.take(message) {
                            return Poll::Ready(Some(Ok(update)));
                        }
                    }
                    Read::Lost(reason) => return Poll::Ready(Some(Ok(self.lose(reason, None)))),
                    Read::Broken(error) => return Poll::Ready(Some(Err(self.give_up(error.into())))),
                },
                State::Waiting(wait) => {
                    ready!(wait.as_mut().poll(context));
                    self.state = State::Idle;
                }
                State::Done => return Poll::Ready(None),
            }
        }
    }

    fn attempt(&self) -> Pin<Box<dyn Future<Output = Answer> + Send>> {
        let mut request = self
            .client
            .open(&self.subscribe)
            .header(ACCEPT, "text/event-stream")
            .header(CACHE_CONTROL, "no-store");
        if !self.last_event_id.is_empty() {
            // An id of a strange server may have characters that no header can have; then it is asked without.
            if let Ok(id) = HeaderValue::from_bytes(self.last_event_id.as_bytes()) {
                request = request.header("Last-Event-ID", id);
            }
        }
        Box::pin(connect(request, self.subscribe.silence))
    }

    fn read(&self, response: reqwest::Response) -> State {
        State::Reading(Box::new(Reading {
            body: Box::pin(response.bytes_stream()),
            parser: Parser::resumed(self.subscribe.limits, self.last_event_id.clone()),
            input: Bytes::new(),
            watchdog: Box::pin(sleep(self.subscribe.silence)),
            silence: self.subscribe.silence,
            handle: None,
        }))
    }

    /// What the open stream is changed by, if there is one.
    pub(crate) fn handle(&self) -> Option<Handle> {
        match &self.state {
            State::Reading(reading) => reading.handle.clone(),
            _ => None,
        }
    }

    /// Gives up a connection that is being made, or that asked for something else than what is wanted now: the next one
    /// asks for all of it, and goes on from the same place.
    pub(crate) fn ask_anew(&mut self) {
        if let State::Connecting(_) | State::Reading(_) = self.state {
            self.leave(State::Idle);
        }
    }

    fn take(&mut self, message: tidings_wire::Message) -> Option<Update> {
        let update = Update::read(message, self.subscribe.has_envelope());
        match &update {
            Some(Update::End) => self.leave(State::Done),
            // The stream is one in form only: a server that is overloaded for long is to be asked less and less often.
            Some(Update::Closing(Closing::Overloaded)) => {}
            Some(Update::Open(Open { connection, secret, .. })) => {
                self.backoff.succeeded();
                if let State::Reading(reading) = &mut self.state {
                    reading.handle = Some(Handle { connection: connection.clone(), secret: secret.clone() });
                }
            }
            _ => self.backoff.succeeded(),
        }
        update
    }

    fn lose(&mut self, reason: LostReason, not_before: Option<Duration>) -> Update {
        if let State::Reading(reading) = &self.state
            && let Some(ms) = reading.parser.retry()
        {
            self.backoff.set_retry(ms);
        }
        // Without random numbers, at least in the middle.
        let random = getrandom::u32().unwrap_or(u32::MAX / 2);
        let retry_in = self.backoff.lost(not_before, random);
        self.leave(State::Waiting(Box::pin(sleep(retry_in))));
        Update::Lost(Lost { reason, retry_in })
    }

    fn give_up(&mut self, error: Error) -> Error {
        self.leave(State::Done);
        error
    }

    /// Goes on to another state, with what the stream's parser knew.
    fn leave(&mut self, next: State) {
        self.last_event_id = self.last_event_id().to_owned();
        self.state = next;
    }
}

impl Reading {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Read> {
        loop {
            let mut rest = &self.input[..];
            let result = self.parser.next_message(&mut rest);
            let taken = self.input.len() - rest.len();
            self.input.advance(taken);
            match result {
                Ok(Some(message)) => return Poll::Ready(Read::Message(message)),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Read::Broken(error)),
            }
            match self.body.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.input = bytes;
                    self.watchdog.as_mut().reset(Instant::now() + self.silence);
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Read::Lost(LostReason::Transport(chain(&error.without_url()))));
                }
                Poll::Ready(None) => return Poll::Ready(Read::Lost(LostReason::Ended)),
                Poll::Pending => {
                    ready!(self.watchdog.as_mut().poll(context));
                    return Poll::Ready(Read::Lost(LostReason::Silent(self.silence)));
                }
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Result<Update, Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll(context)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the URL nor the HTTP client: both may carry a token.
        let state = match self.state {
            State::Idle => "idle",
            State::Connecting(_) => "connecting",
            State::Reading(_) => "reading",
            State::Waiting(_) => "waiting",
            State::Done => "done",
        };
        f.debug_struct("Subscription")
            .field("state", &state)
            .field("last_event_id", &self.last_event_id())
            .finish_non_exhaustive()
    }
}
