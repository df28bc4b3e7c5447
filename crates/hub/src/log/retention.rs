//! What a log keeps, by channel.

use std::time::Duration;

use tidings_wire::{Channel, Event, Pattern};

use crate::Timestamp;

/// How much is kept of one channel. A cap that is absent does not limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// For how long, counted from when an event was published.
    pub age: Option<Duration>,
    /// How many events.
    pub count: Option<u64>,
    /// How many bytes of data.
    pub bytes: Option<u64>,
    /// Whether only the newest event of each key (and set of tags) is kept. Events without a key are kept as ever.
    pub state_only: bool,
}

/// The rules of retention: for a channel the first that matches, and the default for all others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Rules by pattern. `$user/*` and `$all` match what is sent to users and to everybody.
    pub rules: Vec<(Pattern, Caps)>,
    /// For channels that no rule matches, the hub's own ones included.
    pub default: Caps,
    /// Over all channels.
    pub total: Caps,
}

impl Retention {
    /// The caps of one channel.
    pub fn caps(&self, channel: &Channel) -> Caps {
        self.rules
            .iter()
            .find(|(pattern, _)| pattern.matches(channel))
            .map_or(self.default, |(_, caps)| *caps)
    }
}

/// How many of the records with its key, the newest first, a new one can take the place of. Nearly always there is one;
/// where each has other targets, all of them would have to be looked at for every new one.
pub const LOOKED_BACK: usize = 16;

/// Whether a new record takes the place of an older one with the same key, in a channel that keeps only states: if
/// everybody who is shown the old one is shown the new one, whatever its filter, for as long at least.
pub fn takes_the_place(new: (&Event, Timestamp), old: (&Event, Timestamp)) -> bool {
    let over =
        |(event, time): (&Event, Timestamp)| event.ttl.map(|ttl| time.plus(Duration::from_secs(ttl.into())));
    let lasts = match (over(new), over(old)) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(new), Some(old)) => new >= old,
    };
    let (to, of) = (new.0.to.channels(), old.0.to.channels());
    // Each is there once, so that as many of the same are all of them.
    let same = to == of || to.len() == of.len() && to.iter().all(|channel| of.contains(channel));
    let shown = new.0.is_shown() && new.0.exclude.is_empty() && new.0.tags == old.0.tags;
    new.0.key == old.0.key && shown && lasts && same
}

#[cfg(test)]
mod tests {
    use tidings_wire::{ConnectionId, Data, Exclude, TagValue, Tags};

    use super::*;
    use crate::log::suite::event;

    #[test]
    fn a_new_record_takes_the_place_only_of_what_nobody_can_miss() {
        let state = |targets: &[&str], ttl| Event { key: "k".parse().ok(), ttl, ..event(targets, "x") };
        let (plain, at) = (state(&["a", "b"], None), Timestamp(10_000));
        let takes = |new: &Event, old: &Event| takes_the_place((new, at), (old, Timestamp(9_000)));
        assert!(takes(&plain, &plain));
        assert!(takes(&state(&["b", "a"], None), &plain), "in whatever order");
        assert!(!takes(&state(&["a"], None), &plain));
        assert!(!takes(&state(&["a", "b", "c"], None), &plain));
        assert!(!takes(&state(&["a", "c"], None), &plain));
        assert!(!takes(&Event { key: "l".parse().ok(), ..plain.clone() }, &plain));
        let exclude = Exclude { connection: Some(ConnectionId(1)), ..Exclude::default() };
        let excluding = Event { exclude, ..plain.clone() };
        assert!(!takes(&excluding, &plain));
        assert!(takes(&plain, &excluding));
        let lasting = |ttl| state(&["a", "b"], Some(ttl));
        assert!(takes(&plain, &lasting(u32::MAX)));
        assert!(!takes(&lasting(u32::MAX), &plain), "it is over, and the old one would not be");
        assert!(takes(&lasting(4), &lasting(5)), "over at the same time");
        assert!(!takes(&lasting(3), &lasting(5)));
        let tagged = |value| {
            let tags = Tags::new([("region".into(), TagValue::Text(value))]).unwrap();
            Event { tags, ..plain.clone() }
        };
        assert!(takes(&tagged("eu".into()), &tagged("eu".into())));
        assert!(
            !takes(&tagged("us".into()), &tagged("eu".into())),
            "a filter may have chosen the old one only"
        );
        assert!(!takes(&plain, &tagged("eu".into())));
        let end = Event { end: true, ..plain.clone() };
        assert!(takes(&end, &plain), "it says something");
        assert!(!takes(&Event { data: Data::Nothing, ..end }, &plain), "nobody is shown it");
    }
}
