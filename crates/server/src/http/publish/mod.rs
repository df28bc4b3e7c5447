//! `POST /publish`.

mod lines;
mod once;

use axum::body::Body;
use http::header::EXPECT;
use http::{HeaderMap, Response};
use tidings_hub::log::Durability;
use tidings_hub::{PublishError, Published, Timestamp};
use tidings_wire::publication::{self, BadEvent, Draft, IdempotencyKey, Keyed, Publication, Rules};
use tidings_wire::{Data, Event};

use super::body::{Limit, MediaType, unsupported};
use super::{Call, answer, body, log};
use crate::auth::Identity;
use crate::route::is_lines;
use crate::{App, Problem, ServerConfig, query};

/// What a body is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// A JSON object, or an array of them.
    Json,
    /// A JSON object in each line.
    Lines,
    /// The data of one event, about which the query says the rest.
    Data,
}

/// Publishes what the body says.
pub(super) async fn publish(call: Call, body: Body) -> Result<Response<Body>, Problem> {
    let Call { app, parts, peer } = call;
    let config = &app.config;
    let identity = app.access.identify(&parts, peer, Timestamp::now()).await?;
    let headers = &parts.headers;
    let once = once::of_header(headers)?;
    let rules = config.publication();
    let (draft, receivers) = asked(parts.uri.query(), &rules)?;
    let form = form(headers, draft.is_some())?;
    let idle = config.timeouts.body;
    let limit = match form {
        Form::Data => Limit { bytes: config.limits.data, setting: Some("limits.data") },
        Form::Json => Limit { bytes: config.limits.body, setting: Some("limits.body") },
        Form::Lines if receivers => {
            return Err(Problem::bad_request("\"receivers\" can't be asked of NDJSON"));
        }
        Form::Lines if once.is_some() => {
            return Err(Problem::bad_request(
                "the lines of NDJSON are published one by one: give each its \"idempotency_key\", in place of the header",
            ));
        }
        Form::Lines => {
            let mut pieces = body::Pieces { body, idle };
            // To who waits for "100 Continue", an answer's head before it would be a refusal.
            let first = if headers.contains_key(EXPECT) { pieces.next().await? } else { None };
            return Ok(lines::publish(app, identity, pieces, first));
        }
    };
    body::check_length(headers, limit)?;
    let body = body::whole(body, limit, idle).await?;
    let publication = match draft {
        Some(draft) => Publication::One(with_data(draft, &body)?),
        None => publication::publication(&body, &rules)?,
    };
    let durability = app.hub.log().durability();
    // Nothing waits from here on until the log has the events: a client that goes away now has still published.
    match publication {
        Publication::One(Keyed { event, once: field }) => {
            authorise(&identity, &event)?;
            let counted = receivers.then(|| event.clone());
            let published = match once::same(once, field)? {
                None => app.hub.publish(event).await.map_err(|error| not_published(&error))?,
                Some(key) => {
                    let published = publish_once(&app, &identity, &key, vec![event]).await?;
                    let [published] = published[..] else {
                        return Err(Problem::internal("one event has one id"));
                    };
                    published
                }
            };
            let receivers = match &counted {
                Some(event) => Some(app.receivers(event).await),
                None => None,
            };
            let mut answer = Vec::with_capacity(64);
            put_published(&mut answer, &published, receivers, durability);
            Ok(answer::json(answer))
        }
        Publication::Many(events) => {
            events.iter().try_for_each(|event| authorise(&identity, event))?;
            let counted = if receivers { events.clone() } else { Vec::new() };
            let published = match once {
                _ if events.is_empty() => Vec::new(),
                None => app.hub.publish_batch(events).await.map_err(|error| not_published(&error))?,
                Some(key) => publish_once(&app, &identity, &key, events).await?,
            };
            let mut receivers = Vec::with_capacity(counted.len());
            for event in &counted {
                receivers.push(app.receivers(event).await);
            }
            Ok(answer::json(results(&published, &receivers, durability)))
        }
    }
}

/// Publishes events under a key. Apart from the others, whose futures are no larger for it.
async fn publish_once(
    app: &App,
    identity: &Identity,
    key: &IdempotencyKey,
    events: Vec<Event>,
) -> Result<Vec<Published>, Problem> {
    let now = Timestamp::now();
    let once = once::once(key, identity, &events, now);
    let publishing = Box::pin(app.hub.publish_with(events, once.into(), now));
    publishing.await.map_err(|error| not_published(&error))
}

impl From<BadEvent> for Problem {
    fn from(bad: BadEvent) -> Problem {
        let detail = bad.to_string();
        match bad.cause() {
            BadEvent::Json(_) | BadEvent::JsonOfLine(_) => body::bad_json(detail),
            BadEvent::DataTooLarge { .. } => body::too_large_for("limits.data", &detail),
            BadEvent::TooMany { .. } => body::too_large(detail),
            _ => Problem::bad_request(detail),
        }
    }
}

/// What the query says of the event, if it says where to, and whether receivers are to be counted.
fn asked<'a>(query: Option<&str>, rules: &'a Rules) -> Result<(Option<Draft<'a>>, bool), Problem> {
    let mut draft = Draft::new(rules);
    let mut receivers = false;
    let (mut has_target, mut lonely) = (false, None);
    for pair in query::pairs(query) {
        let (name, value) = pair?;
        match &*name {
            // Read where the request is authenticated.
            "token" | "access_token" => continue,
            "receivers" => {
                receivers = publication::switch("receivers", &value)?;
                continue;
            }
            "data" => {
                return Err(Problem::bad_request(
                    "an event's data is the request's body, not \"data\" in the query",
                ));
            }
            "channels" | "users" => {
                let detail = format!(
                    "in a query, {name:?} is written as \"{}\", once for each",
                    &name[..name.len() - 1]
                );
                return Err(Problem::bad_request(detail));
            }
            _ => {}
        }
        if !draft.parameter(&name, &value)? {
            return Err(BadEvent::UnknownParameter(name.chars().take(64).collect()).into());
        }
        match &*name {
            "channel" | "user" | "broadcast" => has_target = true,
            _ => lonely = Some(name.into_owned()),
        }
    }
    match lonely {
        Some(name) if !has_target => Err(Problem::bad_request(format!(
            "{name:?} is in the query, but no \"channel\", \"user\" or \"broadcast\"; say everything there, or everything in the body"
        ))),
        _ => Ok((has_target.then_some(draft), receivers)),
    }
}

/// What the body is to be read as.
fn form(headers: &HeaderMap, has_target: bool) -> Result<Form, Problem> {
    let said = MediaType::of(headers)?;
    let essence = said.essence.as_str();
    let lines = is_lines(essence.as_bytes());
    match (lines, has_target) {
        (true, true) => {
            return Err(Problem::bad_request(
                "each line of NDJSON says where it goes; leave \"channel\", \"user\" and \"broadcast\" out of the query",
            ));
        }
        (false, true) => return Ok(Form::Data),
        _ => {}
    }
    if !said.utf8 {
        return Err(unsupported("JSON is UTF-8"));
    }
    match essence {
        _ if lines => Ok(Form::Lines),
        _ if said.is_json() => Ok(Form::Json),
        "application/x-www-form-urlencoded" => Err(unsupported(
            "this is not a form: send JSON with -H \"Content-Type: application/json\", or the data alone to /publish?channel=…",
        )),
        _ => Err(unsupported(
            "send application/json or application/x-ndjson, or the data alone to /publish?channel=…",
        )),
    }
}

/// The event of a query and a body that is its data as it stands.
fn with_data(mut draft: Draft<'_>, body: &[u8]) -> Result<Keyed, Problem> {
    let text = std::str::from_utf8(body).map_err(|_| Problem::bad_request("the data is not UTF-8"))?;
    draft.data(Data::from(text))?;
    Ok(draft.event()?)
}

/// Every target must be granted. The caller named them, so that the answer may.
fn authorise(identity: &Identity, event: &Event) -> Result<(), Problem> {
    event.to.channels().iter().try_for_each(|channel| identity.require_publish(channel))
}

/// What a body says, for who counts what reading it costs.
pub(crate) fn read_publication(body: &[u8], config: &ServerConfig) -> Option<impl Sized + use<>> {
    publication::publication(body, &config.publication()).ok()
}

/// Why nothing was published, or nobody knows.
fn not_published(error: &PublishError) -> Problem {
    match error {
        PublishError::TooLarge { .. } => body::too_large_for("limits.data", error),
        PublishError::Closed => log::unavailable("not_stored", "Not stored", error.to_string()),
        PublishError::Log(error) => log::not_stored(error),
    }
}

/// `{"id":"…"}`, with the policy of syncing where that is not the strictest.
fn put_published(out: &mut Vec<u8>, published: &Published, receivers: Option<usize>, durability: Durability) {
    put_id(out, published, receivers);
    put_sync(out, durability);
    out.push(b'}');
}

/// `{"results":[{"id":"…"},…]}`
fn results(published: &[Published], receivers: &[usize], durability: Durability) -> Vec<u8> {
    let mut out = Vec::with_capacity(published.len() * 32 + 64);
    out.extend_from_slice(b"{\"results\":[");
    for (at, published) in published.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put_id(&mut out, published, receivers.get(at).copied());
        out.push(b'}');
    }
    out.push(b']');
    put_sync(&mut out, durability);
    out.push(b'}');
    out
}

/// An object that is still open.
fn put_id(out: &mut Vec<u8>, published: &Published, receivers: Option<usize>) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(published.id.as_bytes());
    out.push(b'"');
    if let Some(receivers) = receivers {
        out.extend_from_slice(format!(",\"receivers\":{receivers}").as_bytes());
    }
}

fn put_sync(out: &mut Vec<u8>, durability: Durability) {
    if durability != Durability::Synced {
        out.extend_from_slice(format!(",\"sync\":\"{durability}\"").as_bytes());
    }
}
