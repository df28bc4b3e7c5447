//! From a subscribe request to a stream that a worker can take.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tidings_hub::{Lens, Opening, Resume, Start, Tells};
use tidings_wire::{ConnectionId, Control, Cursor, Framing, Position, Sequence};

use super::conn::About;
use super::head;
use super::worker::{NewStream, WorkersHandle};
use crate::admit::{Admitted, Refused, admit, no_place};
use crate::auth::Identity;
use crate::subscribe::{ControlLevel, SubscribeRequest, requested_start};
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
    app: &'a Arc<App>,
    workers: &'a WorkersHandle,
    parts: &Parts,
    peer: SocketAddr,
) -> Result<Admission<'a>, Vec<u8>> {
    let mut cors = HeaderMap::new();
    app.cors.apply(parts, &mut cors);
    let answer = Answer { app, parts, framing: head::framing(parts.version), cors };
    let problem = match admit(app, parts, peer, true).await {
        Ok(admitted) => {
            let stream = answer.stream(workers, peer, admitted).await;
            return Ok(Admission { workers, stream });
        }
        Err(Refused::NothingToCome) => return Err(head::nothing_to_come(&answer.cors)),
        Err(Refused::Later { control, start, durable, .. }) if accept::names_event_stream(&parts.headers) => {
            return Err(answer.come_back(&control, &start, durable));
        }
        Err(Refused::Later { control, detail, .. }) => {
            no_place(&control, detail, come_back_after(app.config.retry))
        }
        Err(Refused::Problem(problem)) => match answer.come_back_later(problem) {
            Ok(bytes) => return Err(bytes),
            Err(problem) => problem,
        },
    };
    let mut response = problem.response::<String>(&app.request_id());
    tracing::debug!(%peer, status = response.status().as_u16(), reason = problem.detail(), "no stream");
    response.headers_mut().extend(answer.cors);
    Err(head::last(&response))
}

/// What the answer to one request is made of.
struct Answer<'a> {
    app: &'a App,
    parts: &'a Parts,
    framing: Framing,
    cors: HeaderMap,
}

impl Answer<'_> {
    async fn stream(&self, workers: &WorkersHandle, peer: SocketAddr, admitted: Admitted) -> NewStream {
        let Admitted { request, identity, lens, resume, permit, turn, now } = admitted;
        let (seat, id) = workers.seat();
        let watching = match request.presence.is_empty() {
            true => None,
            false => Some(workers.watch(seat.worker, request.presence.clone()).await),
        };
        let holding = request.subscription.clone().zip(identity.user.clone()).zip(turn);
        let holding = holding.map(|((name, user), turn)| {
            self.app.tell_held(&user, &name, turn);
            workers.hold(user, name, seat.worker, turn)
        });
        let about = About { id, address: peer, control: request.control, permit, seat, holding };
        let token = identity.expires.map(|expires| expires.since(now));
        let info = presence::info(identity.info.as_deref());
        let opening = self.opening(request, identity, lens, resume, id);
        NewStream { opening, about, token, info, watching }
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
                    "secret": identity.user.is_none().then(|| self.app.hub.key().secret_of(connection)),
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

    /// The answer to who is to come back.
    fn come_back(&self, control: &Control<'_>, start: &Start, durable: bool) -> Vec<u8> {
        let id = self.cursor(start, durable);
        let retry = come_back_after(self.app.config.retry);
        head::come_back(self.framing, &self.cors, control, retry, id.as_ref())
    }

    /// The answer to who is to come back after something that is not there just now: the log, or the keys that its
    /// token is to be checked with. 503 would end an `EventSource` for good.
    fn come_back_later(&self, problem: Problem) -> Result<Vec<u8>, Problem> {
        let later = problem.status() == StatusCode::SERVICE_UNAVAILABLE;
        if !later || !accept::names_event_stream(&self.parts.headers) {
            return Err(problem);
        }
        let (start, durable) = requested_start(self.parts, &self.app.config.limits)?;
        Ok(self.come_back(&Control::Overloaded, &start, durable))
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

/// How long who found no place waits before it comes back, in milliseconds.
pub(crate) fn come_back_after(retry: Duration) -> u32 {
    spread(retry, COME_BACK)
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
