//! A subscribe request: what is asked for, and whether it is granted. The only place that decides this, for all
//! transports.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use tidings_hub::{Filter, Filters, Start, View};
use tidings_wire::{Channel, ClientId, Cursor, Pattern};

use crate::auth::{self, Identity, Source};
use crate::{LimitsConfig, Problem, accept, query};

/// What a client asks for, granted as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscribeRequest {
    /// All that the stream shows: what was asked for, and unless `only=1` what is sent to all and to its user.
    pub views: Vec<View>,
    /// What was asked for, each once, in that order.
    pub asked: Vec<Pattern>,
    /// Where the stream begins.
    pub start: Start,
    /// Whether events come untyped, in an envelope (`envelope=1`).
    pub envelope: bool,
    /// Which events of its channels are wanted, by their tags.
    pub filter: Option<Arc<Filter>>,
    /// Which of the hub's own events are sent.
    pub control: ControlLevel,
    /// Whether there is to be no stream where nothing happens (`if_active=1`).
    pub if_active: bool,
    /// Whether what would be a gap ends the request before the stream begins, with 410 (`only=1`).
    pub only: bool,
    /// The id that the client chose for itself.
    pub client: Option<ClientId>,
    /// The durable subscription of the stream's user, whose cursor the hub keeps.
    pub subscription: Option<ClientId>,
    /// How many bytes the first comment has.
    pub padding: u16,
    /// The channels of which it is told who is there (`presence=1`).
    pub presence: Vec<Channel>,
}

/// Which of the hub's own events (`tidings:…`) a stream gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlLevel {
    /// None (`only=1`).
    None,
    /// Only gaps (`control=0`).
    Gaps,
    /// The opening, gaps, and the reason of a close.
    Default,
    /// All of them, heartbeats as `tidings:ping` (`control=1`).
    All,
}

impl ControlLevel {
    /// Whether the reason of a close is said.
    pub(crate) fn hears_reasons(self) -> bool {
        matches!(self, ControlLevel::Default | ControlLevel::All)
    }
}

/// The largest `padding`.
const MOST_PADDING: u16 = 4096;

/// Cursors are shorter. What is longer is no cursor, and need not be kept whole to be told so.
const LONGEST_EVENT_ID: usize = 2 * Cursor::LEN;

/// Reads a subscribe request and checks that all of it is granted.
///
/// Parameters that nobody knows are passed over: caches are fooled with them, and polyfills leave theirs.
///
/// # Errors
/// 400 for a parameter that can't be meant, 406 for an `Accept` without event streams, 401 and 403 for what is not
/// granted.
pub fn subscribe_request(
    parts: &Parts,
    identity: &Identity,
    limits: &LimitsConfig,
    filters: &Filters,
) -> Result<SubscribeRequest, Problem> {
    let (media, name) = match asks_to_poll(parts.uri.query()) {
        true => (accept::JSON, "application/json, which a poll is answered with"),
        false => (accept::EVENT_STREAM, "text/event-stream, which is all there is here"),
    };
    if !accept::allows(&parts.headers, media) {
        return Err(Problem::new(
            StatusCode::NOT_ACCEPTABLE,
            "not_acceptable",
            "Something else is to be had here",
            format!("Accept excludes {name}"),
        ));
    }
    let asked = Parameters::read(parts.uri.query(), limits)?;
    let start = asked.start(parts);
    let only = asked.only.unwrap_or(false);
    let control = match (only, asked.control) {
        (true, Some(true)) => return Err(Problem::bad_request("only=1 and control=1 contradict each other")),
        (true, _) => ControlLevel::None,
        (false, None) => ControlLevel::Default,
        (false, Some(true)) => ControlLevel::All,
        (false, Some(false)) => ControlLevel::Gaps,
    };
    if asked.subscription.is_some() && identity.user.is_none() {
        return Err(needs_user(identity));
    }
    for pattern in &asked.channels {
        identity.require_subscribe(pattern)?;
    }
    let presence = match asked.presence {
        Some(true) => watched(&asked.channels, identity, control)?,
        Some(false) | None => Vec::new(),
    };
    // Read last: what nobody may ask for is not kept among the filters.
    let filter = asked.filter.as_deref().map(|text| filter(text, filters)).transpose()?;
    Ok(SubscribeRequest {
        views: views(&asked.channels, identity, only),
        asked: asked.channels,
        start,
        envelope: asked.envelope.unwrap_or(false),
        filter,
        control,
        if_active: asked.if_active.unwrap_or(false),
        only,
        client: asked.client,
        subscription: asked.subscription,
        padding: asked.padding.unwrap_or(0),
        presence,
    })
}

/// Whether a request for events is for one answer (`poll=1`), not for a stream.
pub(crate) fn asks_to_poll(query: Option<&str>) -> bool {
    query::pairs(query).any(|pair| pair.is_ok_and(|(name, value)| name == "poll" && value == "1"))
}

/// The channels of which a stream with `presence=1` is told who is there: all that it asks for.
fn watched(asked: &[Pattern], identity: &Identity, control: ControlLevel) -> Result<Vec<Channel>, Problem> {
    match control {
        ControlLevel::None => {
            return Err(Problem::bad_request("presence=1 and only=1 contradict each other"));
        }
        ControlLevel::Gaps => {
            return Err(Problem::bad_request("presence=1 and control=0 contradict each other"));
        }
        ControlLevel::Default | ControlLevel::All => {}
    }
    if asked.is_empty() {
        return Err(Problem::bad_request("presence=1 needs a channel to say of who is there"));
    }
    let mut channels = Vec::with_capacity(asked.len());
    for pattern in asked {
        let channel = watchable(pattern)?;
        identity.require_presence(pattern)?;
        channels.push(channel);
    }
    Ok(channels)
}

/// What a stream with `presence=1` may ask for, as far as the form of it goes.
pub(crate) fn watchable(pattern: &Pattern) -> Result<Channel, Problem> {
    pattern.exact().ok_or_else(|| {
        Problem::bad_request(format!(
            "presence=1 needs exact channels, and {:?} is a pattern; ask for it in a stream of its own",
            shortened(pattern.as_str())
        ))
    })
}

/// Where a request wants to begin, whoever sent it, and whether of a durable subscription: for an answer that only says
/// when to come back.
///
/// # Errors
/// 400 as for [`subscribe_request`].
pub(crate) fn requested_start(parts: &Parts, limits: &LimitsConfig) -> Result<(Start, bool), Problem> {
    let asked = Parameters::read(parts.uri.query(), limits)?;
    Ok((asked.start(parts), asked.subscription.is_some()))
}

/// A durable subscription belongs to a user. With `--dev` there is one only with a token.
fn needs_user(identity: &Identity) -> Problem {
    let detail = "a durable subscription is a user's: it needs a token with a user (sub)";
    match identity.source() {
        Source::Dev => Problem::bad_request(format!("{detail}, with --dev too; `tidings token` makes one")),
        _ => identity.refusal(detail.to_owned()),
    }
}

/// What the stream shows, each once. What is sent to all and to the stream's user comes with every stream.
fn views(asked: &[Pattern], identity: &Identity, only: bool) -> Vec<View> {
    let mut views: Vec<View> = asked.iter().cloned().map(View::from).collect();
    if !only {
        let user = identity.user.as_ref().map(Channel::user);
        let own = [Some(Channel::all()), user].into_iter().flatten().map(View::from);
        for view in own {
            if !views.contains(&view) {
                views.push(view);
            }
        }
    }
    views
}

fn start_of(id: &str) -> Start {
    match id {
        "now" => Start::Now,
        "earliest" => Start::Earliest,
        id => Start::Cursor(cut(id).to_owned()),
    }
}

/// The beginning of a text that is too long for a cursor.
fn cut(id: &str) -> &str {
    &id[..id.floor_char_boundary(LONGEST_EVENT_ID)]
}

/// The header `Last-Event-ID`; an empty one is none. A browser sends UTF-8 in it, so that it is read as bytes; what
/// is not UTF-8 is no cursor, like two different ids.
fn header_event_id(parts: &Parts) -> Option<String> {
    let mut values = parts.headers.get_all("last-event-id").iter().map(|value| value.as_bytes().trim_ascii());
    let first = values.next()?;
    if values.any(|other| other != first) {
        return Some("two last event ids".to_owned());
    }
    let id = String::from_utf8_lossy(first);
    (!id.is_empty()).then(|| cut(&id).to_owned())
}

/// The parameters of the query, each read and within its limits.
#[derive(Default)]
struct Parameters {
    channels: Vec<Pattern>,
    /// `lastEventId`: polyfills append it to a query that may have an older one.
    appended_event_id: Option<String>,
    /// `last_event_id`, `lastEventID`.
    last_event_id: Option<String>,
    history: Option<History>,
    if_active: Option<bool>,
    /// Read by [`asks_to_poll`] too, for it decides who answers.
    poll: Option<bool>,
    envelope: Option<bool>,
    filter: Option<String>,
    control: Option<bool>,
    only: Option<bool>,
    client: Option<ClientId>,
    subscription: Option<ClientId>,
    padding: Option<u16>,
    presence: Option<bool>,
}

impl Parameters {
    fn read(text: Option<&str>, limits: &LimitsConfig) -> Result<Parameters, Problem> {
        let mut all = Parameters::default();
        let mut channels = 0;
        for pair in query::pairs(text) {
            let (name, value) = pair?;
            match &*name {
                "channel" => {
                    channels += 1;
                    if channels > limits.channels {
                        return Err(Problem::bad_request(format!(
                            "a stream may ask for {} channels; a pattern like \"orders/**\" stands for many",
                            limits.channels
                        )));
                    }
                    let pattern = channel_pattern(&value)?;
                    if !all.channels.contains(&pattern) {
                        all.channels.push(pattern);
                    }
                }
                "lastEventId" => keep_event_id(&mut all.appended_event_id, &value),
                "last_event_id" | "lastEventID" => keep_event_id(&mut all.last_event_id, &value),
                "history" => once(&mut all.history, &name, history(&value, limits)?)?,
                "envelope" => once(&mut all.envelope, &name, flag(&name, &value)?)?,
                "filter" => once(&mut all.filter, &name, value.into_owned())?,
                "control" => once(&mut all.control, &name, flag(&name, &value)?)?,
                "only" => once(&mut all.only, &name, flag(&name, &value)?)?,
                "client" => {
                    let client =
                        value.parse().map_err(|bad| Problem::bad_request(format!("client: {bad}")))?;
                    once(&mut all.client, &name, client)?;
                }
                "subscription" => {
                    let name =
                        value.parse().map_err(|bad| Problem::bad_request(format!("subscription: {bad}")))?;
                    once(&mut all.subscription, "subscription", name)?;
                }
                "padding" => once(&mut all.padding, &name, number(&name, &value, MOST_PADDING)?)?,
                "presence" => once(&mut all.presence, &name, flag(&name, &value)?)?,
                "if_active" => once(&mut all.if_active, &name, flag(&name, &value)?)?,
                "poll" => once(&mut all.poll, &name, flag(&name, &value)?)?,
                _ => {}
            }
        }
        Ok(all)
    }
}

impl Parameters {
    /// A last event id, wherever it stands, beats `history`.
    fn start(&self, parts: &Parts) -> Start {
        let header = header_event_id(parts);
        let id =
            [&header, &self.appended_event_id, &self.last_event_id].into_iter().find_map(Option::as_deref);
        match (id, self.history) {
            (Some(id), _) => start_of(id),
            (None, None | Some(History::Newest(0))) => Start::Now,
            (None, Some(History::Newest(count))) => Start::History(count),
            (None, Some(History::Latest)) => Start::Latest,
        }
    }
}

/// The last one counts, unless it is empty.
fn keep_event_id(slot: &mut Option<String>, value: &str) {
    if !value.is_empty() {
        *slot = Some(cut(value).to_owned());
    }
}

/// A channel or pattern that may be asked for.
pub(crate) fn channel_pattern(text: &str) -> Result<Pattern, Problem> {
    let bad =
        |why: &dyn std::fmt::Display| Problem::bad_request(format!("channel {:?}: {why}", shortened(text)));
    let pattern = auth::pattern(text).map_err(|error| bad(&error))?;
    let levels: Vec<&str> = pattern.levels().collect();
    let known = match levels.as_slice() {
        ["$all" | "$stats" | "$presence"] => true,
        ["$user", level] => *level != "**",
        [first, ..] => !first.starts_with('$'),
        [] => false,
    };
    if known { Ok(pattern) } else { Err(bad(&"the hub has no channel of its own of that name")) }
}

/// A name as it is repeated in an answer: long enough to be recognised.
fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(100)]
}

/// What a newcomer wants to see of what came before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum History {
    /// So many of the newest events of each channel.
    Newest(u16),
    /// The newest event of each key.
    Latest,
}

fn history(value: &str, limits: &LimitsConfig) -> Result<History, Problem> {
    if value == "latest" {
        return Ok(History::Latest);
    }
    let most = u16::try_from(limits.history).unwrap_or(u16::MAX);
    number("history", value, most)
        .map(History::Newest)
        .map_err(|_| Problem::bad_request(format!("history is a number from 0 to {most}, or \"latest\"")))
}

fn filter(text: &str, filters: &Filters) -> Result<Arc<Filter>, Problem> {
    filters.read(text).map_err(|bad| Problem::bad_request(format!("filter, {bad}")).column(bad.column))
}

fn number(name: &str, value: &str, max: u16) -> Result<u16, Problem> {
    let digits = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse().ok().filter(|number| digits && *number <= max);
    number.ok_or_else(|| Problem::bad_request(format!("{name} is a number from 0 to {max}")))
}

fn flag(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "1" => Ok(true),
        "0" => Ok(false),
        _ => Err(Problem::bad_request(format!("{name} is 0 or 1"))),
    }
}

fn once<T: PartialEq>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), Problem> {
    match slot {
        Some(other) if *other != value => {
            Err(Problem::bad_request(format!("{name} is given twice, with different values")))
        }
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;
    use crate::auth::GrantTemplates;

    fn asked(identity: &Identity, uri: &str, headers: &[(&str, &[u8])]) -> Result<SubscribeRequest, Problem> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        subscribe_request(&parts, identity, &LimitsConfig::default(), &Filters::default())
    }

    fn request(query: &str) -> Result<SubscribeRequest, Problem> {
        asked(&Identity::dev(), &format!("/events?{query}"), &[])
    }

    fn user(id: &str, subscribe: &[&str]) -> Identity {
        let templates = GrantTemplates {
            subscribe: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
            ..GrantTemplates::default()
        };
        Identity::of_user(id.parse().unwrap(), &templates)
    }

    fn texts(views: &[View]) -> Vec<&str> {
        views.iter().map(View::as_str).collect()
    }

    #[test]
    fn a_stream_shows_what_was_asked_for_and_what_is_sent_to_it() {
        let seven = user("7", &["news", "orders/{sub}/*"]);
        let found = asked(&seven, "/events?channel=news&channel=orders/7/*&channel=news", &[]).unwrap();
        assert_eq!(texts(&found.views), ["news", "orders/7/*", "$all", "$user/7"]);
        assert_eq!(found.asked, ["news", "orders/7/*"].map(|text| text.parse().unwrap()));
        assert!(matches!(found.views[0], View::Channel(_)) && matches!(found.views[1], View::Pattern(_)));
        let only = asked(&seven, "/events?channel=news&only=1", &[]).unwrap();
        assert_eq!((texts(&only.views), only.only, only.control), (vec!["news"], true, ControlLevel::None));
        assert_eq!(texts(&asked(&seven, "/events", &[]).unwrap().views), ["$all", "$user/7"]);
        let own = asked(&seven, "/events?channel=%24user/7&channel=$all", &[]).unwrap();
        assert_eq!(texts(&own.views), ["$user/7", "$all"]);
        assert_eq!(texts(&request("").unwrap().views), ["$all"]);
        let star = user("*", &[]);
        assert_eq!(texts(&asked(&star, "/events", &[]).unwrap().views), ["$all", "$user/%2A"]);
    }

    #[test]
    fn a_durable_subscription_is_a_users() {
        let asked_by = |identity: &Identity, query: &str| asked(identity, &format!("/events?{query}"), &[]);
        let seven = user("7", &[]);
        let found = asked_by(&seven, "subscription=my%20phone").unwrap();
        assert_eq!(found.subscription, "my phone".parse().ok());
        for bad in ["", &"x".repeat(65), "a%0Ab"] {
            let problem = asked_by(&seven, &format!("subscription={bad}")).unwrap_err();
            assert_eq!(problem.status(), 400, "{bad}");
            assert!(problem.detail().starts_with("subscription: "), "{}", problem.detail());
        }
        assert_eq!(asked_by(&seven, "subscription=a&subscription=b").unwrap_err().status(), 400);
        let dev = request("subscription=a").unwrap_err();
        assert!(dev.status() == 400 && dev.detail().contains("tidings token"), "{}", dev.detail());
    }

    #[test]
    fn all_of_it_has_to_be_granted() {
        let seven = user("7", &["news", "orders/{sub}/*"]);
        for query in [
            "channel=news&channel=other",
            "channel=*",
            "channel=orders/8/*",
            "channel=$user/8",
            "channel=$user/*",
        ] {
            let problem = asked(&seven, &format!("/events?{query}"), &[]).unwrap_err();
            assert_eq!((problem.status().as_u16(), problem.kind()), (403, "not_granted"), "{query}");
        }
        assert_eq!(asked(&seven, "/events?channel=$stats", &[]).unwrap_err().status(), 403);
        assert_eq!(texts(&request("channel=$stats").unwrap().views), ["$stats", "$all"]);
        let granted = user("7", &["$stats", "$presence"]);
        assert_eq!(
            asked(&granted, "/events?channel=$stats", &[]).unwrap_err().status(),
            403,
            "no administrator"
        );
        assert_eq!(request("channel=$presence/a").unwrap_err().status(), 400);
        assert_eq!(texts(&request("channel=$presence").unwrap().views), ["$presence", "$all"]);
        assert_eq!(asked(&seven, "/events?channel=$presence", &[]).unwrap_err().status(), 403);
        let wide = user("7", &["**"]);
        assert_eq!(asked(&wide, "/events?channel=$presence", &[]).unwrap_err().status(), 403);
    }

    #[test]
    fn parameters_have_limits() {
        let check = |query: &str, status: u16| {
            let found = request(query).map_or_else(|problem| problem.status().as_u16(), |_| 200);
            assert_eq!(found, status, "{}", shortened(query));
        };
        let many = |count: usize| (0..count).map(|n| format!("channel=c{n}&")).collect::<String>();
        check(&many(100), 200);
        check(&many(101), 400);
        check(&"channel=same&".repeat(101), 400);
        for bad in [
            "",
            "a//b",
            "/a",
            "a/",
            "..",
            "a/../b",
            "a*",
            "**/a",
            "a/%24b",
            "$",
            "$other",
            "$user",
            "$user/a/b",
            "$all/a",
            "a%0Ab",
            "a%ff",
            "a%",
            "a%zz",
            &"x".repeat(2000),
        ] {
            check(&format!("channel={bad}"), 400);
        }
        for good in ["a", "a%2Fb", "a+b", "%C3%A4", "*", "**", "a/*/b", "$user/*", "$user/**", "$all", "a%2A"]
        {
            check(&format!("channel={good}"), if good == "a%2A" { 400 } else { 200 });
        }
        for (name, good, bad) in [
            (
                "history",
                &["0", "1", "1000"][..],
                &["", "-1", "+1", "1001", "1e3", "x", "99999999999999999999"][..],
            ),
            ("padding", &["0", "4096"], &["", "4097", "-1", "0x10"]),
            ("envelope", &["0", "1"], &["", "2", "true"]),
            ("control", &["0", "1"], &["", "all"]),
            ("only", &["0", "1"], &["", "yes"]),
            ("if_active", &["0", "1"], &["", "yes"]),
            ("poll", &["0", "1"], &["", "yes"]),
            ("client", &["a", "tab-7"], &["", "a%0Ab", &"x".repeat(65)]),
        ] {
            for value in good {
                check(&format!("{name}={value}"), 200);
                check(&format!("{name}={value}&{name}={value}"), 200);
            }
            for value in bad {
                check(&format!("{name}={value}"), 400);
            }
        }
        check("history=1&history=2", 400);
        check("only=1&control=1", 400);
        check("_=123&utm_source=x&token=t", 200);
    }

    #[test]
    fn presence_is_for_exact_channels_of_which_it_is_granted() {
        let channels = |query: &str| request(query).map(|found| found.presence);
        assert_eq!(
            channels("channel=a&channel=b/c&presence=1").unwrap(),
            ["a", "b/c"].map(|n| n.parse().unwrap())
        );
        assert_eq!(channels("channel=a&presence=0").unwrap(), []);
        assert_eq!(channels("channel=a").unwrap(), []);
        for bad in [
            "channel=a/*",
            "channel=a&channel=**",
            "",
            "channel=a&only=1",
            "channel=a&control=0",
            "channel=a&presence=0",
        ] {
            assert_eq!(request(&format!("{bad}&presence=1")).unwrap_err().status(), 400, "{bad}");
        }
        assert_eq!(request("channel=a&presence=yes").unwrap_err().status(), 400);
        // A grant to subscribe is none to see who is there.
        let seven = user("7", &["a"]);
        assert_eq!(asked(&seven, "/events?channel=a&presence=1", &[]).unwrap_err().status(), 403);
    }

    #[test]
    fn options_are_read() {
        let found = request("envelope=1&control=1&client=tab&padding=2048").unwrap();
        assert!(found.envelope && !found.only);
        assert_eq!((found.control, found.padding), (ControlLevel::All, 2048));
        assert_eq!(found.client.unwrap().as_str(), "tab");
        assert_eq!(request("control=0").unwrap().control, ControlLevel::Gaps);
        assert_eq!(request("history=latest").unwrap().start, Start::Latest);
        assert!(request("if_active=1").unwrap().if_active);
        assert_eq!(request("").unwrap().control, ControlLevel::Default);
    }

    #[test]
    fn a_filter_is_read_or_refused_where_it_is_wrong() {
        let found = request("channel=a&filter=priority+%3E+3+%26%26+tags['%C3%A4']").unwrap();
        assert_eq!(found.filter.unwrap().as_str(), "priority > 3 && tags[\"ä\"]");
        assert_eq!(request("channel=a").unwrap().filter, None);
        let bad = request("filter=%C3%A4%20==%201").unwrap_err();
        assert_eq!(bad.status(), 400);
        assert!(bad.document("x").contains("\"column\":1,"), "{}", bad.document("x"));
        let bad = request("filter=a%20=%201").unwrap_err();
        assert_eq!(bad.detail(), "filter, column 3: expected ==, !=, <, <=, >, >= or in");
        for refused in ["filter=", "filter=a&filter=b", &format!("filter={}", "a".repeat(1025))] {
            assert_eq!(request(refused).unwrap_err().status(), 400, "{refused}");
        }
        assert!(request("filter=a&filter=a").is_ok());
        let seven = user("7", &["news"]);
        assert_eq!(asked(&seven, "/events?channel=other&filter=(", &[]).unwrap_err().status(), 403);
    }

    #[test]
    fn the_last_event_id_is_found_in_order() {
        let check = |header: Option<&str>, query: &str, expected: Start| {
            let headers: Vec<(&str, &[u8])> =
                header.iter().map(|id| ("last-event-id", id.as_bytes())).collect();
            let found = asked(&Identity::dev(), &format!("/events?{query}"), &headers).unwrap();
            assert_eq!(found.start, expected, "{header:?} {query}");
        };
        let cursor = |id: &str| Start::Cursor(id.to_owned());
        check(Some("h"), "lastEventId=q&last_event_id=r&history=5", cursor("h"));
        check(Some(""), "last_event_id=r&lastEventId=q", cursor("q"));
        check(None, "last_event_id=r&lastEventId=", cursor("r"));
        check(None, "lastEventID=r", cursor("r"));
        check(None, "lastEventId=old&lastEventId=new", cursor("new"));
        check(None, "lastEventId=old&lastEventId=", cursor("old"));
        check(None, "last_event_id=", Start::Now);
        check(None, "last_event_id=&history=3", Start::History(3));
        check(None, "history=0", Start::Now);
        check(None, "", Start::Now);
        check(Some("now"), "history=3", Start::Now);
        check(Some("earliest"), "", Start::Earliest);
        check(None, "last_event_id=earliest", Start::Earliest);
        check(None, "last_event_id=a%00b", cursor("a\0b"));
        check(Some("Now"), "", cursor("Now"));
    }

    #[test]
    fn what_is_no_cursor_is_kept_short_and_never_refused() {
        let long = "x".repeat(8 << 10);
        for (headers, query) in [
            (vec![("last-event-id", long.as_bytes())], String::new()),
            (vec![], format!("last_event_id={long}")),
            (vec![("last-event-id", b"\xff\xfe".as_slice())], String::new()),
            (vec![("last-event-id", b"a".as_slice()), ("last-event-id", b"b".as_slice())], String::new()),
            (vec![("last-event-id", "ä".repeat(100).as_bytes())], String::new()),
        ] {
            let found = asked(&Identity::dev(), &format!("/events?{query}"), &headers).unwrap();
            let Start::Cursor(id) = found.start else { panic!("{:?}", found.start) };
            assert!(id.len() <= LONGEST_EVENT_ID && id.len() != Cursor::LEN, "{id}");
        }
    }

    #[test]
    fn a_client_that_takes_no_event_streams_is_told_so() {
        let accept =
            |value: &'static str| asked(&Identity::dev(), "/events", &[("accept", value.as_bytes())]);
        assert_eq!(accept("application/json").unwrap_err().status(), 406);
        assert!(accept("*/*").is_ok());
        let poll = |value: &'static str| {
            asked(&Identity::dev(), "/events?p%6fll=1", &[("accept", value.as_bytes())])
        };
        assert_eq!(poll("text/event-stream").unwrap_err().status(), 406);
        assert!(poll("application/json").is_ok() && poll("*/*").is_ok());
    }

    /// Patterns that may be granted or asked for: short ones over a small alphabet, so that they meet.
    fn any_pattern() -> impl Strategy<Value = String> {
        let level =
            prop_oneof![4 => Just("a"), 2 => Just("b"), 2 => Just("*"), 1 => Just("7"), 1 => Just("%2A")];
        let first = prop_oneof![8 => Just(None), 2 => Just(Some("$user")), 1 => Just(Some("$all"))];
        (first, prop::collection::vec(level, 0..3), any::<bool>()).prop_map(|(first, mut levels, rest)| {
            match first {
                Some("$all") => "$all".to_owned(),
                Some(_) => format!("$user/{}", levels.first().unwrap_or(&"*")),
                None => {
                    if rest || levels.is_empty() {
                        levels.push("**");
                    }
                    levels.join("/")
                }
            }
        })
    }

    /// Whether a pattern matches a channel, written as plainly as can be.
    fn matches(pattern: &[&str], channel: &[&str]) -> bool {
        let Some((mine, pattern)) = pattern.split_first() else { return channel.is_empty() };
        let Some((theirs, rest)) = channel.split_first() else { return false };
        match *mine {
            "**" => channel.iter().all(|level| !level.starts_with('$')),
            "*" => !theirs.starts_with('$') && matches(pattern, rest),
            mine => mine == *theirs && matches(pattern, rest),
        }
    }

    fn universe() -> Vec<Channel> {
        let levels = ["a", "b", "7", "%2A"];
        let mut all = vec![Channel::all()];
        all.extend(["7", "8", "a", "b", "*"].map(|id| Channel::user(&id.parse().unwrap())));
        for x in levels {
            all.push(x.parse().unwrap());
            for y in levels {
                all.push(format!("{x}/{y}").parse().unwrap());
                all.extend(levels.map(|z| format!("{x}/{y}/{z}").parse().unwrap()));
            }
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever is asked for: a stream shows nothing but what a grant shows, what is sent to all, and what is sent
        /// to its own user; and with `only=1` nothing that was not asked for.
        #[test]
        fn no_stream_shows_what_was_not_granted(
            granted in prop::collection::vec(any_pattern(), 0..4),
            asked_for in prop::collection::vec(any_pattern(), 0..3),
            only: bool,
            id in prop_oneof![Just("7"), Just("*"), Just("a")],
        ) {
            let identity = user(id, &granted.iter().map(String::as_str).collect::<Vec<_>>());
            let mut query: String = asked_for.iter().map(|text| format!("channel={}&", text.replace('%', "%25"))).collect();
            query.push_str(if only { "only=1" } else { "only=0" });
            let own = identity.user.as_ref().map(Channel::user);
            let shows = |pattern: &String, channel: &Channel| {
                matches(&pattern.split('/').collect::<Vec<_>>(), &channel.as_str().split('/').collect::<Vec<_>>())
            };
            match asked(&identity, &format!("/events?{query}"), &[]) {
                Ok(request) => {
                    for channel in universe() {
                        let shown = request.views.iter().any(|view| view.shows(&channel));
                        let implied = channel == Channel::all() || Some(&channel) == own.as_ref();
                        let may = implied || granted.iter().any(|grant| shows(grant, &channel));
                        let wanted = asked_for.iter().any(|pattern| shows(pattern, &channel));
                        prop_assert_eq!(shown, wanted || (implied && !only), "{}", channel);
                        prop_assert!(!shown || may, "{}", channel);
                    }
                }
                Err(problem) => {
                    prop_assert_eq!(problem.kind(), "not_granted");
                    // A single channel that is granted is never refused.
                    let all_plain = asked_for.iter().all(|text| !text.contains('*'));
                    let all_granted = asked_for.iter().all(|text| granted.contains(text));
                    prop_assert!(!(all_plain && all_granted));
                }
            }
        }

        #[test]
        fn no_query_makes_it_panic(
            query in "(channel|history|padding|client|lastEventId|only|x)=[ -~]{0,20}(&[a-zA-Z_%=&+.]{0,30}){0,4}",
            id in prop::collection::vec(0x20_u8..=0xff, 0..60),
        ) {
            let encoded: String = query.bytes().filter(|b| !b" \"#<>\\^`{|}".contains(b)).map(char::from).collect();
            let id: Vec<u8> = id.into_iter().filter(|&byte| byte != 0x7f).collect();
            let _ = asked(&Identity::dev(), &format!("/events?{encoded}"), &[("last-event-id", &id)]);
        }
    }
}
