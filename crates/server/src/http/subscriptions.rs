//! `POST` and `DELETE /subscriptions`: other channels on streams that run.

use axum::body::Body;
use http::{Method, Response};
use serde::Serialize;
use tidings_hub::durable::DurableError;
use tidings_hub::{Change, Timestamp, View};
use tidings_wire::json::{BadJson, Reader};
use tidings_wire::{ConnectionId, Pattern, Position, UserId};

use super::connections::{find, no_such, nodes_silent, require_own};
use super::parameters::Parameters;
use super::{Call, answer, body};
use crate::auth::Identity;
use crate::stats_channel::StatsChannel;
use crate::stream::{Changed, Unchanged};
use crate::subscribe::{channel_pattern, watchable};
use crate::{ConnectionFilter, Problem};

/// How many bytes the body may have: 100 of the longest channels, escaped.
const LONGEST_BODY: usize = 512 << 10;

/// What is asked for.
#[derive(Default)]
struct Asked {
    connection: Option<ConnectionId>,
    secret: Option<String>,
    user: Option<UserId>,
    channels: Vec<Pattern>,
}

/// The fields of the body: those of `/subscriptions`, or the plain form of `/subscribe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Full,
    Plain,
}

#[derive(Serialize)]
struct Answer {
    /// The added channels begin there; what lies before is to be had as history, up to it.
    from: String,
    /// The same for each stream.
    connections: Vec<Shown>,
}

#[derive(Serialize)]
struct Shown {
    connection: String,
    from: String,
}

/// `POST` adds, `DELETE` takes away.
pub(super) async fn change(call: Call, body: Body, form: Form) -> Result<Response<Body>, Problem> {
    Parameters::read(call.parts.uri.query(), &[])?;
    let identity = call.identify().await?;
    let body = body::json(&call.parts.headers, body, LONGEST_BODY, call.app.config.timeouts.body).await?;
    let limit = call.app.config.limits.channels;
    let asked = Asked::read(&body, form, limit).map_err(|bad| bad.problem(form))?;
    let filter = meant(&call, &identity, &asked).await?;
    let views: Vec<View> = asked.channels.iter().cloned().map(View::from).collect();
    let mut all_watchable = true;
    let change = if call.parts.method == Method::DELETE {
        Change { remove: views, ..Change::default() }
    } else {
        if !identity.admin {
            asked.channels.iter().try_for_each(|pattern| identity.require_subscribe(pattern))?;
        }
        let granted = |pattern: &Pattern| identity.admin || identity.may_see_presence(pattern);
        all_watchable = asked.channels.iter().all(|pattern| pattern.exact().is_some() && granted(pattern));
        StatsChannel::followed(&call.app, &views);
        Change { ended: call.app.hub.ended(&views), add: views, remove: Vec::new() }
    };
    let reached = call.app.change(&filter, change, limit, all_watchable).await;
    if reached.missing > 0 {
        return Err(nodes_silent(reached.missing));
    }
    let changed = reached.found;
    if asked.connection.is_some() && changed.is_empty() {
        return Err(no_such());
    }
    note(&call, &changed).await;
    let done: Result<Vec<_>, _> = changed.iter().map(|one| Ok((one.connection, one.from?))).collect();
    let done = done.map_err(|unchanged| {
        let detail = match unchanged {
            Unchanged::Channels => format!("a stream may have {limit} channels; take some away first"),
            Unchanged::Kept => DurableError::TooLong.to_string(),
            Unchanged::Watching => return not_watched(&identity, &asked.channels),
        };
        Problem::new(http::StatusCode::CONFLICT, "too_many_channels", "Too many channels", detail)
    })?;
    let key = call.app.hub.key();
    // Of several streams the one that is furthest on: history up to there leaves nothing out for any.
    let from = done.iter().map(|(_, from)| *from).max_by_key(|from| (from.epoch.0, from.sequence));
    let shown = |(connection, from): &(ConnectionId, Position)| Shown {
        connection: connection.to_string(),
        from: key.seal(*from).to_string(),
    };
    answer::document(&Answer {
        from: key.seal(from.unwrap_or_else(|| call.app.hub.head())).to_string(),
        connections: done.iter().map(shown).collect(),
    })
}

/// Why a stream with `presence=1` may not follow these: as it would be told when it comes back with them.
fn not_watched(identity: &Identity, channels: &[Pattern]) -> Problem {
    let refused = channels.iter().find_map(|pattern| match watchable(pattern) {
        Err(problem) => Some(problem),
        Ok(_) if identity.admin => None,
        Ok(_) => identity.require_presence(pattern).err(),
    });
    refused.unwrap_or_else(|| Problem::bad_request("a stream with presence=1 can't be told of these"))
}

/// Keeps with each durable subscription whose stream was changed what that follows now. Where it can't be noted the
/// stream goes on all the same: it asks for its channels itself when it comes back.
async fn note(call: &Call, changed: &[Changed]) {
    for Changed { connection, from, subscription } in changed {
        let (Ok(_), Some((user, name))) = (from, subscription) else { continue };
        let asked = || async {
            let stream = match find(&call.app, *connection).await {
                Ok(stream) => stream?,
                Err(_) => {
                    tracing::warn!(
                        "what a durable subscription follows now is not noted: its node does not answer"
                    );
                    return None;
                }
            };
            Some(stream.channels.iter().filter_map(|view| view.as_str().parse().ok()).collect())
        };
        let noted = call.app.hub.durables().follow(user, name, asked, Timestamp::now()).await;
        if let Err(error) = noted {
            tracing::warn!(%error, "the channels of a durable subscription can't be noted");
        }
    }
}

/// Whose streams are meant, if the caller may change them. A connection's id alone is no right to it: it is its
/// user's, an administrator's, or, where it has no user, whoever's was told its secret.
async fn meant(call: &Call, identity: &Identity, asked: &Asked) -> Result<ConnectionFilter, Problem> {
    let all = ConnectionFilter::default();
    match (asked.connection, &asked.user) {
        (Some(id), None) => {
            let found = find(&call.app, id).await?.ok_or_else(no_such)?;
            let secret = asked.secret.as_deref();
            let own = match &found.user {
                Some(user) => identity.user.as_ref() == Some(user),
                None => secret.is_some_and(|secret| call.app.hub.key().is_secret_of(id, secret)),
            };
            if own || identity.admin { Ok(ConnectionFilter { id: Some(id), ..all }) } else { Err(no_such()) }
        }
        (None, Some(user)) => {
            require_own(identity, Some(user))?;
            Ok(ConnectionFilter { user: Some(user.clone()), ..all })
        }
        _ => Err(Problem::bad_request("say either which \"connection\" or which \"user\"")),
    }
}

/// Why a body can't be meant.
enum Bad {
    Json(BadJson),
    Field(String),
    Problem(Problem),
}

impl From<BadJson> for Bad {
    fn from(bad: BadJson) -> Bad {
        Bad::Json(bad)
    }
}

impl Bad {
    fn problem(self, form: Form) -> Problem {
        match self {
            Bad::Json(bad) => body::bad_json(bad.to_string()),
            Bad::Problem(problem) => problem,
            Bad::Field(field) => {
                let known = match form {
                    Form::Full => "connection, secret, user, channels",
                    Form::Plain => "connectionId, secret, channel",
                };
                Problem::bad_request(format!("there is no field {field:?} here (known: {known})"))
            }
        }
    }
}

impl Asked {
    fn read(body: &[u8], form: Form, limit: usize) -> Result<Asked, Bad> {
        let mut reader = Reader::new(body)?;
        let mut asked = Asked::default();
        reader.object(|reader, field| asked.field(reader, field, form, limit))?;
        reader.finish()?;
        if asked.channels.is_empty() {
            let name = if form == Form::Full { "channels" } else { "channel" };
            return Err(Bad::Problem(Problem::bad_request(format!("say which {name:?}"))));
        }
        Ok(asked)
    }

    fn field(&mut self, reader: &mut Reader<'_>, field: &str, form: Form, limit: usize) -> Result<(), Bad> {
        match (form, field) {
            (Form::Full, "connection") | (Form::Plain, "connectionId") => {
                let id = reader.string()?.parse();
                self.connection = Some(id.map_err(|bad| invalid(field, &bad))?);
            }
            (_, "secret") => self.secret = Some(reader.string()?.into_owned()),
            (Form::Full, "user") => {
                self.user = Some(reader.string()?.parse().map_err(|bad| invalid(field, &bad))?);
            }
            (Form::Full, "channels") => {
                reader.array(|reader| {
                    if self.channels.len() >= limit {
                        let detail = format!("a stream may have {limit} channels");
                        return Err(Bad::Problem(Problem::bad_request(detail)));
                    }
                    self.channel(&reader.string()?)
                })?;
            }
            (Form::Plain, "channel") => self.channel(&reader.string()?)?,
            _ => return Err(Bad::Field(field.chars().take(64).collect())),
        }
        Ok(())
    }

    fn channel(&mut self, text: &str) -> Result<(), Bad> {
        let pattern = channel_pattern(text).map_err(Bad::Problem)?;
        if View::from(pattern.clone()).is_implicit() {
            let detail = "what is sent to all and to its user comes on every stream by itself";
            return Err(Bad::Problem(Problem::bad_request(detail)));
        }
        if !self.channels.contains(&pattern) {
            self.channels.push(pattern);
        }
        Ok(())
    }
}

fn invalid(field: &str, bad: &dyn std::fmt::Display) -> Bad {
    Bad::Problem(Problem::bad_request(format!("{field:?}: {bad}")))
}
