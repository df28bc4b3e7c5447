//! What every log is tested with: each sentence of the contract as a case, and random schedules against a plain model.
//!
//! Only built for tests (`cfg(test)` here, the feature `suite` elsewhere). A crate with a log writes
//! `tidings_hub::log_suite!(a factory that implements Logs)`.

mod beside;
pub mod cases;
mod model;
pub mod random;
mod states;
mod terms;

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use tidings_wire::{Channel, Data, Event, Position, Sequence, Targets};

use super::{Log, NewRecord, Order, Page, ReadLimit, Retention, Selection};
use crate::{Timestamp, View};

/// Makes the logs of one case.
pub trait Logs {
    /// A new log without a record.
    fn create(&mut self, retention: Retention) -> Arc<dyn Log>;

    /// The same log as after an orderly end of its process. A log that doesn't outlive its process is returned as it
    /// is, and stays open.
    fn reopen(&mut self, log: Arc<dyn Log>) -> Arc<dyn Log>;
}

/// A test for each case of the suite. The argument is an expression that makes a [`Logs`].
#[macro_export]
macro_rules! log_suite {
    ($logs:expr) => {
        $crate::log_suite!(@cases $logs;
            positions_are_contiguous_and_batches_whole
            batches_of_one_caller_keep_their_order
            many_callers_share_one_order
            what_completed_is_seen
            every_field_comes_back
            an_ephemeral_event_rides_between_records
            an_empty_batch_is_no_record
            reading_pages_forward_and_backward
            a_page_has_a_record_whatever_its_size
            a_record_with_many_targets_comes_once
            selections_have_places_of_their_own
            what_is_expired_is_left_out
            the_newest_of_each_channel
            a_cap_by_count_holds_at_once
            a_cap_by_bytes_holds_at_once
            caps_over_all_channels
            age_goes_with_retain
            the_first_rule_that_matches_counts
            a_floor_is_that_of_the_view
            what_expired_before_it_went_is_not_missed
            a_purge_leaves_other_targets
            a_deleted_record_is_gone_from_all_channels
            positions_are_located
            channels_are_listed_by_name
            a_tail_has_the_past_and_what_comes
            a_tail_begins_behind_what_was_removed
            tails_that_join_at_any_time_have_no_hole
            tails_learn_of_removals
            a_closed_log_ends_its_tails_and_refuses
            a_reopened_log_is_the_same
            an_ended_channel_takes_nothing_more
            nothing_comes_after_an_end_in_a_batch
            an_end_sent_again_is_answered_as_before
            a_refused_batch_keeps_no_other_out
            a_channel_without_its_end_begins_anew
            the_newest_with_a_key_are_found
            a_key_is_not_found_where_its_record_is_gone
            only_the_newest_state_is_kept
            a_state_goes_only_where_states_are_kept
            a_state_that_somebody_would_miss_stays
            states_of_other_targets_are_looked_at_up_to_a_limit
            a_batch_with_a_key_is_stored_once
            a_key_is_of_one_body
            what_was_not_stored_is_not_remembered
            a_key_is_forgotten_when_its_time_is_over
            many_who_ask_at_once_store_it_once
            notes_are_kept
            notes_are_listed_by_name
            a_note_has_limits
            a_note_is_set_only_in_the_place_of_another
            of_many_who_have_read_the_same_note_one_sets_it
            a_lease_has_one_holder
            a_lease_ends_with_its_time
            nothing_is_stored_under_a_lease_that_was_lost
            a_note_is_set_with_its_batch
        );

        #[test]
        fn random_schedules_do_as_the_model() {
            $crate::log::suite::random::run(&mut || $logs);
        }
    };
    (@cases $logs:expr; $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::log::suite::cases::$case(&mut $logs);
            }
        )*
    };
}

/// Waits for an append or a removal.
pub fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// A channel, the hub's own ones included.
fn channel(name: &str) -> Channel {
    Channel::stored(name).expect("a good name")
}

/// A view of a channel, or of a pattern if there is a wildcard.
fn view(text: &str) -> View {
    text.parse::<tidings_wire::Pattern>().expect("a good pattern").into()
}

fn from(text: &str, after: u64) -> Selection {
    Selection { view: view(text), after: Sequence(after) }
}

pub(crate) fn event(targets: &[&str], data: &str) -> Event {
    let targets = Targets::new(targets.iter().map(|name| channel(name))).expect("good targets");
    Event::new(targets, Data::from(data))
}

fn at(time: u64, event: Event) -> NewRecord {
    NewRecord { time: Timestamp(time), event: Arc::new(event) }
}

/// Appends one event and says its sequence.
fn append(log: &dyn Log, time: u64, event: Event) -> u64 {
    append_all(log, vec![at(time, event)])[0].sequence.0
}

fn append_all(log: &dyn Log, batch: Vec<NewRecord>) -> Vec<Position> {
    wait(log.append(batch)).expect("it is stored")
}

/// No limit.
const ALL: ReadLimit = ReadLimit { through: Sequence(u64::MAX), records: usize::MAX, bytes: usize::MAX };

/// Reads page by page to the end, and checks what holds for every page.
fn read_all(log: &dyn Log, selections: &[Selection], order: Order, limit: ReadLimit, now: u64) -> Page {
    let mut all = Page { records: Vec::new(), through: Sequence::START, floor: Sequence::START };
    let mut rest = limit;
    let mut selections = selections.to_vec();
    let mut looked = None;
    let end = limit.through.min(log.head().sequence);
    loop {
        let page = log.read(&selections, order, rest, Timestamp(now)).expect("it can be read");
        let bytes: usize = page.records.iter().map(|record| record.event.data.as_str().len()).sum();
        assert!(page.records.len() <= limit.records.max(1), "too many records");
        assert!(bytes <= limit.bytes || page.records.len() == 1, "too many bytes");
        assert!(page.records.is_sorted_by(|a, b| match order {
            Order::Oldest => a.position.sequence < b.position.sequence,
            Order::Newest => a.position.sequence > b.position.sequence,
        }));
        all.floor = all.floor.max(page.floor);
        all.records.extend(page.records);
        all.through = page.through;
        match order {
            Order::Oldest => {
                assert!(page.through <= end, "looked past the end");
                if page.through == end {
                    return all;
                }
                assert!(looked.is_none_or(|looked| page.through > looked), "a page that leads nowhere");
                looked = Some(page.through);
                for selection in &mut selections {
                    selection.after = selection.after.max(page.through);
                }
            }
            Order::Newest => {
                if page.through == Sequence::START {
                    return all;
                }
                assert!(page.through <= rest.through, "a page that leads nowhere");
                rest.through = Sequence(page.through.0 - 1);
            }
        }
    }
}

/// The sequences of all that a read finds.
fn found(log: &dyn Log, selections: &[Selection], order: Order) -> Vec<u64> {
    let page = read_all(log, selections, order, ALL, 0);
    page.records.iter().map(|record| record.position.sequence.0).collect()
}
