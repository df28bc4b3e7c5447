//! Subscribers whose results are added up together.

use hdrhistogram::Histogram;
use memchr::memmem::Finder;

use super::message::{Connect, GroupReport, Report, Wire};
use super::reader::Reader;
use super::since;
use crate::clients::histogram;
use crate::clock;
use crate::payload::MARK;
use crate::scan::Violations;

#[derive(Debug)]
pub(super) struct Group {
    plan: Option<Connect>,
    pub(super) mark: Finder<'static>,
    /// Which wire the next subscriber belongs to, and its place in that.
    next: (usize, usize),
    connected: u64,
    opened: u64,
    said: bool,
    began: u64,
    opening: Histogram<u64>,

    pub(super) counted: u64,
    pub(super) bytes: u64,
    pub(super) closed: u64,
    pub(super) checking: u64,
    latencies: Histogram<u64>,
    /// When each event was due, and how late it came, if that is wanted.
    timeline: Option<Vec<(u64, u64)>>,
    pub(super) violations: Violations,
    /// Why connecting failed, till it is reported.
    pub(super) failed: Option<String>,
}

/// A subscriber's place: which wire, and whether it reads every event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) wire: u32,
    pub(super) checks: bool,
}

impl Default for Group {
    fn default() -> Group {
        Group {
            plan: None,
            mark: Finder::new(MARK),
            next: (0, 0),
            connected: 0,
            opened: 0,
            said: true,
            began: 0,
            opening: histogram(),
            counted: 0,
            bytes: 0,
            closed: 0,
            checking: 0,
            latencies: histogram(),
            timeline: None,
            violations: Violations::default(),
            failed: None,
        }
    }
}

impl Group {
    /// Begins to connect; subscribers that there are already stay.
    pub(super) fn connect(&mut self, plan: Connect) {
        self.mark = Finder::new(&plan.mark).into_owned();
        self.plan = Some(plan);
        self.next = (0, 0);
        (self.connected, self.opened, self.said) = (0, 0, false);
        self.began = clock::now();
        self.opening.reset();
    }

    pub(super) fn plan(&self) -> &Connect {
        match &self.plan {
            Some(plan) => plan,
            None => unreachable!("a group is made by an order to connect"),
        }
    }

    pub(super) fn wire(&self, reader: &Reader) -> &Wire {
        &self.plan().wires[reader.wire as usize]
    }

    /// The next subscriber to connect, if one may be.
    pub(super) fn next_place(&mut self) -> Option<Place> {
        let plan = self.plan.as_ref()?;
        if self.connected - self.opened >= plan.in_flight as u64 {
            return None;
        }
        while self.next.1 >= plan.wires.get(self.next.0)?.count {
            self.next = (self.next.0 + 1, 0);
        }
        // In the middle of each so many, as a server may serve whoever came first first.
        let all: usize = plan.wires.iter().map(|wire| wire.count).sum();
        // Of a few, one at least.
        let every = plan.check_every.min(all) as u64;
        let checks = plan.mark == MARK && every > 0 && self.connected % every == every / 2;
        let place = Place { wire: self.next.0 as u32, checks };
        self.next.1 += 1;
        self.connected += 1;
        self.checking += u64::from(checks);
        Some(place)
    }

    /// A subscriber has its first bytes.
    pub(super) fn opened(&mut self, began: u64) {
        self.opened += 1;
        let _ = self.opening.record(since(began));
    }

    /// The report that all are connected, once.
    pub(super) fn connected(&mut self) -> Option<Report> {
        let plan = self.plan.as_ref()?;
        let all: usize = plan.wires.iter().map(|wire| wire.count).sum();
        if self.said || self.opened < all as u64 {
            return None;
        }
        self.said = true;
        let latencies = recorded(&self.opening);
        Some(Report::Connected { count: self.opened, micros: since(self.began), latencies })
    }

    /// Connects no more.
    pub(super) fn give_up(&mut self) {
        self.said = true;
        self.next.0 = usize::MAX;
    }

    pub(super) fn size(&self) -> u64 {
        self.connected
    }

    pub(super) fn begin(&mut self, timeline: bool) {
        (self.counted, self.bytes, self.closed) = (0, 0, 0);
        self.latencies.reset();
        self.timeline = timeline.then(Vec::new);
        self.violations = Violations::default();
    }

    /// An event that was due at this moment has come.
    #[inline]
    pub(super) fn came(&mut self, due: u64, now: u64) {
        let late = now.saturating_sub(due);
        let _ = self.latencies.record(late);
        if let Some(timeline) = &mut self.timeline {
            timeline.push((due, late));
        }
    }

    /// The latencies of events that were due from a moment until before another.
    fn span(&self, (from, to): (u64, u64)) -> Histogram<u64> {
        let mut latencies = histogram();
        for (_, late) in self.timeline.iter().flatten().filter(|(due, _)| (from..to).contains(due)) {
            let _ = latencies.record(*late);
        }
        latencies
    }

    pub(super) fn report(&self, spans: &[(u64, u64)]) -> GroupReport {
        GroupReport {
            subscribers: self.connected,
            checking: self.checking,
            counted: self.counted,
            bytes: self.bytes,
            latencies: recorded(&self.latencies),
            spans: spans.iter().map(|span| recorded(&self.span(*span))).collect(),
            violations: self.violations.clone(),
            closed: self.closed,
            ..GroupReport::default()
        }
    }
}

/// Values and how often each was.
fn recorded(histogram: &Histogram<u64>) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
}

#[cfg(test)]
mod tests {
    use super::Group;

    #[test]
    fn a_span_has_what_was_due_in_it_whenever_it_came() {
        let mut group = Group::default();
        group.begin(true);
        // Due before, but late; at its begin; in it; at its end, though it came before the span was asked for.
        for (due, now) in [(99, 150), (100, 101), (199, 999), (200, 201)] {
            group.came(due, now);
        }
        let report = group.report(&[(100, 200), (0, 100), (300, 400)]);
        assert_eq!(report.spans, [vec![(1, 1), (800, 1)], vec![(51, 1)], vec![]]);
        assert_eq!(report.latencies.iter().map(|(_, count)| count).sum::<u64>(), 4);
        group.begin(false);
        group.came(150, 160);
        assert_eq!(group.report(&[(100, 200)]).spans, [vec![]]);
    }
}
