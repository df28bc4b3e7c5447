//! The hub as a program uses it: real threads, real time, the log in memory.

use std::sync::Arc;
use std::time::Duration;

use tidings_hub::log::{Caps, MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Delivery, Hub, HubConfig, PublishError, Start, Subscribe, Subscription, Timestamp, View};
use tidings_wire::{
    Channel, Cursor, CursorKey, Data, Epoch, Event, Exclude, GapReason, Pattern, Position, Sequence, Targets,
    UserId,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(20);

fn hub_that_keeps(retention: Retention) -> Hub {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention }));
    Hub::start(log, HubConfig::new(CursorKey::new([1; 16]))).unwrap()
}

fn hub() -> Hub {
    hub_that_keeps(Retention::default())
}

fn channel(name: &str) -> Channel {
    name.parse().unwrap()
}

fn view(text: &str) -> View {
    text.parse::<Pattern>().unwrap().into()
}

fn event(to: &str, data: &str) -> Event {
    Event::new(Targets::from(channel(to)), Data::from(data))
}

async fn publish(hub: &Hub, event: Event) -> Cursor {
    timeout(SOON, hub.publish(event)).await.unwrap().unwrap().id
}

async fn next(subscription: &mut Subscription) -> Delivery {
    timeout(SOON, subscription.next()).await.expect("something comes").unwrap()
}

async fn data(subscription: &mut Subscription) -> String {
    match next(subscription).await {
        Delivery::Event { record, .. } => record.event.data.as_str().to_owned(),
        Delivery::Gap(gap) => format!("gap {}", gap.reason),
        Delivery::End => "end".to_owned(),
    }
}

fn from(views: &[&str], start: Start) -> Subscribe {
    Subscribe { start, ..Subscribe::new(views.iter().map(|text| view(text))) }
}

#[tokio::test]
async fn an_event_reaches_who_follows_it_once() {
    let hub = hub();
    let mut both = hub.subscribe(from(&["a", "b", "*"], Start::Now)).unwrap();
    let mut other = hub.subscribe(from(&["c"], Start::Now)).unwrap();
    let to = Targets::new([channel("a"), channel("b"), channel("x/y")]).unwrap();
    publish(&hub, Event::new(to, Data::from("to three"))).await;
    publish(&hub, event("c", "to the other")).await;
    publish(&hub, event("a", "last")).await;
    assert_eq!(data(&mut both).await, "to three");
    assert_eq!(data(&mut both).await, "to the other");
    assert_eq!(data(&mut both).await, "last");
    assert_eq!(data(&mut other).await, "to the other");
    assert!(other.take(tidings_hub::Timestamp::now()).unwrap().is_none());
    hub.close();
}

#[tokio::test]
async fn what_was_published_before_is_not_for_who_begins_now() {
    let hub = hub();
    for round in 0..200 {
        publish(&hub, event("a", "before")).await;
        let mut subscription = hub.subscribe(from(&["a"], Start::Now)).unwrap();
        publish(&hub, event("a", &round.to_string())).await;
        assert_eq!(data(&mut subscription).await, round.to_string());
    }
    hub.close();
}

#[tokio::test]
async fn a_cursor_resumes_even_before_the_first_event() {
    let hub = hub();
    publish(&hub, event("a", "before")).await;
    let first = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    let opened_at = first.opened_at();
    drop(first);
    let one = publish(&hub, event("a", "1")).await;
    publish(&hub, event("b", "of another")).await;
    publish(&hub, event("a", "2")).await;
    let mut again = hub.subscribe(from(&["a"], Start::Cursor(opened_at.to_string()))).unwrap();
    assert_eq!(data(&mut again).await, "1");
    assert_eq!(data(&mut again).await, "2");
    let mut later = hub.subscribe(from(&["a"], Start::Cursor(one.to_string()))).unwrap();
    assert_eq!(data(&mut later).await, "2");
    hub.close();
}

#[tokio::test]
async fn newcomers_get_the_history_they_ask_for() {
    let hub = hub();
    for n in 1..=5 {
        publish(&hub, event("a", &format!("a{n}"))).await;
        publish(&hub, event("b", &format!("b{n}"))).await;
    }
    let mut two = hub.subscribe(from(&["a", "b", "nothing"], Start::History(2))).unwrap();
    let mut all = hub.subscribe(from(&["a"], Start::Earliest)).unwrap();
    publish(&hub, event("a", "new")).await;
    for expected in ["a4", "b4", "a5", "b5", "new"] {
        assert_eq!(data(&mut two).await, expected);
    }
    for expected in ["a1", "a2", "a3", "a4", "a5", "new"] {
        assert_eq!(data(&mut all).await, expected);
    }
    hub.close();
}

fn nothing_waits(subscription: &mut Subscription) -> bool {
    subscription.take(Timestamp::now()).unwrap().is_none()
}

#[tokio::test]
async fn channels_come_and_go_while_a_subscription_runs() {
    let hub = hub();
    let mut subscription = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    let before = publish(&hub, event("b/1", "before")).await;
    let began = subscription.change([view("b/*"), view("c")], []);
    assert_eq!(began, before, "it begins behind what was there");
    publish(&hub, event("b/1", "b")).await;
    publish(&hub, event("c", "c")).await;
    publish(&hub, event("a", "a")).await;
    for expected in ["b", "c", "a"] {
        assert_eq!(data(&mut subscription).await, expected);
    }
    subscription.change([view("d")], [view("a"), view("b/*"), view("never followed")]);
    for to in ["a", "b/1", "d"] {
        publish(&hub, event(to, to)).await;
    }
    assert_eq!(data(&mut subscription).await, "d");
    // What was missed of a channel while it was away is to be had like any history.
    let again = subscription.change([view("a")], []).to_string();
    assert!(nothing_waits(&mut subscription));
    let mut missed = hub.subscribe(from(&["a"], Start::Cursor(began.to_string()))).unwrap();
    for expected in ["a", "a"] {
        assert_eq!(data(&mut missed).await, expected);
    }
    assert!(nothing_waits(&mut hub.subscribe(from(&["a"], Start::Cursor(again))).unwrap()));
    hub.close();
}

#[tokio::test]
async fn what_is_taken_away_comes_no_more_though_it_waited() {
    let hub = hub();
    let mut subscription = hub.subscribe(from(&["a", "b"], Start::Now)).unwrap();
    let to_both = Targets::new([channel("a"), channel("b")]).unwrap();
    publish(&hub, event("b", "first")).await;
    publish(&hub, event("a", "of a alone")).await;
    publish(&hub, Event::new(to_both, Data::from("of both"))).await;
    publish(&hub, event("b", "last")).await;
    assert_eq!(data(&mut subscription).await, "first");
    subscription.change([], [view("a")]);
    for expected in ["of both", "last"] {
        assert_eq!(data(&mut subscription).await, expected);
    }
    assert!(nothing_waits(&mut subscription));
    hub.close();
}

#[tokio::test]
async fn what_is_added_while_the_log_is_read_begins_behind_that() {
    let hub = hub();
    for n in 0..1000 {
        publish(&hub, event("a", &n.to_string())).await;
        publish(&hub, event("b", "before")).await;
    }
    let mut subscription = hub.subscribe(from(&["a"], Start::History(1000))).unwrap();
    for n in 0..1000 {
        assert_eq!(data(&mut subscription).await, n.to_string());
        if n == 10 {
            subscription.change([view("b")], []);
        }
    }
    publish(&hub, event("b", "after")).await;
    assert_eq!(data(&mut subscription).await, "after");
    hub.close();
}

#[tokio::test]
async fn a_subscription_ends_with_the_last_of_its_channels_that_goes_on() {
    let hub = hub();
    let end = |to: &str| Event { end: true, ..event(to, "over") };
    publish(&hub, end("c")).await;
    let mut subscription = hub.subscribe(from(&["a", "b"], Start::Now)).unwrap();
    publish(&hub, end("a")).await;
    assert_eq!(data(&mut subscription).await, "over");
    subscription.change([view("c")], []);
    assert!(nothing_waits(&mut subscription), "b goes on");
    subscription.change([], [view("b")]);
    assert_eq!(data(&mut subscription).await, "end");
    subscription.change([view("b")], []);
    publish(&hub, event("b", "too late")).await;
    assert_eq!(data(&mut subscription).await, "end", "it stays so");
    hub.close();
}

#[tokio::test]
async fn what_was_passed_over_is_counted() {
    let hub = hub();
    let mut subscription = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    for n in 1..=5 {
        let key = Some("counter".parse().unwrap());
        publish(&hub, Event { key, ..event("a", &n.to_string()) }).await;
    }
    assert_eq!(data(&mut subscription).await, "5");
    assert_eq!(subscription.skipped(), 4);
    hub.close();
}

#[tokio::test]
async fn a_history_counts_what_its_reader_is_shown() {
    let hub = hub();
    for data in ["1", "2"] {
        publish(&hub, event("a", data)).await;
    }
    let exclude = Exclude { user: Some("u".parse().unwrap()), ..Exclude::default() };
    publish(&hub, Event { exclude, ..event("a", "not for u") }).await;
    let over = tidings_hub::Timestamp::now().minus(Duration::from_secs(60));
    let short = (0..100).map(|_| Event { ttl: Some(1), ..event("a", "over") }).collect();
    hub.publish_batch_at(short, over).await.unwrap();
    let history = |count, user: Option<&str>| Subscribe {
        user: user.map(|user| user.parse().unwrap()),
        ..from(&["a"], Start::History(count))
    };
    let mut anybody = hub.subscribe(history(2, None)).unwrap();
    let mut u = hub.subscribe(history(1, Some("u"))).unwrap();
    let mut many = hub.subscribe(history(500, Some("u"))).unwrap();
    publish(&hub, event("a", "new")).await;
    for expected in ["2", "not for u", "new"] {
        assert_eq!(data(&mut anybody).await, expected);
    }
    for expected in ["2", "new"] {
        assert_eq!(data(&mut u).await, expected);
    }
    for expected in ["1", "2", "new"] {
        assert_eq!(data(&mut many).await, expected);
    }
    hub.close();
}

#[tokio::test]
async fn what_is_lost_is_told_and_what_is_kept_still_comes() {
    let capped = Caps { count: Some(2), ..Caps::default() };
    let hub = hub_that_keeps(Retention { default: capped, ..Retention::default() });
    let first = publish(&hub, event("a", "1")).await;
    for n in 2..=5 {
        publish(&hub, event("a", &n.to_string())).await;
    }
    let quiet = publish(&hub, event("quiet", "q")).await;
    let mut behind = hub.subscribe(from(&["a"], Start::Cursor(first.to_string()))).unwrap();
    match next(&mut behind).await {
        Delivery::Gap(gap) => {
            assert_eq!(gap.reason, GapReason::Expired);
            assert_eq!(gap.from.map(|from| hub.key().seal(from)), Some(first));
        }
        other => panic!("not {other:?}"),
    }
    assert_eq!(data(&mut behind).await, "4");
    assert_eq!(data(&mut behind).await, "5");
    // What was lost in one channel is no loss to who follows another.
    let mut elsewhere = hub.subscribe(from(&["quiet"], Start::Cursor(first.to_string()))).unwrap();
    assert_eq!(data(&mut elsewhere).await, "q");
    let mut level = hub.subscribe(from(&["a"], Start::Cursor(quiet.to_string()))).unwrap();
    publish(&hub, event("a", "6")).await;
    assert_eq!(data(&mut level).await, "6");
    hub.close();
}

#[tokio::test]
async fn a_cursor_that_is_none_is_told_and_the_stream_goes_on_from_now() {
    let hub = hub();
    publish(&hub, event("a", "before")).await;
    let ahead = hub.key().seal(Position { epoch: Epoch(1), sequence: Sequence(99) }).to_string();
    let foreign =
        CursorKey::new([9; 16]).seal(Position { epoch: Epoch(1), sequence: Sequence(1) }).to_string();
    for text in ["", "nonsense", &"x".repeat(8192), &ahead, &foreign] {
        let mut subscription = hub.subscribe(from(&["a"], Start::Cursor(text.to_owned()))).unwrap();
        assert_eq!(data(&mut subscription).await, "gap unknown", "{text:.40}");
        publish(&hub, event("a", "after")).await;
        assert_eq!(data(&mut subscription).await, "after");
    }
    let other_epoch = hub.key().seal(Position { epoch: Epoch(77), sequence: Sequence(1) }).to_string();
    let mut subscription = hub.subscribe(from(&["a"], Start::Cursor(other_epoch))).unwrap();
    assert_eq!(data(&mut subscription).await, "gap epoch");
    hub.close();
}

#[tokio::test]
async fn what_is_not_kept_reaches_who_is_there_and_nobody_later() {
    let hub = hub();
    let mut there = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    let before = publish(&hub, event("a", "kept")).await;
    let typing = publish(&hub, Event { store: false, ..event("a", "typing") }).await;
    assert_eq!(before, typing, "it has the id of the record before it");
    for expected in ["kept", "typing"] {
        assert_eq!(data(&mut there).await, expected);
    }
    let mut later = hub.subscribe(from(&["a"], Start::Earliest)).unwrap();
    publish(&hub, event("a", "kept too")).await;
    assert_eq!(data(&mut there).await, "kept too");
    for expected in ["kept", "kept too"] {
        assert_eq!(data(&mut later).await, expected);
    }
    hub.close();
}

#[tokio::test]
async fn who_is_excluded_gets_it_neither_live_nor_replayed() {
    let hub = hub();
    let user: UserId = "u".parse().unwrap();
    let as_user = |start| Subscribe { user: Some(user.clone()), ..from(&["a"], start) };
    let mut live = hub.subscribe(as_user(Start::Now)).unwrap();
    let exclude = Exclude { user: Some(user.clone()), ..Exclude::default() };
    publish(&hub, Event { exclude, ..event("a", "not for u") }).await;
    publish(&hub, event("a", "for all")).await;
    assert_eq!(data(&mut live).await, "for all");
    let mut replayed = hub.subscribe(as_user(Start::Earliest)).unwrap();
    assert_eq!(data(&mut replayed).await, "for all");
    let mut another = hub.subscribe(from(&["a"], Start::Earliest)).unwrap();
    assert_eq!(data(&mut another).await, "not for u");
    hub.close();
}

#[tokio::test]
async fn a_purge_takes_effect_in_the_window_too() {
    let hub = hub();
    let opened_at = hub.subscribe(from(&["a"], Start::Now)).unwrap().opened_at().to_string();
    publish(&hub, event("a", "private")).await;
    publish(&hub, event("b", "other")).await;
    hub.log().purge(channel("a")).await.unwrap();
    publish(&hub, event("a", "new")).await;
    let mut late = hub.subscribe(from(&["a", "b"], Start::Cursor(opened_at))).unwrap();
    assert_eq!(data(&mut late).await, "gap expired");
    assert_eq!(data(&mut late).await, "other");
    assert_eq!(data(&mut late).await, "new");
    hub.close();
}

#[tokio::test]
async fn too_large_and_too_late_are_refused() {
    let hub = hub();
    let large = hub.publish(event("a", &"x".repeat((1 << 20) + 1))).await;
    assert_eq!(large, Err(PublishError::TooLarge { len: (1 << 20) + 1, max: 1 << 20 }));
    let all_or_none = hub.publish_batch(vec![event("a", "fits"), event("a", &"x".repeat(2 << 20))]).await;
    assert!(all_or_none.is_err());
    assert_eq!(hub.log().head().sequence, Sequence(0));
    hub.close();
    assert_eq!(hub.publish(event("a", "x")).await, Err(PublishError::Closed));
}

#[tokio::test]
async fn a_subscriber_behind_the_window_reads_the_log() {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let small = HubConfig { window_bytes: 1, window_records: 1, ..HubConfig::new(CursorKey::new([1; 16])) };
    let hub = Hub::start(log, small).unwrap();
    let mut slow = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    let opened_at = slow.opened_at().to_string();
    for n in 0..3000 {
        publish(&hub, event("a", &n.to_string())).await;
    }
    let mut back = hub.subscribe(from(&["a"], Start::Cursor(opened_at))).unwrap();
    for n in 0..3000 {
        assert_eq!(data(&mut slow).await, n.to_string());
        assert_eq!(data(&mut back).await, n.to_string());
    }
    hub.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_subscriber_sees_one_order_while_many_publish() {
    const EACH: usize = 2_000;
    let hub = hub();
    let subscribers: Vec<_> = (0..4).map(|_| hub.subscribe(from(&["p/*"], Start::Now)).unwrap()).collect();
    let publishers: Vec<_> = (0..4)
        .map(|p| {
            let hub = hub.clone();
            tokio::spawn(async move {
                for n in 0..EACH {
                    publish(&hub, event(&format!("p/{p}"), &format!("{p} {n}"))).await;
                }
            })
        })
        .collect();
    let readers: Vec<_> = subscribers
        .into_iter()
        .map(|mut subscription| {
            tokio::spawn(async move {
                let mut all = Vec::new();
                while all.len() < 4 * EACH {
                    all.push(data(&mut subscription).await);
                }
                all
            })
        })
        .collect();
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut orders = Vec::new();
    for reader in readers {
        orders.push(reader.await.unwrap());
    }
    assert!(orders.windows(2).all(|two| two[0] == two[1]), "all see the same order");
    for p in 0..4 {
        let own: Vec<_> = orders[0].iter().filter(|data| data.starts_with(&format!("{p} "))).collect();
        assert!(
            own.iter().enumerate().all(|(n, data)| **data == format!("{p} {n}")),
            "a publisher's own order"
        );
    }
    hub.close();
}

#[tokio::test]
async fn who_takes_nothing_for_long_gets_it_all_later() {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let config = HubConfig { window_records: 512, ..HubConfig::new(CursorKey::new([1; 16])) };
    let hub = Hub::start(log, config).unwrap();
    let mut idle = hub.subscribe(from(&["a"], Start::Now)).unwrap();
    publish(&hub, event("a", "first")).await;
    for n in 0..20 {
        let many = (0..250).map(|m| event("a", &(n * 250 + m).to_string())).collect();
        timeout(SOON, hub.publish_batch(many)).await.unwrap().unwrap();
    }
    assert_eq!(data(&mut idle).await, "first");
    for n in 0..5000 {
        assert_eq!(data(&mut idle).await, n.to_string());
    }
}
