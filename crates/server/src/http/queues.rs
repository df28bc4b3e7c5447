//! `POST /acks`, and `GET` and `DELETE /queues`: the durable subscriptions of a user.

use axum::body::Body;
use http::{Method, Response};
use serde::Serialize;
use tidings_hub::durable::{Durable, DurableError};
use tidings_hub::log::{Order, ReadLimit, Selection};
use tidings_hub::{Hub, Timestamp, View, Who};
use tidings_wire::json::{BadJson, Reader};
use tidings_wire::{Channel, ClientId, Pattern, Position, Sequence, UserId};

use super::history::Asked;
use super::parameters::Parameters;
use super::{Call, answer, body, connections, log, not_found};
use crate::Problem;
use crate::admit::too_many_subscriptions;
use crate::auth::Identity;

/// The longest body of an acknowledgement.
const BODY: usize = 4 << 10;
/// How many events one answer has if nothing is said, and how many it may have.
const EVENTS: (usize, usize) = (100, 1000);
/// Up to how many of the events that wait are counted.
const COUNTED: usize = 1000;
/// How many bytes of data are read for it. More of them are not counted.
const COUNTED_BYTES: usize = 8 << 20;

/// What is acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    subscription: Option<String>,
    id: Option<String>,
    user: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum BadAck {
    #[error("{0}")]
    Json(#[from] BadJson),
    #[error(
        "there is no field {0:?}; an acknowledgement has \"subscription\", \"id\" and, of another user, \"user\""
    )]
    UnknownField(String),
}

impl Acknowledged {
    fn read(body: &[u8]) -> Result<Acknowledged, BadAck> {
        let mut all = Acknowledged::default();
        let mut reader = Reader::new(body)?;
        reader.object(|reader, field| {
            let slot = match field {
                "subscription" => &mut all.subscription,
                "id" => &mut all.id,
                "user" => &mut all.user,
                other => return Err(BadAck::UnknownField(other.chars().take(64).collect())),
            };
            *slot = Some(reader.string()?.into());
            Ok(())
        })?;
        reader.finish()?;
        Ok(all)
    }
}

/// `POST /acks`
pub(super) async fn acknowledge(call: Call, body: Body) -> Result<Response<Body>, Problem> {
    let Call { app, parts, .. } = &call;
    Parameters::read(parts.uri.query(), &[])?;
    let identity = call.identify().await?;
    let body = body::json(&parts.headers, body, BODY, app.config.timeouts.body).await?;
    let Acknowledged { subscription, id, user } = Acknowledged::read(&body).map_err(|bad| match bad {
        BadAck::Json(_) => body::bad_json(bad.to_string()),
        BadAck::UnknownField(_) => Problem::bad_request(bad.to_string()),
    })?;
    let (Some(subscription), Some(id)) = (subscription, id) else {
        return Err(Problem::bad_request(
            "say which \"subscription\", and the \"id\" up to which it is acknowledged",
        ));
    };
    let user = user.map(|user| user.parse().map_err(|bad| Problem::bad_request(format!("\"user\": {bad}"))));
    let user = whose(&identity, user.transpose()?)?;
    let name: ClientId =
        subscription.parse().map_err(|bad| Problem::bad_request(format!("\"subscription\": {bad}")))?;
    if app.hub.key().open(&id).is_ok_and(|position| app.hub.durables().place(position).is_none()) {
        // Another node may have given it a moment ago.
        let given = id.clone();
        log::read(app, move |hub| hub.reach(&given).map_err(|error| log::not_read(&error))).await?;
    }
    let moved = app.hub.durables().acknowledge(&user, &name, &id, Timestamp::now()).await.map_err(refused)?;
    #[derive(Serialize)]
    struct Answer<'a> {
        subscription: &'a str,
        id: String,
    }
    answer::document(&Answer { subscription: name.as_str(), id: app.hub.key().seal(moved).to_string() })
}

/// `GET /queues`
pub(super) async fn look(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["user", "subscription", "count", "take"])?;
    let identity = call.identify().await?;
    let user = whose(&identity, parameters.parsed("user")?)?;
    let Some(name) = parameters.parsed::<ClientId>("subscription")? else {
        if parameters.one("count")?.or(parameters.one("take")?).is_some() {
            return Err(Problem::bad_request(
                "\"count\" and \"take\" are of one \"subscription\": say which",
            ));
        }
        let document = log::read(&call.app, move |hub| list(hub, &user, Timestamp::now())).await?;
        return Ok(answer::json(document));
    };
    let events = parameters.count("count", EVENTS.0, EVENTS.1)?;
    // HEAD only looks, whatever it looks at.
    let take = parameters.switch("take")? && call.parts.method == Method::GET;
    let durable = subscription(&call, &user, &name)?;
    let asked = Asked {
        views: views(&user, &durable, &identity),
        after: Some(call.app.hub.key().seal(durable.cursor).to_string()),
        until: None,
        events,
        order: Order::Oldest,
        who: Who { user: Some(user.clone()), client: None },
    };
    let found = log::read(&call.app, move |hub| asked.find(hub, Timestamp::now())).await?;
    if take {
        let id = call.app.hub.key().seal(found.looked).to_string();
        let durables = call.app.hub.durables();
        durables.acknowledge(&user, &name, &id, Timestamp::now()).await.map_err(refused)?;
    }
    Ok(answer::json(found.document))
}

/// `DELETE /queues`
pub(super) async fn flush(call: Call) -> Result<Response<Body>, Problem> {
    let parameters = Parameters::read(call.parts.uri.query(), &["user", "subscription", "forget"])?;
    let identity = call.identify().await?;
    let user = whose(&identity, parameters.parsed("user")?)?;
    let forget = parameters.switch("forget")?;
    let durables = call.app.hub.durables();
    let names = match parameters.parsed::<ClientId>("subscription")? {
        Some(name) => vec![name],
        None => durables.list(&user).map_err(refused)?.into_iter().map(|durable| durable.name).collect(),
    };
    let named = parameters.one("subscription")?.is_some();
    let mut count = 0;
    for name in &names {
        let done = if forget {
            durables.forget(&user, name).await
        } else {
            durables.flush(&user, name, Timestamp::now()).await.map(drop)
        };
        match done {
            Ok(()) => count += 1,
            // Of all of them one may have been forgotten meanwhile.
            Err(DurableError::Absent) if !named => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let what = if forget { "forgotten" } else { "flushed" };
    Ok(answer::json(format!("{{\"{what}\":{count}}}")))
}

/// Whose subscriptions are meant: one's own, unless an administrator says another's.
fn whose(identity: &Identity, user: Option<UserId>) -> Result<UserId, Problem> {
    match user.or_else(|| identity.user.clone()) {
        Some(user) => {
            connections::require_own(identity, Some(&user))?;
            Ok(user)
        }
        None if identity.admin => Err(Problem::bad_request("say which \"user\"")),
        None => {
            Err(identity.refusal("durable subscriptions are a user's: it needs a token with a user".into()))
        }
    }
}

fn subscription(call: &Call, user: &UserId, name: &ClientId) -> Result<Durable, Problem> {
    let durable = call.app.hub.durables().get(user, name).map_err(refused)?;
    durable.ok_or_else(|| refused(DurableError::Absent))
}

/// The user's own channel, and of what the subscription asked for all that may be read by who asks now.
fn views(user: &UserId, durable: &Durable, identity: &Identity) -> Vec<View> {
    let may = |pattern: &&Pattern| identity.may_subscribe(pattern);
    let mut views = vec![View::from(Channel::user(user))];
    for view in durable.asked.iter().filter(may).cloned().map(View::from) {
        if !views.contains(&view) {
            views.push(view);
        }
    }
    views
}

#[derive(Serialize)]
struct Listed<'a> {
    user: &'a str,
    subscriptions: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    subscription: String,
    /// Everything up to here is acknowledged.
    id: String,
    /// Unix milliseconds, to within an hour.
    last_used: u64,
    channels: Vec<String>,
    /// How many events of the user's channel are not acknowledged.
    waiting: usize,
    /// There may be more of them than were counted.
    more: bool,
}

/// The document about all subscriptions of a user.
fn list(hub: &Hub, user: &UserId, now: Timestamp) -> Result<String, Problem> {
    let durables = hub.durables();
    let all = durables.list(user).map_err(refused)?;
    let place = |cursor: Position| durables.place(cursor).unwrap_or_default();
    let oldest = all.iter().map(|durable| place(durable.cursor)).min();
    // Once for all of them: from the one that is the farthest behind.
    let (waiting, more) = match oldest {
        Some(oldest) => waiting(hub, user, oldest, now)?,
        None => (Vec::new(), false),
    };
    let shown = |durable: Durable| {
        let after = place(durable.cursor);
        Shown {
            id: hub.key().seal(durable.cursor).to_string(),
            last_used: durable.used.0,
            channels: durable.asked.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            waiting: waiting.len() - waiting.partition_point(|sequence| *sequence <= after),
            more,
            subscription: durable.name.to_string(),
        }
    };
    let listed = Listed { user: user.as_str(), subscriptions: all.into_iter().map(shown).collect() };
    serde_json::to_string(&listed).map_err(|error| Problem::internal(error.to_string()))
}

/// Which events of a user's channel come after a place, and whether there may be more than these.
fn waiting(
    hub: &Hub,
    user: &UserId,
    after: Sequence,
    now: Timestamp,
) -> Result<(Vec<Sequence>, bool), Problem> {
    let records = hub.log();
    let through = records.head().sequence;
    let who = Who { user: Some(user.clone()), client: None };
    let mut selection = Selection { view: View::from(Channel::user(user)), after };
    let (mut found, mut bytes) = (Vec::new(), 0);
    while selection.after < through {
        if found.len() >= COUNTED || bytes >= COUNTED_BYTES {
            return Ok((found, true));
        }
        let limit = ReadLimit { through, records: COUNTED - found.len(), bytes: 1 << 20 };
        let page = records
            .read(std::slice::from_ref(&selection), Order::Oldest, limit, now)
            .map_err(|error| log::not_read(&error))?;
        bytes += page.records.iter().map(|record| record.event.data.as_str().len()).sum::<usize>();
        let shown = page.records.iter().filter(|record| !who.is_among(&record.event.exclude));
        found.extend(shown.map(|record| record.position.sequence));
        selection.after = page.through;
    }
    Ok((found, false))
}

/// Why something is not done with a subscription.
fn refused(error: DurableError) -> Problem {
    let detail = error.to_string();
    match error {
        DurableError::Absent => not_found(detail),
        DurableError::TooMany => too_many_subscriptions(detail),
        DurableError::TooLong | DurableError::BadId => Problem::bad_request(detail),
        DurableError::Read(error) => log::not_read(&error),
        DurableError::Write(error) => log::not_stored(&error),
    }
}
