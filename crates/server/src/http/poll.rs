//! `GET /events?poll=1`: long polling, for who can't read a stream.
//!
//! The same request as for a stream, let in at the same place; instead of a stream it gets one document, with what a
//! stream would have sent by then.

use std::time::Duration;

use axum::body::Body;
use http::header::{CACHE_CONTROL, HeaderValue};
use http::{Response, StatusCode};
use serde::Serialize;
use tidings_hub::{Answer, Start};
use tidings_wire::Cursor;

use super::shown::{Gap, Shown, shown};
use super::{Call, answer};
use crate::Problem;
use crate::admit::{Admitted, Refused, admit, gone, no_place, unreadable};
use crate::stream::come_back_after;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
    events: Vec<Shown<'a>>,
    /// How far was looked: what the next poll begins after.
    last_event_id: String,
}

/// Waits for the answer, and gives it.
pub(super) async fn poll(call: Call) -> Result<Response<Body>, Problem> {
    let app = &call.app;
    let Admitted { request, identity, lens, resume, permit, turn: _, now } =
        match admit(app, &call.parts, call.peer, false).await {
            Ok(admitted) => admitted,
            Err(Refused::Problem(problem)) => return Err(problem),
            Err(Refused::NothingToCome) => return Ok(nothing_to_come()),
            Err(Refused::Later { control, detail, .. }) => {
                return Err(no_place(&control, detail, come_back_after(app.config.retry)));
            }
        };
    let mut poll = app.polls.open(&request.views, resume, lens, now);
    // Who has no cursor yet gets one at once.
    let waits = matches!(request.start, Start::Cursor(_));
    let looking = async { if waits { poll.next().await } else { poll.look().await } };
    // Nothing is told after the token's end.
    let token = identity.expires.map_or(Duration::MAX, |expires| expires.since(now));
    let looked = tokio::select! {
        biased;
        looked = looking => looked,
        () = tokio::time::sleep(app.config.timeouts.poll.min(token)) => Ok(()),
        () = app.draining() => Ok(()),
    };
    looked.map_err(|error| unreadable(&error))?;
    drop(permit);
    let (found, looked) = poll.finish();
    if found.over && found.events.is_empty() && found.gap.is_none() {
        return Ok(nothing_to_come());
    }
    let (found, looked) = if request.only { without_gap(found, looked)? } else { (found, looked) };
    let key = app.hub.key();
    answer::document(&Document {
        gap: found.gap.map(|gap| Gap {
            reason: gap.reason.as_str(),
            from: gap.from.map(|from| key.seal(from).to_string()),
            to: key.seal(gap.to).to_string(),
        }),
        events: found.events.iter().filter_map(|(record, _)| shown(record, &request.views, key)).collect(),
        last_event_id: looked.to_string(),
    })
}

/// What is told to who wants no gap: what comes before it, as long as there is that.
fn without_gap(found: Answer, looked: Cursor) -> Result<(Answer, Cursor), Problem> {
    let Some(gap) = found.gap else { return Ok((found, looked)) };
    match found.events.last() {
        Some((last, cursor)) if last.position.sequence <= gap.to.sequence => {
            let cursor = *cursor;
            Ok((Answer { gap: None, ..found }, cursor))
        }
        _ => Err(gone(gap.reason)),
    }
}

/// 204, as for a stream that would have nothing more to come.
fn nothing_to_come() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
