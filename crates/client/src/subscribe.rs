//! What to subscribe to.

use std::time::Duration;

use reqwest::Url;
use tidings_wire::Limits;

/// What a Tidings server says by default, and browsers take.
const RETRY: Duration = Duration::from_secs(3);
/// Three heartbeats of a server with default settings: two may be late.
const SILENCE: Duration = Duration::from_secs(45);

/// What to subscribe to, and from where.
#[derive(Debug, Clone)]
pub struct Subscribe {
    pub(crate) channels: Vec<String>,
    start: Start,
    envelope: bool,
    only: bool,
    presence: bool,
    control: bool,
    filter: Option<String>,
    subscription: Option<String>,
    client: Option<String>,
    pub(crate) retry: Duration,
    pub(crate) silence: Duration,
    pub(crate) limits: Limits,
}

/// Where a subscription begins. Once it has an id, every reconnect goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Start {
    /// With what is published from now on.
    #[default]
    Now,
    /// With the oldest event that is kept.
    Earliest,
    /// With the newest so many events of each channel, up to 1,000.
    History(u16),
    /// With the newest event of each key, and none without a key.
    Latest,
    /// After the event with this id.
    After(String),
}

impl Subscribe {
    /// Channels or patterns, up to 100. With none, there is only what is sent to this user and to everybody.
    pub fn to(channels: impl IntoIterator<Item = impl Into<String>>) -> Subscribe {
        Subscribe {
            channels: channels.into_iter().map(Into::into).collect(),
            start: Start::Now,
            envelope: false,
            only: false,
            presence: false,
            control: false,
            filter: None,
            subscription: None,
            client: None,
            retry: RETRY,
            silence: SILENCE,
            limits: Limits::default(),
        }
    }

    /// Where to begin.
    #[must_use]
    pub fn start(mut self, start: Start) -> Subscribe {
        self.start = start;
        self
    }

    /// Asks for each event's channel and time.
    #[must_use]
    pub fn envelope(mut self) -> Subscribe {
        self.envelope = true;
        self
    }

    /// Nothing but these channels: not what is sent to this user or to everybody, and an error where events can't be
    /// replayed.
    #[must_use]
    pub fn only(mut self) -> Subscribe {
        self.only = true;
        self
    }

    /// Only those events of these channels whose tags are such, like `priority > 3 && region in ["eu", "us"]`.
    #[must_use]
    pub fn filter(mut self, condition: impl Into<String>) -> Subscribe {
        self.filter = Some(condition.into());
        self
    }

    /// Says who is in these channels, and who comes and leaves: [`Update::Presence`](crate::Update::Presence). All of
    /// them have to be exact, and granted for that too. Not together with [`Subscribe::only`].
    #[must_use]
    pub fn presence(mut self) -> Subscribe {
        self.presence = true;
        self
    }

    /// Says how many events were passed over because newer ones with the same keys came:
    /// [`Update::Skipped`](crate::Update::Skipped). Not together with [`Subscribe::only`].
    #[must_use]
    pub fn control(mut self) -> Subscribe {
        self.control = true;
        self
    }

    /// The name of a durable subscription of the token's user, up to 64 characters: the server keeps how far it is.
    /// What comes after [`Client::acknowledge`](crate::Client::acknowledge) comes again to the next one of this name;
    /// coming back after a lost connection acknowledges what was taken out here before.
    #[must_use]
    pub fn subscription(mut self, name: impl Into<String>) -> Subscribe {
        self.subscription = Some(name.into());
        self
    }

    /// An id of this client's own choice, up to 64 characters, by which publishers can exclude it.
    #[must_use]
    pub fn client(mut self, id: impl Into<String>) -> Subscribe {
        self.client = Some(id.into());
        self
    }

    /// How long to wait before the first reconnect, until the server says otherwise: 3 seconds. Further failures in a row
    /// double it, up to a minute.
    #[must_use]
    pub fn retry(mut self, time: Duration) -> Subscribe {
        self.retry = time;
        self
    }

    /// How long nothing may come, not even a heartbeat, before the connection is taken for dead: 45 seconds, three
    /// heartbeats of a server with default settings.
    #[must_use]
    pub fn silence(mut self, time: Duration) -> Subscribe {
        self.silence = time;
        self
    }

    /// The largest line and event that is taken: 8 MiB each.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Subscribe {
        self.limits = limits;
        self
    }

    pub(crate) fn has_envelope(&self) -> bool {
        self.envelope
    }

    /// The id to begin with, where one was given.
    pub(crate) fn first_id(&self) -> String {
        match &self.start {
            Start::After(id) => id.clone(),
            _ => String::new(),
        }
    }

    /// Writes this into the query. What says where to begin may stay there on reconnects: an id in the header wins.
    pub(crate) fn write_to(&self, url: &mut Url) {
        let mut query = url.query_pairs_mut();
        for channel in &self.channels {
            query.append_pair("channel", channel);
        }
        match self.start {
            Start::Now | Start::After(_) => {}
            Start::Earliest => {
                query.append_pair("last_event_id", "earliest");
            }
            Start::History(count) => {
                query.append_pair("history", &count.to_string());
            }
            Start::Latest => {
                query.append_pair("history", "latest");
            }
        }
        for (name, on) in [
            ("envelope", self.envelope),
            ("only", self.only),
            ("presence", self.presence),
            ("control", self.control),
        ] {
            if on {
                query.append_pair(name, "1");
            }
        }
        for (name, value) in
            [("filter", &self.filter), ("subscription", &self.subscription), ("client", &self.client)]
        {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
    }
}
