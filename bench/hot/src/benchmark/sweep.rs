//! HOT 4, once a write: a worker's turn over real sockets. What the kernel does isn't counted.

use tidings_server::hot::Sockets;

use super::worker::{NOW, WINDOW, hub, opening, publish};
use super::{Benchmark, Once};

const SUBSCRIBERS: usize = 256;

pub(super) const ALL: &[Benchmark] = &[
    Benchmark { name: "sweep: deliver, 1 event", warm_up: 3 * WINDOW / 2, rounds: 100, prepare: || turns(1) },
    Benchmark {
        name: "sweep: deliver, a batch of 32",
        warm_up: 3 * WINDOW / 2 / 32,
        rounds: 100,
        prepare: || turns(32),
    },
];

fn turns(events: usize) -> Once {
    let hub = hub();
    let openings = (0..SUBSCRIBERS).map(|_| opening(&hub, &["a", "$all"], false));
    let mut sockets =
        Sockets::new(&hub, openings, NOW).unwrap_or_else(|error| panic!("no sockets can be made: {error}"));
    sockets.turn();
    sockets.read();
    Box::new(move |meter| {
        for _ in 0..events {
            publish(&hub, "a");
        }
        meter.count((SUBSCRIBERS * events) as u64, || sockets.turn());
        sockets.read();
    })
}
