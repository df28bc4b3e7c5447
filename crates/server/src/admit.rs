//! Who asks for events is let in here, or told why not, whether the answer will be a stream or one document.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HeaderValue, RETRY_AFTER};
use http::request::Parts;
use tidings_hub::durable::{DurableError, Turn, Wanted};
use tidings_hub::log::{Durability, ReadError};
use tidings_hub::{Lens, Resume, Start, Timestamp, View, Who};
use tidings_wire::{Control, GapReason};

use crate::auth::Identity;
use crate::limits::{OverLimit, Permit};
use crate::stats_channel::StatsChannel;
use crate::subscribe::{SubscribeRequest, subscribe_request};
use crate::{App, Problem, misspelt};

/// One who may have what it asks for, and has a place.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) request: SubscribeRequest,
    pub(crate) identity: Identity,
    pub(crate) lens: Lens,
    pub(crate) resume: Resume,
    pub(crate) permit: Permit,
    /// Of the streams of a durable subscription, which one it is.
    pub(crate) turn: Option<Turn>,
    /// When that was decided.
    pub(crate) now: Timestamp,
}

/// Why somebody is not let in.
#[derive(Debug)]
pub(crate) enum Refused {
    Problem(Problem),
    /// There is no place for it now. It may come back, to where it wanted to begin.
    Later {
        control: Control<'static>,
        detail: &'static str,
        start: Start,
        /// It is a durable subscription's: the hub knows its place.
        durable: bool,
    },
    /// There is nothing more to come, or nothing happens there.
    NothingToCome,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        Refused::Problem(problem)
    }
}

/// Decides about a request for events, which are to come on a stream (`live`) or in one answer.
pub(crate) async fn admit(
    app: &Arc<App>,
    parts: &Parts,
    peer: SocketAddr,
    live: bool,
) -> Result<Admitted, Refused> {
    let now = Timestamp::now();
    let identity = app.access.identify(parts, peer, now).await?;
    if app.config.dev {
        misspelt::tell(parts.uri.query());
    }
    let mut request = subscribe_request(parts, &identity, &app.config.limits, &app.filters)?;
    let durable = request.subscription.is_some();
    if app.is_draining() {
        let detail = "the server is stopping; try again";
        return Err(Refused::Later { control: Control::Drain, detail, start: request.start, durable });
    }
    let permit =
        match app.limits.admit(identity.user.clone(), app.elsewhere(identity.user.as_ref()), peer.ip()) {
            Ok(permit) => permit,
            Err(limit) => {
                let detail = match limit {
                    OverLimit::Connections => "the server has as many streams as it may; try again later",
                    OverLimit::User => "this user has as many streams as allowed; close one",
                    OverLimit::Address => "this address has as many streams as allowed; close one",
                };
                return Err(Refused::Later {
                    control: Control::Overloaded,
                    detail,
                    start: request.start,
                    durable,
                });
            }
        };
    let lens = Lens {
        who: Who { user: identity.user.clone(), client: request.client.clone() },
        filter: request.filter.clone(),
    };
    let mut turn = None;
    if let (Some(name), Some(user)) = (&request.subscription, &identity.user) {
        if let Start::Cursor(id) = request.start.clone() {
            let hub = app.hub.clone();
            blocking(move || hub.reach(&id)).await.map_err(|error| unreadable(&error))?;
        }
        let (start, views, asked) = (&request.start, &request.views, &request.asked);
        // On one node the stream that comes later is the newer one, and nothing has to be stored for that.
        let counted = live && app.cluster().is_some();
        let wanted = Wanted { start, views, asked, counted };
        let opened = app.hub.durables().open(user, name, wanted, now).await.map_err(not_opened)?;
        (request.start, turn) = (opened.start, opened.turn.or(live.then_some(Turn(0))));
    }
    let resume = resume(app, &request, &lens, now).await.map_err(|error| unreadable(&error))?;
    if resume.is_over() || (request.if_active && !is_active(app, &request).await?) {
        return Err(Refused::NothingToCome);
    }
    if let (true, Some(reason)) = (request.only, resume.gap()) {
        return Err(gone(reason).into());
    }
    StatsChannel::followed(app, &request.views);
    Ok(Admitted { request, identity, lens, resume, permit, turn, now })
}

/// Where it begins. A log in memory is asked at once; another may read a disk, which no thread that others wait for
/// does.
async fn resume(
    app: &App,
    request: &SubscribeRequest,
    lens: &Lens,
    now: Timestamp,
) -> Result<Resume, ReadError> {
    let hub = &app.hub;
    if request.start == Start::Now || hub.log().durability() == Durability::Memory {
        return hub.resume(&request.views, &request.start, lens, now);
    }
    let (hub, lens) = (hub.clone(), lens.clone());
    let (views, start) = (request.views.clone(), request.start.clone());
    blocking(move || hub.resume(&views, &start, &lens, now)).await
}

/// Reads the log where blocking is allowed.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let reading = tokio::task::spawn_blocking(read).await;
    reading.unwrap_or_else(|error| Err(ReadError::Failed(error.to_string())))
}

/// Whether one of the channels that were asked for has an event, an open stream, or somebody who polls it.
async fn is_active(app: &App, request: &SubscribeRequest) -> Result<bool, Problem> {
    let asked: Vec<View> = request.asked.iter().cloned().map(View::from).collect();
    if app.follows(&asked).await {
        return Ok(true);
    }
    let (hub, head) = (app.hub.clone(), app.hub.log().head().sequence);
    let kept = blocking(move || hub.log().newest(&asked, 1, head)).await;
    kept.map(|kept| !kept.is_empty()).map_err(|error| unreadable(&error))
}

/// Why there is no stream of a durable subscription. The rest is like a log that can't be read.
fn not_opened(error: DurableError) -> Problem {
    let detail = error.to_string();
    match error {
        DurableError::Read(error) => unreadable(&error),
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
        DurableError::TooMany => too_many_subscriptions(detail),
        DurableError::Absent | DurableError::TooLong | DurableError::BadId => Problem::bad_request(detail),
    }
}

/// 409: the user has as many durable subscriptions as it may.
pub(crate) fn too_many_subscriptions(detail: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, "too_many_subscriptions", "Too many subscriptions", detail)
}

/// The answer to who finds no place and is no `EventSource`; `retry` is in milliseconds.
pub(crate) fn no_place(control: &Control<'_>, detail: &'static str, retry: u32) -> Problem {
    let kind = control.event_type().trim_start_matches("tidings:");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, kind, "No place for another stream now", detail)
        .header(RETRY_AFTER, HeaderValue::from(retry.div_ceil(1000)))
}

/// The log can't be read just now.
pub(crate) fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "the log can't be read for a new stream");
    let detail = "the log can't be read just now; try again";
    let problem =
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "log_failed", "The log can't be read", detail);
    problem.header(RETRY_AFTER, HeaderValue::from_static("3"))
}

/// RFC 9110, 15.5.11: what was asked for is not there any more.
pub(crate) fn gone(reason: GapReason) -> Problem {
    let detail = format!("what comes after this last event id can't be told without a gap ({reason})");
    Problem::new(StatusCode::GONE, "gap", "Events would be missing", detail)
}
