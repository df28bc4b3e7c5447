//! What a measurement used, and what that says about its figures.

use hdrhistogram::Histogram;
use std::time::Duration;

use crate::clients::Clients;
use crate::error::BenchError;
use crate::results::Run;
use crate::server::Server;
use crate::{clock, process};

/// Of a core. What uses more may have been what held everything up.
const BUSY: f64 = 0.9;
/// Microseconds that an event may be sent late: about what the system's timers are off.
const LATE: u64 = 1000;

/// From a moment on.
pub(super) struct Watched {
    began: u64,
    server: Duration,
    /// Of the client processes.
    clients: f64,
    /// Of this process, which publishes.
    own: Duration,
}

/// What was used between two moments.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    /// Seconds.
    pub(super) time: f64,
    /// Of CPU, by the server.
    pub(super) cpu: f64,
    /// The share of a core that the clients used, and this process.
    pub(super) clients: f64,
    /// How late, in microseconds, the latest hundredth of the events was sent at least.
    pub(super) late: u64,
}

impl Watched {
    pub(super) fn new(server: &Server, clients: &mut Clients) -> Result<Watched, BenchError> {
        // Says how much they have used so far.
        clients.collect(&[])?;
        Ok(Watched { clients: clients.cpu(), ..Watched::alone(server) })
    }

    /// Where there are no client processes.
    pub(super) fn alone(server: &Server) -> Watched {
        Watched { server: server.cpu(), clients: 0.0, own: process::own_cpu(), began: clock::now() }
    }

    pub(super) fn until_now(&self, server: &Server) -> Used {
        let time = clock::now().saturating_sub(self.began) as f64 / 1e6;
        let own = process::own_cpu().saturating_sub(self.own).as_secs_f64();
        Used { time, cpu: server.cpu_since(self.server), clients: own / time, late: 0 }
    }
}

impl Used {
    /// Adds what client processes have used, as of their last collection.
    pub(super) fn with(self, clients: &Clients, since: &Watched) -> Used {
        Used { clients: self.clients + (clients.cpu() - since.clients).max(0.0) / self.time, ..self }
    }

    /// Adds how late events were sent, in microseconds.
    pub(super) fn sent(self, late: &Histogram<u64>) -> Used {
        Used { late: late.value_at_quantile(0.99), ..self }
    }

    /// Of two measurements that make one run: what is worse.
    pub(super) fn or(self, other: Used) -> Used {
        Used { clients: self.clients.max(other.clients), late: self.late.max(other.late), ..self }
    }

    /// Says of what the figures make no claim.
    pub(super) fn note(&self, run: &mut Run) {
        if self.clients > BUSY {
            run.notes.push(format!(
                "the clients and the publisher used {:.0} % of a core: they may have been what held it up, and the server can do more",
                self.clients * 100.0
            ));
        }
        if self.late > LATE {
            run.notes.push(format!(
                "one event in a hundred was sent {:.1} ms or more after it was due: latencies include that, and the server may not be to blame",
                self.late as f64 / 1000.0
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Used;
    use crate::results::Run;
    use crate::target::Transport;

    #[test]
    fn what_held_a_measurement_up_is_noted() {
        let notes = |used: Used| {
            let mut run = Run {
                scenario: String::new(),
                title: String::new(),
                target: String::new(),
                transport: Transport::Sse,
                figures: Vec::new(),
                series: Vec::new(),
                violations: Vec::new(),
                notes: Vec::new(),
                failed: None,
            };
            used.note(&mut run);
            run.notes
        };
        let calm = Used { time: 1.0, cpu: 1.0, clients: 0.9, late: 1000 };
        assert!(notes(calm).is_empty());
        let busy = Used { clients: 0.97, ..calm };
        assert!(notes(busy)[0].contains("used 97 % of a core"));
        let late = Used { late: 2300, ..calm };
        assert!(notes(late)[0].contains("sent 2.3 ms or more after it was due"));
        assert_eq!(notes(calm.or(busy).or(late)).len(), 2);
    }
}
