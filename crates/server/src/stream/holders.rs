//! Which stream has a durable subscription: one at a time, the newest.
//!
//! What is kept here is of this node, like the streams themselves. Other nodes are told of each that is given
//! ([`Holders::yields`]), and who doesn't know what there is, of all ([`Holders::all`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidings_hub::durable::Turn;
use tidings_wire::{ClientId, UserId};

/// No place on a worker yet.
const NOWHERE: u64 = u64::MAX;

/// Who has what.
#[derive(Debug, Default)]
pub(crate) struct Holders(Mutex<HashMap<(UserId, ClientId), Arc<Held>>>);

/// A stream that has a subscription, as its worker finds it.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) worker: usize,
    turn: Turn,
    place: AtomicU64,
    replaced: AtomicBool,
}

impl Held {
    /// Where its worker has it. An order to end it may come before it is there.
    pub(crate) fn place(&self) -> Option<u64> {
        Some(self.place.load(Ordering::Acquire)).filter(|place| *place != NOWHERE)
    }
}

/// What a stream has as long as it lives.
#[derive(Debug)]
pub(crate) struct Holding {
    held: Arc<Held>,
    holders: Arc<Holders>,
    name: (UserId, ClientId),
}

impl Holders {
    /// Gives a subscription to a new stream on a worker. The one that had it is to be ended. Where that is the newer one
    /// by its turn, the new one does not get it; of two whose turns are the same, the one that comes later is the newer.
    pub(crate) fn take(
        self: &Arc<Self>,
        user: UserId,
        name: ClientId,
        worker: usize,
        turn: Turn,
    ) -> (Holding, Option<Arc<Held>>) {
        let (place, replaced) = (AtomicU64::new(NOWHERE), AtomicBool::new(false));
        let held = Arc::new(Held { worker, turn, place, replaced });
        let name = (user, name);
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match holders.entry(name.clone()) {
            Entry::Occupied(there) if there.get().turn > turn => {
                held.replaced.store(true, Ordering::Release);
                None
            }
            Entry::Occupied(mut there) => Some(there.insert(held.clone())),
            Entry::Vacant(place) => {
                place.insert(held.clone());
                None
            }
        };
        drop(holders);
        if let Some(before) = &before {
            before.replaced.store(true, Ordering::Release);
        }
        (Holding { held, holders: self.clone(), name }, before)
    }

    /// All that have a stream, and its turn.
    pub(crate) fn all(&self) -> Vec<((UserId, ClientId), Turn)> {
        let holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        holders.iter().map(|(name, held)| (name.clone(), held.turn)).collect()
    }

    /// Another node gave a subscription to a stream of its own. The newer one stays, of two with one turn that of the
    /// node that is `before` the other.
    pub(crate) fn yields(&self, user: UserId, name: ClientId, turn: Turn, before: bool) -> Yields {
        let mut holders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Entry::Occupied(mine) = holders.entry((user, name)) else { return Yields::Nothing };
        if mine.get().turn > turn || (mine.get().turn == turn && !before) {
            return Yields::Stays(mine.get().turn);
        }
        let mine = mine.remove();
        mine.replaced.store(true, Ordering::Release);
        Yields::Ends(mine)
    }
}

/// What becomes of a subscription's stream here when another node has one.
#[derive(Debug)]
pub(crate) enum Yields {
    /// There is none.
    Nothing,
    /// It is to be ended.
    Ends(Arc<Held>),
    /// It is the newer one, and the other node is to be told.
    Stays(Turn),
}

impl Holding {
    /// It is on its worker now.
    pub(crate) fn placed(&self, place: u64) {
        self.held.place.store(place, Ordering::Release);
    }

    /// Whose subscription it is, and which.
    pub(crate) fn name(&self) -> &(UserId, ClientId) {
        &self.name
    }

    /// Whether another stream has it by now.
    pub(crate) fn is_replaced(&self) -> bool {
        self.held.replaced.load(Ordering::Acquire)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut holders = self.holders.0.lock().unwrap_or_else(PoisonError::into_inner);
        if holders.get(&self.name).is_some_and(|held| Arc::ptr_eq(held, &self.held)) {
            holders.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_has_it_and_the_last_one_leaves_nothing() {
        let holders = Arc::<Holders>::default();
        let take = |user: &str| holders.take(user.parse().unwrap(), "phone".parse().unwrap(), 0, Turn(5));
        let count = || holders.0.lock().unwrap().len();
        let (first, before) = take("ada");
        assert!(before.is_none() && !first.is_replaced());
        let (_other, before) = take("bob");
        assert!(before.is_none());
        first.placed(7);
        let (second, before) = take("ada");
        assert_eq!(before.unwrap().place(), Some(7));
        assert!(first.is_replaced() && !second.is_replaced());
        drop(first);
        assert_eq!(count(), 2, "it is the second one's");
        let (third, before) = take("ada");
        assert_eq!(before.unwrap().place(), None, "not there yet");
        drop(second);
        drop(third);
        assert_eq!(count(), 1);
    }

    #[test]
    fn who_comes_late_with_an_older_turn_does_not_get_it() {
        let holders = Arc::<Holders>::default();
        let take = |turn| holders.take("ada".parse().unwrap(), "phone".parse().unwrap(), 0, Turn(turn));
        let (newer, _) = take(6);
        let (older, before) = take(5);
        assert!(before.is_none() && older.is_replaced() && !newer.is_replaced());
        drop(older);
        let (newest, before) = take(7);
        assert!(before.is_some() && newer.is_replaced() && !newest.is_replaced());
    }

    #[test]
    fn of_two_nodes_the_newer_one_has_it() {
        let holders = Arc::<Holders>::default();
        let name = || ("ada".parse().unwrap(), "phone".parse().unwrap());
        let yields = |turn, before| holders.yields(name().0, name().1, Turn(turn), before);
        assert!(matches!(yields(9, true), Yields::Nothing));
        let (mine, _) = holders.take(name().0, name().1, 0, Turn(5));
        assert!(matches!(yields(4, true), Yields::Stays(Turn(5))));
        assert!(matches!(yields(5, false), Yields::Stays(_)));
        assert!(!mine.is_replaced());
        assert!(matches!(yields(5, true), Yields::Ends(_)));
        assert!(mine.is_replaced());
        assert!(matches!(yields(6, true), Yields::Nothing));
    }
}
