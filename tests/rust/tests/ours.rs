//! What the project's own client does beside following a stream, against the real binary.

use std::time::Duration;

use tidings_client::{Error, History, Presence, Publish, Start, Subscribe, Subscription, Update};
use tidings_rust_clients::{Hub, PATIENCE};
use tokio::time::timeout;

async fn update(subscription: &mut Subscription) -> Update {
    let update = timeout(PATIENCE, subscription.next()).await.expect("an update in time");
    update.expect("it goes on").expect("the hub is a good one")
}

/// The next event's data; the connection may be lost and made again meanwhile.
async fn data(subscription: &mut Subscription) -> String {
    loop {
        match update(subscription).await {
            Update::Event(event) => return event.data,
            Update::Open(_) | Update::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn opened(subscription: &mut Subscription) {
    assert!(matches!(update(subscription).await, Update::Open(_)));
}

fn quick(channels: &[&str]) -> Subscribe {
    Subscribe::to(channels.iter().copied()).retry(Duration::from_millis(50))
}

#[tokio::test(flavor = "multi_thread")]
async fn channels_come_and_go_and_are_all_resumed() {
    let mut hub = Hub::start().await;
    let client = hub.client();
    let mut subscription = client.subscribe(quick(&["a"]));
    opened(&mut subscription).await;
    hub.publish("b/1", &[("message", "before")]).await;
    let from = subscription.add(["b/*", "c"]).await.unwrap();
    hub.publish("b/1", &[("message", "after")]).await;
    assert_eq!(data(&mut subscription).await, "after");
    let before = client.history(&History::of(["b/*"]).until(&from)).await.unwrap();
    assert_eq!(before.events.iter().map(|event| event.data.as_str()).collect::<Vec<_>>(), ["before"]);

    for round in 1..=3 {
        let published = |channel: &str| format!("{round} {channel}");
        // What is published before the kill was perhaps not read yet.
        for channel in ["a", "b/2", "c"] {
            hub.publish(channel, &[("message", &published(channel))]).await;
        }
        hub.kill_and_restart().await;
        for channel in ["c", "b/1", "a"] {
            hub.publish(channel, &[("message", &published(channel))]).await;
        }
        for channel in ["a", "b/2", "c", "c", "b/1", "a"] {
            assert_eq!(data(&mut subscription).await, published(channel));
        }
    }
    subscription.remove(["b/*", "a"]).await.unwrap();
    for channel in ["a", "b/1", "c"] {
        hub.publish(channel, &[("message", channel)]).await;
    }
    assert_eq!(data(&mut subscription).await, "c");
    hub.kill_and_restart().await;
    for channel in ["a", "b/1", "c"] {
        hub.publish(channel, &[("message", "after a loss")]).await;
    }
    assert_eq!(data(&mut subscription).await, "after a loss");
    hub.publish("c", &[("message", "and nothing else")]).await;
    assert_eq!(data(&mut subscription).await, "and nothing else");
    match subscription.add(["$user/other"]).await {
        Err(Error::Refused(problem)) => assert!([400, 403].contains(&problem.status), "{problem}"),
        other => panic!("{other:?}"),
    }
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_ends_with_its_channels() {
    let hub = Hub::start().await;
    let client = hub.client();
    let mut subscription = client.subscribe(quick(&["import/1", "import/2"]));
    opened(&mut subscription).await;
    client.publish(&Publish::to_channel("import/1").text("the last of 1").end()).await.unwrap();
    assert_eq!(data(&mut subscription).await, "the last of 1");
    client.publish(&Publish::to_channel("import/2").end()).await.unwrap();
    assert_eq!(update(&mut subscription).await, Update::End);
    assert!(subscription.next().await.is_none());
    let end = subscription.last_event_id().to_owned();
    let mut back = client.subscribe(quick(&["import/1", "import/2"]).start(Start::After(end)));
    assert_eq!(update(&mut back).await, Update::End);
    match client.publish(&Publish::to_channel("import/1").text("too late")).await {
        Err(Error::Refused(problem)) => assert_eq!((problem.status, problem.kind.as_str()), (409, "ended")),
        other => panic!("{other:?}"),
    }
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_passed_over_and_newcomers_get_the_newest() {
    let hub = Hub::start().await;
    let client = hub.client();
    let state = |data: &str| Publish::to_channel("a").key("state").text(data);
    let first = client.publish(&state("0")).await.unwrap();
    client.publish(&Publish::to_channel("a").text("no state")).await.unwrap();
    for n in 1..=7 {
        client.publish(&state(&n.to_string())).await.unwrap();
    }
    let mut back = client.subscribe(quick(&["a"]).start(Start::After(first.id)).control());
    assert_eq!(data(&mut back).await, "no state");
    assert_eq!(data(&mut back).await, "7");
    assert_eq!(update(&mut back).await, Update::Skipped(6));
    let mut late = client.subscribe(quick(&["a"]).start(Start::Latest));
    assert_eq!(data(&mut late).await, "7");
    client.publish(&state("8")).await.unwrap();
    for subscription in [&mut back, &mut late] {
        assert_eq!(data(subscription).await, "8");
    }
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_there_is_told() {
    let hub = Hub::start().await;
    let client = hub.client();
    let mut watcher = client.subscribe(quick(&["room"]).presence());
    opened(&mut watcher).await;
    let Update::Presence(Presence::Snapshot(snapshot)) = update(&mut watcher).await else {
        panic!("a snapshot")
    };
    assert_eq!((snapshot.channel.as_str(), snapshot.connections), ("room", 1));
    assert_eq!((snapshot.users[0].user.as_str(), snapshot.users[0].connections), ("ana", Some(1)));
    let mut other = client.subscribe(quick(&["room"]));
    opened(&mut other).await;
    let Update::Presence(Presence::Digest(digest)) = update(&mut watcher).await else { panic!("a digest") };
    assert_eq!((digest.connections, digest.joined.len()), (2, 0), "ana is there already");
    hub.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_gets_again_what_it_did_not_acknowledge() {
    let mut hub = Hub::start().await;
    let client = hub.client();
    let none: [&str; 0] = [];
    let phone = || client.subscribe(quick(&none).subscription("phone"));
    let mut first = phone();
    opened(&mut first).await;
    drop(first);
    let mut ids = Vec::new();
    for n in 1..=3 {
        ids.push(client.publish(&Publish::to_user("ana").text(n.to_string())).await.unwrap().id);
    }
    let mut there = phone();
    for n in 1..=3 {
        assert_eq!(data(&mut there).await, n.to_string());
    }
    drop(there);
    assert_eq!(client.acknowledge("phone", &ids[1]).await.unwrap(), ids[1]);
    assert_eq!(client.acknowledge("phone", &ids[0]).await.unwrap(), ids[1], "never backwards");
    hub.kill_and_restart().await;
    let mut again = phone();
    assert_eq!(data(&mut again).await, "3");
    match client.acknowledge("laptop", &ids[1]).await {
        Err(Error::Refused(problem)) => assert_eq!(problem.status, 404),
        other => panic!("{other:?}"),
    }
    hub.end().await;
}
