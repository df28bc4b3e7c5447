//! Durable subscriptions on a disk, where a note is written a while after it is read.

use std::sync::Arc;

use tidings_hub::durable::Wanted;
use tidings_hub::log::suite::wait;
use tidings_hub::{Hub, HubConfig, Start, Timestamp, View};
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};
use tidings_wire::{Channel, ClientId, CursorKey, Event, UserId};
use tokio::task::JoinSet;

/// Each reads the cursor before any of the others is noted, on whichever node: the oldest would be written last.
#[tokio::test]
async fn of_many_acknowledgements_at_once_the_newest_stays() {
    const EVENTS: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let config = DiskLogConfig { reserve_bytes: 0, ..DiskLogConfig::new(DataDir::open(dir.path()).unwrap()) };
    let log = Arc::new(DiskLog::open(config, Timestamp::now()).unwrap());
    // Two that know nothing of each other, as the nodes of a log for many.
    let nodes = [(); 2].map(|()| Hub::start(log.clone(), HubConfig::new(CursorKey::new([7; 16]))).unwrap());
    let hub = &nodes[0];
    let user: UserId = "ada".parse().unwrap();
    let phone: ClientId = "phone".parse().unwrap();
    let own = Channel::user(&user);
    let views = [View::from(own.clone())];
    let wanted = Wanted { start: &Start::Now, views: &views, asked: &[], counted: true };
    hub.durables().open(&user, &phone, wanted, Timestamp(1)).await.unwrap();
    let events = (0..EVENTS).map(|_| Event::to(own.clone(), "x")).collect();
    let published = wait(hub.publish_batch(events)).unwrap();
    // On one thread they begin in this order, the newest first.
    let mut all = JoinSet::new();
    let ids = published.iter().rev().map(|published| published.id.to_string());
    for (id, hub) in ids.zip(nodes.iter().cycle()) {
        let (hub, user, phone) = (hub.clone(), user.clone(), phone.clone());
        all.spawn(async move { hub.durables().acknowledge(&user, &phone, &id, Timestamp(2)).await.unwrap() });
    }
    let head = hub.log().head();
    for answered in all.join_all().await {
        assert_eq!(answered, head, "nothing older than what was acknowledged before");
    }
    assert_eq!(hub.durables().get(&user, &phone).unwrap().unwrap().cursor, head);
    hub.close();
}
