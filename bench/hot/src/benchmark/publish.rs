//! From an event to the window, once an event: the log, the encoder, HOT 2, and the hub's own part.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tidings_hub::log::{Log, NewRecord};

use super::worker::{NOW, WINDOW, event, hub, log};
use super::{Benchmark, Once};

pub(super) const ALL: &[Benchmark] = &[
    publish("log: append 1", || {
        let log = log();
        Box::new(move |meter| {
            let batch = vec![NewRecord { time: NOW, event: Arc::new(event("orders/1234")) }];
            meter.count(1, || log.append(batch));
        })
    }),
    publish("log: append and announce 1", || {
        let hub = hub();
        Box::new(move |meter| {
            let batch = vec![NewRecord { time: NOW, event: Arc::new(event("orders/1234")) }];
            meter.count(1, || hub.log().append(batch));
        })
    }),
    publish("hub: publish 1", || {
        let hub = hub();
        Box::new(move |meter| {
            let event = event("orders/1234");
            meter.count(1, || ready(hub.publish(event)));
        })
    }),
    publish("hub: publish 64 together", || {
        let hub = hub();
        Box::new(move |meter| {
            let events = vec![event("orders/1234"); 64];
            meter.count(64, || ready(hub.publish_batch_at(events, NOW)));
        })
    }),
];

/// Counts whole windows: what is done once a segment is part of what an event costs.
const fn publish(name: &'static str, prepare: fn() -> Once) -> Benchmark {
    Benchmark { name, warm_up: 2 * WINDOW, rounds: 4 * WINDOW, prepare }
}

/// What a log in memory promises is there at once.
fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("a log in memory lets nobody wait"),
    }
}
