//! NDJSON: each line is published as it arrives, without waiting for the one before to be stored, and answered by a
//! line in the same place.
//!
//! A task reads the request and puts what is under way into a short queue; the response's body waits for it in
//! order. When the client reads no answers, the queue fills and the task reads no more.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use tidings_hub::log::AppendError;
use tidings_hub::{PublishError, Published, Timestamp};
use tidings_wire::Event;
use tidings_wire::publication::{self, Keyed, Rules};
use tokio::sync::mpsc;

use super::{authorise, not_published, once, put_published};
use crate::auth::{Identity, invalid_token};
use crate::http::body::{Pieces, too_large_for};
use crate::http::log::unavailable;
use crate::{App, Problem};

/// How many lines go into the log together, if so many have arrived at once.
const LINES_AT_ONCE: usize = 256;
/// How many such groups may be on their way into the log.
const GROUPS_UNDER_WAY: usize = 16;
/// A piece of the answer is sent when it has so many bytes, or there is nothing more to say just now.
const PIECE: usize = 32 << 10;

/// Answers at once and reads on, so that the client hears of each line while it sends the next.
pub(super) fn publish(
    app: Arc<App>,
    identity: Identity,
    body: Pieces,
    first: Option<Bytes>,
) -> Response<Body> {
    let (answers, queue) = mpsc::channel(GROUPS_UNDER_WAY);
    let lines = Lines {
        answers: Answers { queue: answers, patience: body.idle },
        rules: app.config.publication(),
        app: app.clone(),
        identity,
        begun: BytesMut::new(),
        oversize: false,
        number: 0,
        events: Vec::new(),
        group: Vec::new(),
        lines: 0,
    };
    tokio::spawn(lines.run(body, first));
    let mut response =
        Response::new(Body::new(Answering { app, queue, group: Vec::new().into_iter(), current: None }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

type Publishing = Pin<Box<dyn Future<Output = Result<Vec<Published>, PublishError>> + Send>>;

/// What is to be said about one line or several.
enum Answer {
    /// So many lines are on their way into the log.
    Publishing(usize, Publishing),
    /// A line that is no event, or the end of it all.
    Refused(Problem),
}

/// The sending end of the queue. Once the client is gone, or takes no answers, nothing more is said.
struct Answers {
    queue: mpsc::Sender<Vec<Answer>>,
    patience: Duration,
}

impl Answers {
    /// `false` when nobody listens any more.
    async fn say(&self, answer: Answer) -> bool {
        self.say_all(vec![answer]).await
    }

    async fn say_all(&self, answers: Vec<Answer>) -> bool {
        self.queue.send_timeout(answers, self.patience).await.is_ok()
    }
}

/// The lines of one request.
struct Lines {
    rules: Rules,
    app: Arc<App>,
    identity: Identity,
    answers: Answers,
    /// The beginning of a line whose end has not arrived.
    begun: BytesMut,
    /// That line is too long already; the rest of it is skipped.
    oversize: bool,
    /// How many lines have ended.
    number: u64,
    /// Lines that were read and go into the log together.
    events: Vec<Event>,
    /// What is on its way into the log and not in the queue yet: a line with a key of its own ends a batch and is one.
    group: Vec<Answer>,
    /// How many lines these are.
    lines: usize,
}

impl Lines {
    async fn run(mut self, mut body: Pieces, first: Option<Bytes>) {
        let mut piece = Ok(first);
        if let Ok(None) = piece {
            piece = self.next(&mut body).await;
        }
        loop {
            match piece {
                Ok(Some(_)) if self.is_over() => {
                    let problem = invalid_token("it expired while lines were published".into());
                    self.answers.say(Answer::Refused(problem)).await;
                    return;
                }
                Ok(Some(bytes)) => {
                    if !self.take(&bytes).await {
                        return;
                    }
                }
                Ok(None) => {
                    let last = mem::take(&mut self.begun);
                    let _ = self.end_line(&last).await && self.flush().await;
                    return;
                }
                // What was begun is not a line: its end is missing.
                Err(problem) => {
                    self.answers.say(Answer::Refused(problem)).await;
                    return;
                }
            }
            piece = self.next(&mut body).await;
        }
    }

    /// Whether the token has ended meanwhile: a request may last for days.
    fn is_over(&self) -> bool {
        self.identity.expires.is_some_and(|end| end <= Timestamp::now())
    }

    async fn next(&mut self, body: &mut Pieces) -> Result<Option<Bytes>, Problem> {
        tokio::select! {
            biased;
            piece = body.next() => piece,
            () = self.app.draining() => Err(Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "draining",
                "The server is stopping",
                "every line that was answered is stored; send the others to another node, or again in a moment",
            )),
        }
    }

    /// Publishes every line that ends in this piece. `false` when nobody listens any more and there is no more to do.
    async fn take(&mut self, piece: &[u8]) -> bool {
        let mut rest = piece;
        let mut listening = true;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            rest = after.get(1..).unwrap_or_default();
            // What has arrived is published even if the client is gone meanwhile.
            listening &= if self.begun.is_empty() && !self.oversize {
                self.end_line(line).await
            } else {
                self.keep(line);
                let line = mem::take(&mut self.begun);
                self.end_line(&line).await
            };
        }
        self.keep(rest);
        self.flush().await && listening
    }

    /// Keeps the beginning of a line.
    fn keep(&mut self, bytes: &[u8]) {
        if self.oversize || self.begun.len() + bytes.len() > self.app.config.limits.body {
            self.oversize = true;
            self.begun = BytesMut::new();
        } else {
            self.begun.extend_from_slice(bytes);
        }
    }

    /// A line is complete. `false` when nobody listens any more.
    async fn end_line(&mut self, line: &[u8]) -> bool {
        self.number += 1;
        let number = self.number;
        if mem::take(&mut self.oversize) {
            let limit = self.app.config.limits.body;
            let detail = format!("line {number}: a line may have {limit} bytes");
            return self.refuse(too_large_for("limits.body", &detail)).await;
        }
        if line.trim_ascii().is_empty() {
            return true;
        }
        let keyed = publication::line(line, &self.rules).map_err(Problem::from);
        let keyed = keyed.and_then(|keyed| authorise(&self.identity, &keyed.event).map(|()| keyed));
        match keyed {
            Ok(Keyed { event, once }) => {
                match once {
                    None => self.events.push(event),
                    Some(key) => {
                        self.publish_batch();
                        let now = Timestamp::now();
                        let once = once::once(&key, &self.identity, std::slice::from_ref(&event), now);
                        let publishing = self.app.hub.publish_with(vec![event], once.into(), now);
                        self.group.push(Answer::Publishing(1, Box::pin(publishing)));
                    }
                }
                self.lines += 1;
                self.lines < LINES_AT_ONCE || self.flush().await
            }
            Err(problem) => self.refuse(problem.at(format!("line {number}"))).await,
        }
    }

    async fn refuse(&mut self, problem: Problem) -> bool {
        self.flush().await && self.answers.say(Answer::Refused(problem)).await
    }

    /// Puts the lines that were read and have no key on their way into the log.
    fn publish_batch(&mut self) {
        if self.events.is_empty() {
            return;
        }
        let events = mem::take(&mut self.events);
        let hub = &self.app.hub;
        let is_ended = |event: &Event| event.to.channels().iter().any(|to| hub.log().ended(to).is_some());
        if events.iter().any(|event| event.end || is_ended(event)) {
            // A batch is refused as a whole; each line here is to be refused by itself.
            for event in events {
                let publishing = hub.publish_batch(vec![event]);
                self.group.push(Answer::Publishing(1, Box::pin(publishing)));
            }
        } else {
            let count = events.len();
            self.group.push(Answer::Publishing(count, Box::pin(hub.publish_batch(events))));
        }
    }

    /// Puts the lines that were read on their way into the log, and their answers into the queue.
    async fn flush(&mut self) -> bool {
        self.publish_batch();
        self.lines = 0;
        self.group.is_empty() || self.answers.say_all(mem::take(&mut self.group)).await
    }
}

/// The body of the response.
struct Answering {
    app: Arc<App>,
    queue: mpsc::Receiver<Vec<Answer>>,
    /// What has come out of the queue.
    group: std::vec::IntoIter<Answer>,
    current: Option<Answer>,
}

impl Answering {
    /// The lines that answer the next group. `Ready(false)` after the last one.
    fn poll_answer(&mut self, context: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<bool> {
        while self.current.is_none() {
            self.current = self.group.next();
            if self.current.is_none() {
                match ready!(self.queue.poll_recv(context)) {
                    Some(group) => self.group = group.into_iter(),
                    None => break,
                }
            }
        }
        match &mut self.current {
            None => return Poll::Ready(false),
            Some(Answer::Refused(problem)) => put_problem(out, problem, &self.app),
            Some(Answer::Publishing(count, publishing)) => match ready!(publishing.as_mut().poll(context)) {
                Ok(published) => {
                    let durability = self.app.hub.log().durability();
                    for published in &published {
                        put_published(out, published, None, durability);
                        out.push(b'\n');
                    }
                }
                Err(error) => {
                    let problem = match error {
                        // It ended between the look and the log. Which lines that is about, the next try says.
                        PublishError::Log(AppendError::Ended(_)) if *count > 1 => {
                            let detail = "a channel of a line beside it ended just now; try again";
                            unavailable("not_stored", "Not stored", detail.to_owned())
                        }
                        error => not_published(&error),
                    };
                    for _ in 0..*count {
                        put_problem(out, &problem, &self.app);
                    }
                }
            },
        }
        self.current = None;
        Poll::Ready(true)
    }
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut out = Vec::new();
        while out.len() < PIECE {
            match self.poll_answer(context, &mut out) {
                Poll::Ready(true) => {}
                Poll::Ready(false) if out.is_empty() => return Poll::Ready(None),
                Poll::Pending if out.is_empty() => return Poll::Pending,
                Poll::Ready(false) | Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(Frame::data(out.into()))))
    }
}

fn put_problem(out: &mut Vec<u8>, problem: &Problem, app: &App) {
    out.extend_from_slice(problem.document(&app.request_id()).as_bytes());
    out.push(b'\n');
}
