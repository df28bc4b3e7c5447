//! When events are meant to be sent: an open loop, which waits for nobody.

/// Events at a constant rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// When the first one is due, in microseconds of the shared clock.
    pub(crate) begin: u64,
    /// Events a second, of all channels together.
    pub(crate) rate: f64,
    pub(crate) events: u64,
}

impl Schedule {
    pub(crate) fn new(begin: u64, rate: f64, seconds: f64) -> Schedule {
        Schedule { begin, rate, events: (rate * seconds).round().max(1.0) as u64 }
    }

    /// When an event is due. Counted from the beginning, not from the one before, so that being late once delays no
    /// other and no error adds up.
    pub(crate) fn due(&self, event: u64) -> u64 {
        self.begin + (event as f64 * 1e6 / self.rate).round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn events_are_due_by_their_number_alone() {
        let schedule = Schedule::new(1000, 3.0, 2.0);
        let due: Vec<u64> = (0..schedule.events).map(|event| schedule.due(event)).collect();
        assert_eq!(due, [1000, 334_333, 667_667, 1_001_000, 1_334_333, 1_667_667]);
        assert_eq!(schedule.due(schedule.events), 2_001_000);
    }

    #[test]
    fn a_long_run_does_not_drift() {
        let schedule = Schedule::new(0, 60_000.0, 100.0);
        assert_eq!(schedule.due(schedule.events), 100_000_000);
    }
}
