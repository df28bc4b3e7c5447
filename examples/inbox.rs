//! What a hub does beside channels, in one process without HTTP: filters, states with keys, a user's devices, channels
//! that come and go, and ends.
//!
//!     cargo run --release -p tidings --example inbox

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;

use tidings::durable::Wanted;
use tidings::{
    Channel, ClientId, Delivery, Event, Filter, Hub, Start, Subscribe, Subscription, Tags, Timestamp, UserId,
    View,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let hub = tidings::in_memory()?;
    alerts(&hub).await?;
    scores(&hub).await?;
    orders(&hub).await?;
    rooms(&hub).await?;
    hub.close();
    Ok(())
}

/// Who is on call wants the urgent ones only.
async fn alerts(hub: &Hub) -> Result<()> {
    let filter = Some(Arc::new("priority > 3 && region in ['eu', 'us']".parse::<Filter>()?));
    let mut on_call = hub.subscribe(Subscribe { filter, ..Subscribe::new(["alerts".parse()?]) })?;
    for (text, priority) in [("a door is open", 1), ("it burns", 5)] {
        let tags = Tags::new([("priority".into(), priority.into()), ("region".into(), "eu".into())])?;
        hub.publish(Event { tags, ..Event::to("alerts".parse()?, text) }).await?;
    }
    println!("on call: {}", next(&mut on_call).await?);
    Ok(())
}

/// Of each player's score only the newest counts, to who is behind and to who comes late. Then the game is over.
async fn scores(hub: &Hub) -> Result<()> {
    let mut behind = hub.subscribe(Subscribe::new(["scores".parse()?]))?;
    for (player, score) in [("ada", 1), ("ada", 2), ("bob", 1), ("ada", 3)] {
        let text = format!("{player} has {score}");
        hub.publish(Event { key: Some(player.parse()?), ..Event::to("scores".parse()?, text) }).await?;
    }
    hub.publish(Event { end: true, ..Event::to("scores".parse()?, "the game is over") }).await?;
    while let Delivery::Event { record, .. } = behind.next().await? {
        println!("scores: {}", record.event.data.as_str());
    }
    println!("scores: {} were passed over, and there is nothing more to come", behind.skipped());
    let late = Subscribe { start: Start::Latest, ..Subscribe::new(["scores".parse()?]) };
    let mut late = hub.subscribe(late)?;
    println!("late: {}, {}", next(&mut late).await?, next(&mut late).await?);
    Ok(())
}

/// What is sent to a user waits for each of its devices until that has acknowledged it.
async fn orders(hub: &Hub) -> Result<()> {
    let ada: UserId = "ada".parse()?;
    let phone: ClientId = "phone".parse()?;
    // The phone was there once.
    drop(device(hub, &ada, &phone).await?);
    for text in ["your order is on its way", "your order is there"] {
        hub.publish(Event::to(Channel::user(&ada), text)).await?;
    }
    let mut there = device(hub, &ada, &phone).await?;
    if let Delivery::Event { id, record } = there.next().await? {
        println!("phone: {}", record.event.data.as_str());
        hub.durables().acknowledge(&ada, &phone, &id.to_string(), Timestamp::now()).await?;
    }
    println!("phone: {}", next(&mut there).await?);
    // It was switched off before it had dealt with that.
    drop(there);
    println!("phone again: {}", next(&mut device(hub, &ada, &phone).await?).await?);
    Ok(())
}

/// A subscriber that goes on where its durable subscription is.
async fn device(hub: &Hub, user: &UserId, name: &ClientId) -> Result<Subscription> {
    let views = [View::from(Channel::user(user))];
    let wanted = Wanted { start: &Start::Now, views: &views, asked: &[], counted: false };
    let start = hub.durables().open(user, name, wanted, Timestamp::now()).await?.start;
    Ok(hub.subscribe(Subscribe { start, user: Some(user.clone()), ..Subscribe::new(views) })?)
}

/// One subscription, whose channels come and go. What lies before an added one's beginning is history.
async fn rooms(hub: &Hub) -> Result<()> {
    let mut rooms = hub.subscribe(Subscribe::new(["room/1".parse()?]))?;
    hub.publish(Event::to("room/2".parse()?, "before")).await?;
    let from = rooms.change(["room/2".parse()?], ["room/1".parse()?]);
    for (room, text) in [("room/1", "nobody is here any more"), ("room/2", "hello")] {
        hub.publish(Event::to(room.parse()?, text)).await?;
    }
    println!("rooms: {}", next(&mut rooms).await?);
    let mut earlier =
        hub.subscribe(Subscribe { start: Start::Earliest, ..Subscribe::new(["room/2".parse()?]) })?;
    if let Delivery::Event { id, record } = earlier.next().await? {
        println!("rooms: {}, {}", record.event.data.as_str(), id == from);
    }
    Ok(())
}

/// The next event's text.
async fn next(subscription: &mut Subscription) -> Result<String> {
    match subscription.next().await? {
        Delivery::Event { record, .. } => Ok(record.event.data.as_str().to_owned()),
        Delivery::Gap(gap) => Err(format!("events are missing: {}", gap.reason).into()),
        Delivery::End => Err("there is nothing more to come".into()),
    }
}
