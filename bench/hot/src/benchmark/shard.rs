//! HOT 2 and HOT 3, once an event and worker, and once an event and subscriber.

use std::sync::Arc;

use tidings_hub::{Lens, Opening, Say, Who};
use tidings_wire::Event;

use super::worker::{NOW, WINDOW, Worker, event};
use super::{Benchmark, Once};

const SUBSCRIBERS: usize = 1000;

pub(super) const ALL: &[Benchmark] = &[
    Benchmark {
        name: "window: an event for nobody",
        warm_up: 2 * WINDOW,
        rounds: 2 * WINDOW,
        prepare: nobody,
    },
    deliver("shard: mark, 1,000 of 1 channel", 1, || {
        let mut worker = audience(|_| vec!["a".to_owned()], false);
        Box::new(move |meter| {
            worker.publish("a");
            meter.count(SUBSCRIBERS as u64, || worker.shard.consume(1024));
            worker.write();
        })
    }),
    deliver("shard: write, 1,000 of 1 channel", 1, || {
        let mut worker = audience(|_| vec!["a".to_owned()], false);
        Box::new(move |meter| {
            worker.publish("a");
            worker.shard.consume(1024);
            meter.count(SUBSCRIBERS as u64, || worker.write());
        })
    }),
    deliver("shard: deliver, 10 each of 100 channels", 100, || {
        let all: Vec<String> = (0..100).map(|n| format!("orders/{n}")).collect();
        delivery(audience(|n| vec![format!("orders/{}", n % 100)], false), all, SUBSCRIBERS)
    }),
    deliver("shard: deliver, 1 of 5 channels", 20, || {
        let five = |n| (0..5).map(|m| format!("orders/{}/{m}", n % 20)).collect();
        let all: Vec<String> = (0..20).map(|n| format!("orders/{n}/3")).collect();
        delivery(audience(five, false), all, SUBSCRIBERS)
    }),
    deliver("shard: deliver, 4 of 5 channels", 4, || {
        let five = |_| (0..5).map(|m| format!("orders/{m}")).collect();
        let all: Vec<String> = (0..4).map(|m| format!("orders/{m}")).collect();
        delivery(audience(five, false), all, 4 * SUBSCRIBERS)
    }),
    deliver("shard: deliver, patterns", 1, || {
        let pattern = |n: usize| vec![["orders/*/paid", "orders/**"][n % 2].to_owned()];
        delivery(audience(pattern, false), vec!["orders/7/paid".to_owned()], SUBSCRIBERS)
    }),
    deliver("shard: deliver, a batch of 32", 32, || {
        delivery(audience(|_| vec!["a".to_owned()], false), vec!["a".to_owned(); 32], 32 * SUBSCRIBERS)
    }),
    // As much as "mark" and "write" together: who uses no keys and no filters pays nothing for those who do.
    deliver("shard: deliver, beside 1,000 with keys and filters", 2, beside_choosers),
    deliver("shard: deliver, in envelopes", 1, || {
        let views = |_| vec!["a".to_owned(), "$all".to_owned()];
        delivery(audience(views, true), vec!["a".to_owned()], SUBSCRIBERS)
    }),
    deliver("shard: a heartbeat", 1, heartbeat),
    Benchmark { name: "shard: subscribe to 5 channels", warm_up: 10, rounds: 1000, prepare: subscribe },
    Benchmark { name: "shard: unsubscribe from 5 channels", warm_up: 10, rounds: 1000, prepare: unsubscribe },
];

/// So many events at a time. Warms up until the window and the lists that are as long as it have their size.
const fn deliver(name: &'static str, events: usize, prepare: fn() -> Once) -> Benchmark {
    Benchmark { name, warm_up: 3 * WINDOW / 2 / events, rounds: 50, prepare }
}

/// A worker with subscribers who are up to date.
fn audience(views: impl Fn(usize) -> Vec<String>, envelope: bool) -> Worker {
    let mut worker = Worker::new();
    for n in 0..SUBSCRIBERS {
        let views = views(n);
        let views: Vec<&str> = views.iter().map(String::as_str).collect();
        worker.subscribe(&views, envelope);
    }
    worker.write();
    worker
}

/// Publishes to all, then lets the worker take it in and write it.
fn delivery(mut worker: Worker, to: Vec<String>, deliveries: usize) -> Once {
    Box::new(move |meter| {
        for to in &to {
            worker.publish(to);
        }
        meter.count(deliveries as u64, || {
            worker.shard.consume(1024);
            worker.write();
        });
    })
}

/// Counts what is delivered to who chooses nothing, on a worker on which others do.
fn beside_choosers() -> Once {
    let mut worker = audience(|_| vec!["a".to_owned()], false);
    for _ in 0..SUBSCRIBERS {
        let opening =
            Opening { lens: choosing("priority > 1 || !has(priority)"), ..worker.opening(&["b"], false) };
        worker.shard.subscribe(opening, NOW);
    }
    worker.write();
    Box::new(move |meter| {
        worker.publish_event(Event { key: "k".parse().ok(), ..event("b") });
        worker.shard.consume(1024);
        worker.write();
        worker.publish("a");
        meter.count(SUBSCRIBERS as u64, || {
            worker.shard.consume(1024);
            worker.write();
        });
    })
}

fn choosing(filter: &str) -> Lens {
    let user = "u".parse().ok();
    Lens { who: Who { user, client: None }, filter: filter.parse().ok().map(Arc::new) }
}

fn nobody() -> Once {
    let mut worker = Worker::new();
    worker.subscribe(&["other"], false);
    worker.write();
    Box::new(move |meter| {
        worker.publish("a");
        meter.count(1, || worker.shard.consume(1024));
    })
}

fn heartbeat() -> Once {
    let mut worker = Worker::new();
    let ids: Vec<_> = (0..SUBSCRIBERS).map(|_| worker.subscribe(&["a"], false)).collect();
    worker.write();
    Box::new(move |meter| {
        meter.count(SUBSCRIBERS as u64, || {
            ids.iter().for_each(|id| worker.shard.say(*id, Say::Heartbeat));
            worker.write();
        });
    })
}

fn newcomer() -> Vec<String> {
    ["a", "b", "orders/7", "users/12345", "$all"].map(str::to_owned).into()
}

fn subscribe() -> Once {
    let mut worker = audience(|_| newcomer(), false);
    Box::new(move |meter| {
        let opening = worker.opening(&["a", "b", "orders/7", "users/12345", "$all"], false);
        let id = meter.count(1, || worker.shard.subscribe(opening, NOW));
        worker.write();
        id.into_iter().for_each(|id| worker.shard.unsubscribe(id));
    })
}

fn unsubscribe() -> Once {
    let mut worker = audience(|_| newcomer(), false);
    Box::new(move |meter| {
        let id = worker.subscribe(&["a", "b", "orders/7", "users/12345", "$all"], false);
        worker.write();
        meter.count(1, || worker.shard.unsubscribe(id));
    })
}
