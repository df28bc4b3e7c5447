//! What a client reads: whether it is what it should have got.

use tidings_wire::{Channel, Message, Position, Sequence};

use super::connection::{Bounds, Written};
use super::plain::{Client, kept_places};
use super::schedule::World;
use crate::View;
use crate::log::Log;

impl World {
    pub(super) fn read(&mut self, at: usize, some: u64) {
        let Some(connection) = &mut self.clients[at].connection else { return };
        for written in connection.read(some) {
            self.got(at, written);
        }
        let Some(connection) = self.clients[at].connection.as_ref().filter(|c| c.is_done()) else { return };
        let (shard, id) = (connection.shard, connection.id);
        if connection.over {
            self.is_over(at);
        }
        self.drop_connection(shard, id);
    }

    /// A stream has ended because its channels have: each one's newest event up to there is an end, and all was sent.
    pub(super) fn is_over(&mut self, at: usize) {
        self.saw("an end");
        let client = &self.clients[at];
        let name = client.name;
        let connection = client.connection.as_ref().unwrap();
        assert_eq!(connection.said_end, connection.tells_end, "{name}: was told the end if it wanted to be");
        let last = self.key.open(client.last_id.as_deref().expect("it has an id")).unwrap().sequence;
        let channels = client.exact().expect("only channels end");
        if !connection.said_end {
            assert!(channels.iter().all(|channel| self.ended_once.contains(channel)), "{name}: has ended");
            self.saw("an end with nothing to say it");
            return;
        }
        for channel in channels {
            let newest = self.all.newest_in(&channel, last);
            let ends = newest.is_some_and(|newest| newest.event.end);
            assert!(ends, "{name}: {channel} has not ended at {last:?}");
        }
        if client.changed {
            self.saw("an end after a change");
        }
        self.nothing_is_lost(at, last);
    }

    fn got(&mut self, at: usize, written: Written) {
        let Written { message, views, .. } = written;
        let client = &mut self.clients[at];
        let name = client.name;
        let connection = client.connection.as_mut().expect("it is connected");
        assert!(!connection.said_end, "{name}: nothing comes after the end");
        client.last_id = Some(message.id.clone());
        if !connection.opened {
            assert_eq!(message.event, "tidings:open", "{name}: open comes first");
            connection.opened = true;
            let position = self.key.open(&message.id).unwrap();
            if position != Position::UNKNOWN {
                connection.opened_at = position.sequence;
                begins_at(client, position.sequence);
            }
            return;
        }
        match message.event.strip_prefix("tidings:") {
            Some(control) => self.got_control(at, control, &message, &views),
            None => self.got_event(at, &message, &views),
        }
    }

    fn got_control(&mut self, at: usize, control: &str, message: &Message, views: &[View]) {
        let position = self.key.open(&message.id).expect("ids are cursors");
        let name = self.clients[at].name;
        match control {
            "gap" => self.got_gap(at, message, views),
            "skipped" => self.got_skipped(at, message, position.sequence),
            "end" => self.clients[at].connection.as_mut().unwrap().said_end = true,
            "position" | "ping" => {}
            "drain" | "kicked" => self.saw("a farewell"),
            other => panic!("{name}: nobody says {other}"),
        }
        let newest = self.clients[at].connection.as_ref().unwrap().newest;
        assert!(
            position.sequence >= newest || position == Position::UNKNOWN,
            "{name}: ids go back at {control}"
        );
    }

    fn got_gap(&mut self, at: usize, message: &Message, views: &[View]) {
        let lost = self.log.floor(views);
        let client = &mut self.clients[at];
        let name = client.name;
        let connection = client.connection.as_mut().unwrap();
        let expected = std::mem::take(&mut connection.expects_gap);
        let to = message.data.split("\"to\":\"").nth(1).map(|rest| &rest[..22]);
        let to = self.key.open(to.expect("a gap says where it ends")).unwrap().sequence;
        assert_eq!(self.key.open(&message.id).unwrap().sequence, to, "{name}: a gap's id is its end");
        if message.data.contains("\"unknown\"") {
            begins_at(client, to);
            self.saw("a gap: unknown");
            return;
        }
        let limit = message.data.contains("\"limit\"");
        for promise in client.promises.iter_mut().filter(|promise| views.contains(&promise.view)) {
            promise.removed = promise.removed.max(to).max(lost);
            if limit {
                promise.skipped = promise.skipped.max(to);
            }
        }
        self.saw(if limit { "a gap: limit" } else { "a gap: expired" });
        if !expected {
            self.saw("a gap in mid-stream");
        }
    }

    /// The numbers told are at most as many as were passed over.
    fn got_skipped(&mut self, at: usize, message: &Message, through: Sequence) {
        self.saw("a number of events passed over");
        let count =
            message.data.split("\"count\":").nth(1).and_then(|rest| rest.trim_end_matches('}').parse().ok());
        let count: u64 = count.expect("a number is told");
        let client = &mut self.clients[at];
        let connection = client.connection.as_mut().unwrap();
        assert!(count > 0, "{}: none is not told", client.name);
        connection.told_skipped += count;
        let client = &self.clients[at];
        let connection = client.connection.as_ref().unwrap();
        let kept = self
            .all
            .by_sequence
            .range(connection.opened_at.next()..=through.max(connection.opened_at.next()));
        let kept = kept.map(|(_, serial)| serial).filter(|serial| !client.got.contains(serial));
        let unkept = self.all.unkept.iter().filter(|(at, _)| *at >= connection.opened_at);
        let unkept = unkept.map(|(_, serial)| serial).filter(|serial| !connection.unkept.contains(serial));
        let passed = |serial: &&u64| {
            let event = &self.all.known[*serial].event;
            event.key.is_some() && client.sees(event, &connection.ever)
        };
        let most = kept.chain(unkept).filter(passed).count() as u64;
        assert!(
            connection.told_skipped <= most,
            "{}: {} are told of {most} passed over",
            client.name,
            connection.told_skipped
        );
    }

    fn got_event(&mut self, at: usize, message: &Message, views: &[View]) {
        let client = &self.clients[at];
        let connection = client.connection.as_ref().unwrap();
        let name = client.name;
        assert!(!connection.expects_gap, "{name}: a gap comes before the first event");
        let data = if client.envelope {
            let (_, rest) = message.data.split_once("\"data\":\"").expect("an envelope has data");
            let channel = message.data.split("\"channel\":\"").nth(1).and_then(|rest| rest.split('"').next());
            let channel = Channel::stored(channel.expect("an envelope has a channel")).unwrap();
            assert!(views.iter().any(|view| view.shows(&channel)), "{name}: named {channel}");
            rest
        } else {
            &message.data
        };
        let serial: u64 =
            data.split(' ').next().and_then(|n| n.parse().ok()).expect("data begins with a number");
        let known = &self.all.known[&serial];
        assert!(client.sees(&known.event, views), "{name}: {serial} is none of its");
        let position = self.key.open(&message.id).expect("ids are cursors").sequence;
        let past_the_filter = client.filter.as_ref().is_some_and(|filter| !filter.matches(&known.event.tags));
        if let Some(sequence) = known.sequence {
            assert_eq!(position, sequence, "{name}: the id is the event's");
            assert!(position > connection.newest, "{name}: out of order");
            assert!(!client.got.contains(&serial), "{name}: {serial} came twice");
            self.is_within_bounds(at, serial, views);
        } else {
            assert!(position >= connection.newest, "{name}: out of order");
        }
        let (kept, keyed) = (known.sequence.is_some(), known.event.key.is_some());
        let client = &mut self.clients[at];
        let connection = client.connection.as_mut().unwrap();
        connection.newest = position;
        if kept {
            client.got.insert(serial);
        } else if keyed {
            connection.unkept.push(serial);
        }
        self.saw(if kept { "an event" } else { "an event that isn't kept" });
        if past_the_filter {
            self.saw("an event that comes past a filter");
        }
    }

    /// Who asked for the newest only gets nothing else of what was there.
    fn is_within_bounds(&self, at: usize, serial: u64, views: &[View]) {
        let client = &self.clients[at];
        let name = client.name;
        let known = &self.all.known[&serial];
        let sequence = known.sequence.unwrap();
        match &client.connection.as_ref().unwrap().bounds {
            Bounds::Nothing => {}
            Bounds::History { head, after } => {
                let within = |channel: &Channel| after.get(channel).is_some_and(|after| sequence > *after);
                let asked = sequence > *head || known.event.to.channels().iter().any(within);
                assert!(asked, "{name}: {serial} is older than what it asked for");
            }
            Bounds::Latest { head } => {
                let newest = known.event.key.is_some()
                    && !client.is_surely_hidden(&self.all, &self.log, serial, *head, views);
                assert!(sequence > *head || newest, "{name}: {serial} is not the newest of a key");
            }
        }
    }

    pub(super) fn nothing_is_lost(&mut self, at: usize, through: Sequence) {
        let client = &self.clients[at];
        let mut passed = 0;
        let lost = client.lost(&self.all, &self.log, through, self.now, &mut passed);
        if let Some(serial) = lost {
            let known = &self.all.known[&serial];
            let promises: Vec<_> = client
                .promises
                .iter()
                .map(|p| {
                    format!(
                        "{} since {:?} removed {:?} skipped {:?}",
                        p.view.as_str(),
                        p.since,
                        p.removed,
                        p.skipped
                    )
                })
                .collect();
            let there = kept_places(&self.log, &client.views());
            panic!(
                "{}: {serial} at {:?} was lost silently (kept: {}, wanted: {}): {:?} {promises:?}",
                client.name,
                known.sequence,
                known.sequence.is_some_and(|at| there.contains(&at)),
                client.wanted.serials.contains_key(&serial),
                known.event,
            );
        }
        if passed > 0 {
            self.saw("an event of a key that was passed over");
        }
    }
}

/// What a stream says where it begins is a promise, if it has none.
fn begins_at(client: &mut Client, place: Sequence) {
    for promise in &mut client.promises {
        promise.since.get_or_insert(place);
    }
}
