//! What is kept of channels.

use reqwest::Url;
use serde::Deserialize;

use crate::update::Envelope;
use crate::{Error, Event, Gap};

/// Which events to read.
#[derive(Debug, Clone)]
pub struct History {
    channels: Vec<String>,
    after: Option<String>,
    until: Option<String>,
    limit: Option<u16>,
    newest_first: bool,
}

/// Some events that are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// The events, in the log's order or in reverse.
    pub events: Vec<Event>,
    /// How far was looked. A subscription that starts after it misses nothing and gets nothing twice.
    pub last_event_id: String,
    /// While there is more: what the next page is [`after`](History::after), or, newest first,
    /// [`until`](History::until).
    pub next: Option<String>,
    /// That something was asked for that is not kept any more.
    pub gap: Option<Gap>,
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    events: Vec<Envelope<'a>>,
    last_event_id: String,
    next: Option<String>,
    gap: Option<Gap>,
}

impl History {
    /// Of these channels or patterns: the oldest 100 events that are kept.
    pub fn of(channels: impl IntoIterator<Item = impl Into<String>>) -> History {
        let channels = channels.into_iter().map(Into::into).collect();
        History { channels, after: None, until: None, limit: None, newest_first: false }
    }

    /// Only what comes after this id.
    #[must_use]
    pub fn after(mut self, id: impl Into<String>) -> History {
        self.after = Some(id.into());
        self
    }

    /// Only what comes before this id, and its own event.
    #[must_use]
    pub fn until(mut self, id: impl Into<String>) -> History {
        self.until = Some(id.into());
        self
    }

    /// So many events, up to 1,000.
    #[must_use]
    pub fn limit(mut self, events: u16) -> History {
        self.limit = Some(events);
        self
    }

    /// The newest ones, and those first.
    #[must_use]
    pub fn newest_first(mut self) -> History {
        self.newest_first = true;
        self
    }

    pub(crate) fn write_to(&self, url: &mut Url) {
        let mut query = url.query_pairs_mut();
        for channel in &self.channels {
            query.append_pair("channel", channel);
        }
        for (name, id) in [("after", &self.after), ("until", &self.until)] {
            if let Some(id) = id {
                query.append_pair(name, id);
            }
        }
        if let Some(limit) = self.limit {
            query.append_pair("limit", &limit.to_string());
        }
        if self.newest_first {
            query.append_pair("order", "desc");
        }
    }
}

impl Page {
    pub(crate) fn read(body: &[u8]) -> Result<Page, Error> {
        let document: Document<'_> =
            serde_json::from_slice(body).map_err(|error| Error::Answer(error.to_string()))?;
        let Document { events, last_event_id, next, gap } = document;
        let events = events.into_iter().map(Envelope::open).collect::<Option<_>>();
        let events = events.ok_or_else(|| Error::Answer("an event's data is no text".to_owned()))?;
        Ok(Page { events, last_event_id, next, gap })
    }
}
