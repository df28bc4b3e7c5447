//! An event as JSON shows it, in a page of history or in the answer to a poll.

use serde::Serialize;
use serde_json::value::RawValue;
use tidings_hub::View;
use tidings_hub::log::Record;
use tidings_wire::{Channel, CursorKey, Data};

/// An event, with the one target that it is shown for.
#[derive(Serialize)]
pub(super) struct Shown<'a> {
    id: String,
    channel: &'a str,
    event: &'a str,
    data: ShownData<'a>,
    /// Unix milliseconds.
    time: u64,
}

#[derive(Serialize)]
#[serde(untagged)]
enum ShownData<'a> {
    Text(&'a str),
    Json(&'a RawValue),
}

/// How an event is shown to who follows these views. None if it says nothing, or none of them shows it.
pub(super) fn shown<'a>(record: &'a Record, views: &[View], key: &CursorKey) -> Option<Shown<'a>> {
    let event = &record.event;
    let shows = |channel: &&Channel| views.iter().any(|view| view.shows(channel));
    Some(Shown {
        id: key.seal(record.position).to_string(),
        channel: event.to.channels().iter().find(shows)?.as_str(),
        event: event.event.as_str(),
        data: match &event.data {
            Data::Text(text) => ShownData::Text(text),
            Data::Nothing => return None,
            // What a program inside published as JSON and is none is shown as text.
            Data::Json(json) => serde_json::from_str(json).map_or(ShownData::Text(json), ShownData::Json),
        },
        time: record.time.0,
    })
}

/// Something that is missing.
#[derive(Serialize)]
pub(super) struct Gap {
    pub(super) reason: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    pub(super) to: String,
}
