//! The names of the channels that a log knows, in order, and which of them are meant.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use tidings_wire::{Channel, Sequence};

use super::Selection;
use crate::View;

/// How many names are looked at to find out which channels a pattern shows.
const LOOKED_AT: usize = 4_096;

/// Names of channels; for who makes a log.
#[derive(Debug, Default)]
pub struct Names(BTreeSet<Channel>);

impl Names {
    /// One more.
    pub fn insert(&mut self, channel: Channel) {
        self.0.insert(channel);
    }

    /// One less.
    pub fn remove(&mut self, channel: &Channel) {
        self.0.remove(channel);
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Channel> {
        self.0.iter()
    }

    /// Those that a view shows, in order.
    pub fn shown_by<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Channel> {
        self.near(view).filter(move |channel| view.shows(channel))
    }

    /// Those that begin so and come after one, in order.
    pub fn beginning_with<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Channel>,
    ) -> impl Iterator<Item = &'a Channel> {
        let from = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        self.0
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(move |channel| channel.as_str().starts_with(prefix))
    }

    /// The channels that are selected, each by its key with the place from which on it is, if they are no more than
    /// `most` and found soon. One that has no key is none.
    pub fn selected<K: Ord>(
        &self,
        selections: &[Selection],
        most: usize,
        key: impl Fn(&Channel) -> Option<K>,
    ) -> Option<BTreeMap<K, Sequence>> {
        let mut selected = BTreeMap::new();
        let mut add = |channel: &Channel, after: Sequence| {
            let Some(key) = key(channel) else { return true };
            let from = selected.entry(key).or_insert(after);
            *from = after.min(*from);
            selected.len() <= most
        };
        let mut left = LOOKED_AT;
        for Selection { view, after } in selections {
            match view {
                View::Channel(channel) => {
                    if !add(channel, *after) {
                        return None;
                    }
                }
                View::Pattern(pattern) => {
                    for channel in self.near(view) {
                        left = left.checked_sub(1)?;
                        if pattern.matches(channel) && !add(channel, *after) {
                            return None;
                        }
                    }
                }
            }
        }
        Some(selected)
    }

    /// Those that begin as all do that the view shows.
    fn near<'a>(&'a self, view: &'a View) -> impl Iterator<Item = &'a Channel> {
        self.beginning_with(view.literal_begin(), None)
    }
}
