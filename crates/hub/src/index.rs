//! Who follows what, on one worker: from a channel to the views that show it.

use std::collections::{HashMap, VecDeque};

use tidings_wire::{Channel, Pattern, Sequence};

use crate::View;

/// One view that somebody on this worker follows.
#[derive(Debug)]
pub(crate) struct Followed {
    pub(crate) view: View,
    /// The slots of its subscribers, in no order.
    pub(crate) members: Vec<u32>,
    /// The window's indices of the entries that it shows, as far back as the window goes and since `complete_from`.
    pub(crate) recent: VecDeque<u64>,
    /// The index from which on `recent` has everything.
    pub(crate) complete_from: u64,
    /// It is a channel that has ended, with this record, as is known of the log up to `known_to`. That may be ahead of
    /// what has come through the window.
    pub(crate) ended: Option<Sequence>,
    /// Nothing, if nobody was told.
    known_to: Option<Sequence>,
}

impl Followed {
    /// Takes in whether the channel has ended as of a place, unless something newer is known.
    pub(crate) fn learn(&mut self, place: Sequence, ended: Option<Sequence>) {
        if self.known_to.is_none_or(|known| place >= known) {
            self.known_to = Some(place);
            self.ended = ended;
        }
    }

    /// Whether it may have ended without anybody here knowing: nobody was told since it was followed, or since the window
    /// left this worker behind.
    pub(crate) fn may_have_ended(&self) -> bool {
        matches!(self.view, View::Channel(_)) && !self.view.is_system() && self.known_to.is_none()
    }

    /// Whether what is known of its end takes in everything up to a place.
    pub(crate) fn is_known_to(&self, place: Sequence) -> bool {
        self.known_to.is_some_and(|known| known >= place)
    }

    /// The place in `recent` of the first entry that comes at an index or after it. Whoever is behind is mostly behind
    /// by the newest few, so those are looked at first.
    pub(crate) fn first_from(&self, index: u64) -> usize {
        let recent = &self.recent;
        let (mut first, mut end) = (0, recent.len());
        while let Some(at) = end.checked_sub((recent.len() - end).max(1)) {
            if recent[at] < index {
                first = at + 1;
                break;
            }
            end = at;
        }
        while first < end {
            let middle = usize::midpoint(first, end);
            if recent[middle] < index { first = middle + 1 } else { end = middle }
        }
        first
    }
}

/// The place of a view in the index, valid as long as the view has a member.
pub(crate) type ViewId = u32;

/// From channels to views.
#[derive(Debug, Default)]
pub(crate) struct Index {
    views: Vec<Option<Followed>>,
    free: Vec<ViewId>,
    channels: HashMap<Channel, ViewId>,
    patterns: Node,
}

/// One level of the patterns.
#[derive(Debug, Default)]
struct Node {
    /// The pattern that ends here.
    here: Option<ViewId>,
    /// The pattern that goes on with `**`.
    rest: Option<ViewId>,
    /// Patterns that go on with `*`.
    any: Option<Box<Node>>,
    /// Patterns that go on with this literal level.
    literal: HashMap<Box<str>, Node>,
}

impl Index {
    /// The id of a view, which becomes followed if it wasn't; what it shows from `complete_from` on will be in
    /// `recent`.
    pub(crate) fn follow(&mut self, view: &View, complete_from: u64) -> ViewId {
        let known = match view {
            View::Channel(channel) => self.channels.get(channel).copied(),
            View::Pattern(pattern) => self.patterns.find(pattern.levels()).and_then(|slot| *slot),
        };
        if let Some(id) = known {
            return id;
        }
        let followed = Followed {
            view: view.clone(),
            members: Vec::new(),
            recent: VecDeque::new(),
            complete_from,
            ended: None,
            known_to: None,
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.views[id as usize] = Some(followed);
                id
            }
            None => {
                self.views.push(Some(followed));
                ViewId::try_from(self.views.len() - 1).unwrap_or(ViewId::MAX)
            }
        };
        match view {
            View::Channel(channel) => {
                self.channels.insert(channel.clone(), id);
            }
            View::Pattern(pattern) => *self.patterns.place(pattern.levels()) = Some(id),
        }
        id
    }

    /// Lets a view go that has no members any more.
    pub(crate) fn release(&mut self, id: ViewId) {
        let Some(followed) = self.views.get_mut(id as usize).and_then(Option::take) else { return };
        match &followed.view {
            View::Channel(channel) => {
                self.channels.remove(channel);
            }
            View::Pattern(pattern) => self.forget(pattern),
        }
        self.free.push(id);
    }

    fn forget(&mut self, pattern: &Pattern) {
        let levels: Vec<&str> = pattern.levels().collect();
        self.patterns.remove(&levels);
    }

    pub(crate) fn get(&self, id: ViewId) -> Option<&Followed> {
        self.views.get(id as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: ViewId) -> Option<&mut Followed> {
        self.views.get_mut(id as usize)?.as_mut()
    }

    /// All views.
    pub(crate) fn followed(&self) -> impl Iterator<Item = &Followed> {
        self.views.iter().flatten()
    }

    /// Forgets which channels have ended.
    pub(crate) fn forget_ends(&mut self) {
        for followed in self.views.iter_mut().flatten() {
            followed.known_to = None;
            followed.ended = None;
        }
    }

    /// Adds the views that show a channel to `out`.
    pub(crate) fn lookup(&self, channel: &Channel, out: &mut Vec<ViewId>) {
        out.extend(self.channels.get(channel).copied());
        if !self.patterns.is_empty() {
            self.patterns.lookup(channel.as_str(), out);
        }
    }

    /// How many views are followed.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.views.iter().flatten().count()
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.any.is_none() && self.literal.is_empty()
    }

    fn find<'a>(&self, mut levels: impl Iterator<Item = &'a str>) -> Option<&Option<ViewId>> {
        match levels.next() {
            None => Some(&self.here),
            Some("**") => Some(&self.rest),
            Some("*") => self.any.as_ref()?.find(levels),
            Some(level) => self.literal.get(level)?.find(levels),
        }
    }

    fn place<'a>(&mut self, mut levels: impl Iterator<Item = &'a str>) -> &mut Option<ViewId> {
        match levels.next() {
            None => &mut self.here,
            Some("**") => &mut self.rest,
            Some("*") => self.any.get_or_insert_default().place(levels),
            Some(level) => self.literal.entry(level.into()).or_default().place(levels),
        }
    }

    fn remove(&mut self, levels: &[&str]) {
        match levels {
            [] => self.here = None,
            ["**"] => self.rest = None,
            ["*", behind @ ..] => {
                if let Some(any) = &mut self.any {
                    any.remove(behind);
                    self.any.take_if(|any| any.is_empty());
                }
            }
            [level, behind @ ..] => {
                if let Some(node) = self.literal.get_mut(*level) {
                    node.remove(behind);
                    if node.is_empty() {
                        self.literal.remove(*level);
                    }
                }
            }
        }
    }

    /// A level that begins with `$` is only met by name. Such a level is always the first, so that `**` is asked for
    /// it only once.
    fn lookup(&self, rest: &str, out: &mut Vec<ViewId>) {
        let (level, behind) = match rest.split_once('/') {
            Some((level, behind)) => (level, Some(behind)),
            None => (rest, None),
        };
        if let Some(node) = self.literal.get(level) {
            node.step(behind, out);
        }
        if level.starts_with('$') {
            return;
        }
        out.extend(self.rest);
        if let Some(any) = &self.any {
            any.step(behind, out);
        }
    }

    fn step(&self, behind: Option<&str>, out: &mut Vec<ViewId>) {
        match behind {
            None => out.extend(self.here),
            Some(rest) => self.lookup(rest, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn view(text: &str) -> View {
        text.parse::<Pattern>().unwrap().into()
    }

    proptest! {
        #[test]
        fn finds_exactly_the_views_that_show_a_channel(
            patterns in prop::collection::btree_set("(a|b|\\*|c)(/(a|b|\\*)){0,2}(/\\*\\*)?|\\*\\*|\\$all|\\$user/(a|\\*)", 0..12),
            released in prop::collection::vec(any::<bool>(), 12),
            name in "(a|b|c)(/(a|b|c)){0,3}|\\$all|\\$user/(a|b)",
        ) {
            let channel = Channel::stored(&name).unwrap();
            let mut index = Index::default();
            let ids: Vec<_> = patterns.iter().map(|p| (view(p), index.follow(&view(p), 0))).collect();
            for (view, id) in &ids {
                prop_assert_eq!(index.follow(view, 0), *id);
            }
            let mut expected = BTreeSet::new();
            for ((view, id), released) in ids.iter().zip(released) {
                if released {
                    index.release(*id);
                } else if view.shows(&channel) {
                    expected.insert(*id);
                }
            }
            let mut found = Vec::new();
            index.lookup(&channel, &mut found);
            prop_assert_eq!(found.len(), expected.len());
            prop_assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }

    #[test]
    fn the_first_entry_from_an_index_on_is_found() {
        for length in [0, 1, 2, 3, 4, 7, 8, 100] {
            let recent: VecDeque<u64> = (0..length).map(|n| n * 2).collect();
            let followed = Followed {
                view: view("a"),
                members: Vec::new(),
                recent: recent.clone(),
                complete_from: 0,
                ended: None,
                known_to: None,
            };
            for index in 0..length * 2 + 2 {
                let expected = recent.partition_point(|entry| *entry < index);
                assert_eq!(followed.first_from(index), expected, "{index} of {length}");
            }
        }
    }

    #[test]
    fn a_released_pattern_leaves_nothing_behind() {
        let mut index = Index::default();
        for text in ["a/*/c/**", "a/*/c", "**", "*", "x"] {
            let id = index.follow(&view(text), 0);
            index.release(id);
        }
        assert!(index.patterns.is_empty());
        assert!(index.channels.is_empty());
        assert_eq!(index.len(), 0);
    }
}
