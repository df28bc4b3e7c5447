//! `GET` and `DELETE /history`.

use axum::body::Body;
use http::Response;
use serde::Serialize;
use tidings_hub::log::{Located, Order, Page, ReadLimit, Selection};
use tidings_hub::{Hub, Timestamp, View, Who};
use tidings_wire::{CursorKey, Epoch, GapReason, Pattern, Position, Sequence};

use super::parameters::{self, Parameters};
use super::shown::{Gap, Shown, shown};
use super::{Call, answer, log};
use crate::Problem;

/// How many events one answer has if nothing is said.
const EVENTS: usize = 100;
/// How many events one answer may have.
const MOST_EVENTS: usize = 1000;
/// How many bytes of data one answer has, unless one event has more.
const MOST_BYTES: usize = 8 << 20;

/// What is asked for.
pub(super) struct Asked {
    pub(super) views: Vec<View>,
    pub(super) after: Option<String>,
    pub(super) until: Option<String>,
    pub(super) events: usize,
    pub(super) order: Order,
    pub(super) who: Who,
}

/// What was found.
pub(super) struct Found {
    /// The answer's document.
    pub(super) document: String,
    /// How far was looked.
    pub(super) looked: Position,
}

/// `GET /history`
pub(super) async fn read(call: Call) -> Result<Response<Body>, Problem> {
    let asked = Asked::read(&call).await?;
    let answer = log::read(&call.app, move |hub| asked.find(hub, Timestamp::now())).await?;
    Ok(answer::json(answer.document))
}

impl Asked {
    async fn read(call: &Call) -> Result<Asked, Problem> {
        let known = ["channel", "after", "until", "limit", "order", "client"];
        let parameters = Parameters::read(call.parts.uri.query(), &known)?;
        let identity = call.identify().await?;
        let mut views = Vec::new();
        for text in parameters.all("channel") {
            if views.len() == call.app.config.limits.channels {
                return Err(Problem::bad_request(format!("{} channels may be asked for", views.len())));
            }
            let pattern: Pattern = text.parse().map_err(|bad| {
                Problem::bad_request(format!("\"channel\" {:?}: {bad}", parameters::shown(text)))
            })?;
            identity.require_subscribe(&pattern)?;
            views.push(View::from(pattern));
        }
        if views.is_empty() {
            return Err(Problem::bad_request("say which \"channel\""));
        }
        let order = match parameters.one("order")? {
            None | Some("asc") => Order::Oldest,
            Some("desc") => Order::Newest,
            Some(_) => return Err(Problem::bad_request("\"order\" is to be asc or desc")),
        };
        let cursor =
            |name| Ok::<_, Problem>(parameters.one(name)?.filter(|text| !text.is_empty()).map(str::to_owned));
        Ok(Asked {
            views,
            after: cursor("after")?,
            until: cursor("until")?,
            events: parameters.count("limit", EVENTS, MOST_EVENTS)?,
            order,
            who: Who { user: identity.user, client: parameters.parsed("client")? },
        })
    }

    /// The answer.
    pub(super) fn find(self, hub: &Hub, now: Timestamp) -> Result<Found, Problem> {
        let (log, key) = (hub.log(), hub.key());
        for id in self.after.iter().chain(&self.until) {
            hub.reach(id).map_err(|error| log::not_read(&error))?;
        }
        let head = log.head();
        let (after, mut gap) = match &self.after {
            None => (Sequence::START, None),
            Some(text) => begin(hub, text),
        };
        let through = match &self.until {
            None => head.sequence,
            Some(text) => end(hub, text)?,
        };
        let selections: Vec<_> =
            self.views.iter().map(|view| Selection { view: view.clone(), after }).collect();
        let limit = ReadLimit { through, records: self.events, bytes: MOST_BYTES };
        let page = log.read(&selections, self.order, limit, now).map_err(|error| log::not_read(&error))?;
        if self.after.is_some() && gap.is_none() && page.floor > after {
            gap = Some(GapReason::Expired);
        }
        let seal = |sequence| seal(key, head.epoch, sequence);
        let (looked, next) = match self.order {
            Order::Oldest => (page.through, (page.through < through).then_some(page.through)),
            // Whatever page of them this is: all that is older than the newest one was not looked at for a stream.
            Order::Newest => {
                let next = page.through.0.checked_sub(1).map(Sequence).filter(|next| *next > after);
                (through.min(head.sequence), next)
            }
        };
        let answer = Answer {
            gap: gap.map(|reason| Gap {
                reason: reason.as_str(),
                from: self.after.filter(|text| key.open(text).is_ok()),
                to: seal(after.max(page.floor)),
            }),
            events: events(&page, &self.views, &self.who, key),
            last_event_id: seal(looked),
            next: next.map(seal),
        };
        let document =
            serde_json::to_string(&answer).map_err(|error| Problem::internal(error.to_string()))?;
        Ok(Found { document, looked: Position { epoch: head.epoch, sequence: looked } })
    }
}

/// Where a page begins that comes after a cursor. A cursor that says nothing here is told as a gap, before all that is
/// kept.
fn begin(hub: &Hub, text: &str) -> (Sequence, Option<GapReason>) {
    match hub.key().open(text).map(|position| hub.log().locate(position)) {
        Ok(Located::Here(after)) => (after, None),
        Ok(Located::PastFork(fork)) => (fork, Some(GapReason::Epoch)),
        Ok(Located::Unknown) => (Sequence::START, Some(GapReason::Epoch)),
        Ok(Located::Ahead) | Err(_) => (Sequence::START, Some(GapReason::Unknown)),
    }
}

/// The newest record of a page that goes until a cursor, with that.
fn end(hub: &Hub, text: &str) -> Result<Sequence, Problem> {
    match hub.key().open(text).map(|position| hub.log().locate(position)) {
        Ok(Located::Here(through) | Located::PastFork(through)) => Ok(through),
        Ok(Located::Ahead) => Ok(hub.log().head().sequence),
        Ok(Located::Unknown) | Err(_) => Err(Problem::bad_request("\"until\" is not a cursor of this hub")),
    }
}

fn seal(key: &CursorKey, epoch: Epoch, sequence: Sequence) -> String {
    key.seal(Position { epoch, sequence }).to_string()
}

#[derive(Serialize)]
struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
    events: Vec<Shown<'a>>,
    /// How far was looked: a stream from here misses nothing and gets nothing twice.
    last_event_id: String,
    /// The next page's `after` (its `until`, if the newest come first), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn events<'a>(page: &'a Page, views: &[View], who: &Who, key: &CursorKey) -> Vec<Shown<'a>> {
    let open = page.records.iter().filter(|record| !who.is_among(&record.event.exclude));
    open.filter_map(|record| shown(record, views, key)).collect()
}

/// `DELETE /history`
pub(super) async fn purge(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["channel", "id"])?;
    call.require_admin().await?;
    let hub = &call.app.hub;
    let removing = match (parameters.one("channel")?, parameters.one("id")?) {
        (Some(text), None) => {
            let pattern: Pattern = text.parse().map_err(|bad| {
                Problem::bad_request(format!("\"channel\" {:?}: {bad}", parameters::shown(text)))
            })?;
            let channel = pattern.exact().ok_or_else(|| {
                Problem::bad_request("one channel is purged at a time, not all that match a pattern")
            })?;
            hub.log().purge(channel)
        }
        (None, Some(id)) => {
            let no_such = || Problem::bad_request("\"id\" is not the id of an event of this hub");
            hub.log().delete(hub.key().open(id).map_err(|_| no_such())?)
        }
        _ => {
            return Err(Problem::bad_request(
                "say which \"channel\" is to be purged, or the \"id\" of one event",
            ));
        }
    };
    let removed = removing.await.map_err(|error| log::not_stored(&error))?;
    Ok(answer::json(format!("{{\"removed\":{removed}}}")))
}
