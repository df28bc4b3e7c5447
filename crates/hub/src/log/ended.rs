//! Streams that end: what comes too late.

use std::collections::HashSet;

use tidings_wire::Channel;

use super::NewRecord;

/// The first channel of a batch that has ended: before it, as `is_ended` knows, or within it. Without one the batch
/// may be stored.
pub fn too_late(batch: &[NewRecord], is_ended: impl Fn(&Channel) -> bool) -> Option<&Channel> {
    let mut ended: HashSet<&Channel> = HashSet::new();
    for NewRecord { event, .. } in batch {
        let channels = event.to.channels();
        if let Some(late) = channels.iter().find(|channel| ended.contains(channel) || is_ended(channel)) {
            return Some(late);
        }
        // An ephemeral one ends nothing: who comes later would not know.
        if event.end && event.store {
            ended.extend(channels);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidings_wire::Event;

    use super::*;
    use crate::log::suite::event;

    #[test]
    fn nothing_comes_after_an_end() {
        let record = |event: Event| NewRecord { time: crate::Timestamp(1), event: Arc::new(event) };
        let plain = |targets: &[&str]| record(event(targets, "x"));
        let end = |store| record(Event { end: true, store, ..event(&["a", "b"], "x") });
        let late = |batch: &[NewRecord]| {
            too_late(batch, |channel| channel.as_str() == "old").map(Channel::to_string)
        };
        assert_eq!(late(&[plain(&["a"]), plain(&["a", "b"])]), None);
        assert_eq!(late(&[plain(&["a"]), plain(&["c", "old"])]), Some("old".to_owned()));
        assert_eq!(late(&[plain(&["a"]), end(true), plain(&["c"])]), None);
        assert_eq!(late(&[end(true), plain(&["c", "b"])]), Some("b".to_owned()));
        assert_eq!(late(&[end(true), end(true)]), Some("a".to_owned()));
        assert_eq!(late(&[end(false), plain(&["a"])]), None, "it is not kept");
    }
}
