//! From a subscribe request to a stream that a worker can take.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tidings_hub::durable::DurableError;
use tidings_hub::log::{Durability, ReadError};
use tidings_hub::{Lens, Opening, Resume, Start, Tells, Timestamp, View, Who};
use tidings_wire::{ConnectionId, Control, Cursor, Framing, GapReason, Position, Sequence};

use super::conn::About;
use super::head;
use super::worker::{NewStream, WorkersHandle};
use crate::auth::Identity;
use crate::subscribe::{ControlLevel, SubscribeRequest, requested_start, subscribe_request};
use crate::{App, Problem, accept, presence};

/// How long who found no place waits at least before it comes back, and how long at most, as multiples of `retry`.
const COME_BACK: (u32, u32) = (1, 3);

/// A stream that lacks only its socket.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    workers: &'a WorkersHandle,
    stream: NewStream,
}

impl Admission<'_> {
    /// Gives the stream's socket, which does not block, to its worker.
    pub(crate) fn hand_over(self, socket: TcpStream) {
        self.workers.admit(self.stream, socket);
    }
}

/// Decides about a subscribe request.
///
/// # Errors
/// The bytes of the answer, after which the connection is closed.
pub(crate) async fn open<'a>(
    app: &'a App,
    workers: &'a WorkersHandle,
    parts: &Parts,
    peer: SocketAddr,
) -> Result<Admission<'a>, Vec<u8>> {
    let mut cors = HeaderMap::new();
    app.cors.apply(parts, &mut cors);
    let answer = Answer { app, parts, framing: head::framing(parts.version), cors };
    match answer.admit(workers, peer).await {
        Ok(stream) => Ok(Admission { workers, stream }),
        Err(Refusal::Problem(problem)) => {
            let problem = match answer.come_back_later(problem) {
                Ok(bytes) => return Err(bytes),
                Err(problem) => problem,
            };
            let mut response = problem.response::<String>(&app.request_id());
            tracing::debug!(%peer, status = response.status().as_u16(), reason = problem.detail(), "no stream");
            response.headers_mut().extend(answer.cors);
            Err(head::last(&response))
        }
        Err(Refusal::ComeBack(bytes)) => Err(bytes),
        Err(Refusal::NothingToCome) => Err(head::nothing_to_come(&answer.cors)),
    }
}

enum Refusal {
    Problem(Problem),
    /// The whole answer.
    ComeBack(Vec<u8>),
    /// 204, upon which no `EventSource` comes back (HTML Standard, 9.2.3).
    NothingToCome,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Refusal {
        Refusal::Problem(problem)
    }
}

/// What the answer to one request is made of.
struct Answer<'a> {
    app: &'a App,
    parts: &'a Parts,
    framing: Framing,
    cors: HeaderMap,
}

impl Answer<'_> {
    async fn admit(&self, workers: &WorkersHandle, peer: SocketAddr) -> Result<NewStream, Refusal> {
        let now = Timestamp::now();
        let identity = self.app.access.identify(self.parts, peer, now).await?;
        let request = subscribe_request(self.parts, &identity, &self.app.config.limits, &self.app.filters)?;
        if self.app.is_draining() {
            return Err(self.come_back(&request, &Control::Drain, "the server is stopping; try again"));
        }
        let permit = match self.app.limits.admit(identity.user.clone(), peer.ip()) {
            Ok(permit) => permit,
            Err(limit) => {
                let detail = match limit {
                    crate::OverLimit::Connections => {
                        "the server has as many streams as it may; try again later"
                    }
                    crate::OverLimit::User => "this user has as many streams as allowed; close one",
                    crate::OverLimit::Address => "this address has as many streams as allowed; close one",
                };
                return Err(self.come_back(&request, &Control::Overloaded, detail));
            }
        };
        let lens = Lens {
            who: Who { user: identity.user.clone(), client: request.client.clone() },
            filter: request.filter.clone(),
        };
        let mut request = request;
        if let (Some(name), Some(user)) = (&request.subscription, &identity.user) {
            let start = request.start.clone();
            let durables = self.app.hub.durables();
            let opening = durables.open(user, name, start, &request.views, &request.asked, now);
            request.start = opening.await.map_err(not_opened)?;
        }
        let resume = self.resume(&request, &lens, now).await.map_err(unreadable)?;
        if resume.is_over() || (request.if_active && !self.is_active(&request, workers).await?) {
            return Err(Refusal::NothingToCome);
        }
        if let (true, Some(reason)) = (request.only, resume.gap()) {
            return Err(gone(reason).into());
        }
        let (seat, id) = workers.seat();
        let watching = match request.presence.is_empty() {
            true => None,
            false => Some(workers.watch(seat.worker, request.presence.clone()).await),
        };
        let holding = request.subscription.clone().zip(identity.user.clone());
        let holding = holding.map(|(name, user)| workers.hold(user, name, seat.worker));
        let about = About { id, address: peer, control: request.control, permit, seat, holding };
        let token = identity.expires.map(|expires| expires.since(now));
        let info = presence::info(identity.info.as_deref());
        let opening = self.opening(request, identity, lens, resume, id);
        Ok(NewStream { opening, about, token, info, watching })
    }

    fn opening(
        &self,
        request: SubscribeRequest,
        identity: Identity,
        lens: Lens,
        resume: Resume,
        connection: ConnectionId,
    ) -> Opening {
        let said = match request.control {
            ControlLevel::None | ControlLevel::Gaps => None,
            ControlLevel::Default | ControlLevel::All => Some(
                json!({
                    "connection": connection.to_string(),
                    "user": identity.user.as_ref().map(|user| user.as_str()),
                    "secret": identity.user.is_none().then(|| self.app.secret_of(connection)),
                    "channels": request.asked.iter().map(|channel| channel.as_str()).collect::<Vec<_>>(),
                })
                .to_string(),
            ),
        };
        let retry = jittered(self.app.config.retry);
        Opening {
            views: request.views,
            resume,
            head: head::opening(self.framing, &self.cors, request.padding, retry),
            open: said,
            framing: self.framing,
            envelope: request.envelope,
            lens,
            tells: Tells {
                end: request.control.hears_reasons(),
                skipped: request.control == ControlLevel::All,
            },
            connection: Some(connection),
        }
    }

    /// Where the stream begins. A log in memory is asked at once; another may read a disk, which no thread that others
    /// wait for does.
    async fn resume(
        &self,
        request: &SubscribeRequest,
        lens: &Lens,
        now: Timestamp,
    ) -> Result<Resume, ReadError> {
        let hub = &self.app.hub;
        if request.start == Start::Now || hub.log().durability() == Durability::Memory {
            return hub.resume(&request.views, &request.start, lens, now);
        }
        let (hub, lens) = (hub.clone(), lens.clone());
        let (views, start) = (request.views.clone(), request.start.clone());
        tokio::task::spawn_blocking(move || hub.resume(&views, &start, &lens, now))
            .await
            .unwrap_or_else(|error| Err(ReadError::Failed(error.to_string())))
    }

    /// Whether one of the channels that were asked for has an event or an open stream.
    async fn is_active(&self, request: &SubscribeRequest, workers: &WorkersHandle) -> Result<bool, Problem> {
        let asked: Vec<View> = request.asked.iter().cloned().map(View::from).collect();
        if workers.follows(&asked).await {
            return Ok(true);
        }
        let (hub, head) = (self.app.hub.clone(), self.app.hub.log().head().sequence);
        tokio::task::spawn_blocking(move || hub.log().newest(&asked, 1, head))
            .await
            .unwrap_or_else(|error| Err(ReadError::Failed(error.to_string())))
            .map(|kept| !kept.is_empty())
            .map_err(unreadable)
    }

    /// The answer to who is to come back.
    fn come_back(&self, request: &SubscribeRequest, control: &Control<'_>, detail: &'static str) -> Refusal {
        let retry = spread(self.app.config.retry, COME_BACK);
        if accept::names_event_stream(&self.parts.headers) {
            let id = self.cursor(&request.start, request.subscription.is_some());
            return Refusal::ComeBack(head::come_back(self.framing, &self.cors, control, retry, id.as_ref()));
        }
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let kind = control.event_type().trim_start_matches("tidings:");
        let problem = Problem::new(status, kind, "No place for another stream now", detail);
        problem.header(RETRY_AFTER, HeaderValue::from(retry.div_ceil(1000))).into()
    }

    /// The answer to who is to come back after something that is not there just now: the log, or the keys that its
    /// token is to be checked with. 503 would end an `EventSource` for good.
    fn come_back_later(&self, problem: Problem) -> Result<Vec<u8>, Problem> {
        let later = problem.status() == StatusCode::SERVICE_UNAVAILABLE;
        if !later || !accept::names_event_stream(&self.parts.headers) {
            return Err(problem);
        }
        let (start, durable) = requested_start(self.parts, &self.app.config.limits)?;
        let retry = spread(self.app.config.retry, COME_BACK);
        let id = self.cursor(&start, durable);
        Ok(head::come_back(self.framing, &self.cors, &Control::Overloaded, retry, id.as_ref()))
    }

    /// What a client that has no stream comes back with, so that it misses nothing meanwhile: its own place; for a
    /// newcomer the present one. Never its own words: what is no cursor is the cursor of the place that nobody knows.
    fn cursor(&self, start: &Start, durable: bool) -> Option<Cursor> {
        let (hub, key) = (&self.app.hub, self.app.hub.key());
        let position = match start {
            // The hub knows its place; to come back with another one would acknowledge what it never got.
            Start::Now | Start::Earliest if durable => return None,
            Start::Now => hub.log().head(),
            Start::Earliest => Position { sequence: Sequence::START, ..hub.log().head() },
            // With a cursor it would not get its history; without one it asks for it again.
            Start::History(_) | Start::Latest => return None,
            Start::Cursor(text) => key.open(text).unwrap_or(Position::UNKNOWN),
        };
        Some(key.seal(position))
    }
}

/// Why there is no stream of a durable subscription. The rest is like a log that can't be read.
fn not_opened(error: DurableError) -> Problem {
    let detail = error.to_string();
    match error {
        DurableError::Read(error) => unreadable(error),
        DurableError::Write(error) => {
            tracing::error!(%error, "a durable subscription can't be noted");
            let problem = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "not_stored",
                "The subscription can't be noted",
                "a new durable subscription can't be noted just now; try again",
            );
            problem.header(RETRY_AFTER, HeaderValue::from_static("3"))
        }
        DurableError::TooMany => {
            Problem::new(StatusCode::CONFLICT, "too_many_subscriptions", "Too many subscriptions", detail)
        }
        DurableError::Absent | DurableError::TooLong | DurableError::BadId => Problem::bad_request(detail),
    }
}

fn unreadable(error: ReadError) -> Problem {
    tracing::error!(%error, "the log can't be read for a new stream");
    let detail = "the log can't be read just now; try again";
    let problem =
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_failed", "The log can't be read", detail);
    problem.header(RETRY_AFTER, HeaderValue::from_static("3"))
}

/// RFC 9110, 15.5.11: what was asked for is not there any more.
fn gone(reason: GapReason) -> Problem {
    let detail = format!("what comes after this last event id can't be told without a gap ({reason})");
    Problem::new(StatusCode::GONE, "gap", "Events would be missing", detail)
}

/// A tenth more or less, in milliseconds: clients that were cut off together do not come back together.
fn jittered(retry: Duration) -> u32 {
    let retry = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
    let tenth = retry / 10;
    retry - tenth + random_below(tenth * 2 + 1)
}

/// Something between two multiples of a duration, in milliseconds.
pub(crate) fn spread(retry: Duration, (least, most): (u32, u32)) -> u32 {
    let retry = u32::try_from(retry.as_millis()).unwrap_or(u32::MAX);
    let least = retry.saturating_mul(least);
    least.saturating_add(random_below(retry.saturating_mul(most).saturating_sub(least)))
}

fn random_below(end: u32) -> u32 {
    // Without randomness there is no jitter, which is no reason to refuse anybody.
    let random = getrandom::u32().unwrap_or_default();
    u32::try_from((u64::from(random) * u64::from(end)) >> 32).unwrap_or_default()
}
