//! How what came from a server is printed: for people in columns, with `--json` an object a line.

use anyhow::Result;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings::client::{Event, Gap, Presence, Present};

use crate::output;

/// Prints what came on the standard output, and says on the standard error what is for people only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Show {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

impl Show {
    pub(crate) fn event(self, event: &Event) -> Result<()> {
        if self.json {
            return output::line(&as_json(event));
        }
        let channel = event.channel.as_deref().unwrap_or_default();
        match event.event.as_str() {
            "message" => output::line(&format!("{channel}  {}", event.data)),
            kind => output::line(&format!("{channel}  {kind}  {}", event.data)),
        }
    }

    /// A gap is for programs too.
    pub(crate) fn gap(self, gap: &Gap) -> Result<()> {
        self.note(&format!("events are missing here: {}", meaning(&gap.reason)));
        self.control("tidings:gap", &json!({"reason": gap.reason, "from": gap.from, "to": gap.to}))
    }

    pub(crate) fn skipped(self, count: u64) -> Result<()> {
        let events = if count == 1 { "1 event was" } else { &format!("{count} events were") };
        self.note(&format!("{events} passed over: newer ones with the same keys came"));
        self.control("tidings:skipped", &json!({"count": count}))
    }

    /// It was asked for, so that it is printed like an event.
    pub(crate) fn presence(self, presence: &Presence) -> Result<()> {
        if self.json {
            return self.control("tidings:presence", &serde_json::to_value(presence)?);
        }
        output::line(&format!("{}  tidings:presence  {}", presence.channel(), people(presence)))
    }

    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            eprintln!("tidings: {text}");
        }
    }

    fn control(self, event: &str, data: &Value) -> Result<()> {
        match self.json {
            true => output::line(&json!({"event": event, "data": data}).to_string()),
            false => Ok(()),
        }
    }
}

/// `{"id","channel","event","data","time"}`: what was published as JSON is JSON here too, as it came.
fn as_json(event: &Event) -> String {
    let data = match RawValue::from_string(event.data.clone()) {
        Ok(raw) if !event.is_text => raw.get().to_owned(),
        _ => Value::from(event.data.as_str()).to_string(),
    };
    let text = |text: &str| Value::from(text).to_string();
    format!(
        "{{\"id\":{},\"channel\":{},\"event\":{},\"data\":{data},\"time\":{}}}",
        text(&event.id),
        event.channel.as_deref().map_or("null".to_owned(), text),
        text(&event.event),
        event.time.map_or("null".to_owned(), |time| time.to_string()),
    )
}

fn meaning(reason: &str) -> String {
    match reason {
        "expired" => "they are not kept any more".to_owned(),
        "unknown" => "the id to go on from is none of this server's".to_owned(),
        "epoch" => "the server's log was set back to an earlier state".to_owned(),
        "limit" => "there were more than are replayed at once".to_owned(),
        other => other.to_owned(),
    }
}

/// Who is there, or came and left, in one line.
fn people(presence: &Presence) -> String {
    let mut parts = Vec::new();
    let connections = match presence {
        Presence::Snapshot(snapshot) => {
            parts.push(format!("here: {}", names(&snapshot.users, snapshot.truncated.then_some("others"))));
            snapshot.connections
        }
        Presence::Digest(digest) => {
            for (what, users, more) in
                [("joined", &digest.joined, digest.joined_more), ("left", &digest.left, digest.left_more)]
            {
                if !users.is_empty() || more > 0 {
                    let more = (more > 0).then(|| format!("{more} more"));
                    parts.push(format!("{what}: {}", names(users, more.as_deref())));
                }
            }
            digest.connections
        }
        _ => return String::new(),
    };
    parts.push(format!("connections: {connections}"));
    parts.join("; ")
}

fn names(users: &[Present], more: Option<&str>) -> String {
    let names: Vec<&str> = users.iter().map(|present| present.user.as_str()).chain(more).collect();
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        people(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn people_are_named_and_the_others_counted() {
        assert_eq!(
            shown(
                r#"{"type":"snapshot","channel":"a","connections":3,"users":[{"user":"ada","connections":2},{"user":"bob","connections":1}]}"#
            ),
            "here: ada, bob; connections: 3"
        );
        assert_eq!(
            shown(r#"{"type":"snapshot","channel":"a","connections":1,"users":[]}"#),
            "here: nobody; connections: 1"
        );
        assert_eq!(
            shown(
                r#"{"type":"snapshot","channel":"a","connections":900,"users":[{"user":"ada"}],"truncated":true}"#
            ),
            "here: ada, others; connections: 900"
        );
        assert_eq!(
            shown(
                r#"{"type":"digest","channel":"a","connections":7,"joined":[{"user":"bob"}],"left":[{"user":"cid"}],"left_more":4}"#
            ),
            "joined: bob; left: cid, 4 more; connections: 7"
        );
        assert_eq!(shown(r#"{"type":"digest","channel":"a","connections":7}"#), "connections: 7");
    }
}
