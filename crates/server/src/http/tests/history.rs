use std::time::Duration;

use serde_json::Value;
use tidings_hub::log::{Caps, Retention};
use tidings_wire::{CursorKey, Epoch, Position, Sequence};

use super::{Server, request};

fn data(answer: &Value) -> Vec<String> {
    answer["events"].as_array().unwrap().iter().map(|event| event["data"].to_string()).collect()
}

async fn numbered(server: &Server, channel: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..count {
        ids.push(server.publish(&format!(r#"{{"channel":"{channel}","data":{n}}}"#)).await);
    }
    ids
}

#[tokio::test]
async fn it_is_read_page_by_page_in_both_orders() {
    let server = Server::new();
    let ids = numbered(&server, "a", 10).await;
    for (order, expected) in [("asc", (0..10).collect::<Vec<_>>()), ("desc", (0..10).rev().collect())] {
        let from = if order == "asc" { "after" } else { "until" };
        let mut seen = Vec::new();
        let mut target = format!("/history?channel=a&limit=3&order={order}");
        for _ in 0..10 {
            let page = server.get(&target).await.ok();
            assert!(data(&page).len() <= 3);
            seen.extend(data(&page));
            let Some(next) = page["next"].as_str() else { break };
            target = format!("/history?channel=a&limit=3&order={order}&{from}={next}");
        }
        assert_eq!(seen, expected.iter().map(usize::to_string).collect::<Vec<_>>(), "{order}");
    }
    let between = format!("/history?channel=a&after={}&until={}", ids[2], ids[5]);
    assert_eq!(data(&server.get(&between).await.ok()), ["3", "4", "5"]);
    let newest = server.get("/history?channel=a&limit=2&order=desc").await.ok();
    assert_eq!(newest["last_event_id"], *ids[9], "a stream goes on from the newest");
    let oldest = server.get("/history?channel=a&limit=2").await.ok();
    assert_eq!(oldest["last_event_id"], *ids[1], "a stream goes on from the page's end");
    let all = server.get("/history?channel=a").await.ok();
    assert!(all.get("next").is_none() && all.get("gap").is_none(), "{all}");
    let empty = server.get("/history?channel=nothing").await.ok();
    assert!(data(&empty).is_empty());
    assert_eq!(empty["last_event_id"], *ids[9], "how far was looked, not the last one found");
}

#[tokio::test]
async fn each_event_is_shown_once_for_a_channel_that_was_asked_for() {
    let server = Server::new();
    server.publish(r#"{"channels":["private/x","a/1","a/2"],"user":"7","broadcast":true,"data":"x"}"#).await;
    for (channel, shown) in
        [("a/2", "a/2"), ("a/*", "a/1"), ("**", "private/x"), ("$all", "$all"), ("$user/7", "$user/7")]
    {
        let answer = server.get(&format!("/history?channel={channel}")).await.ok();
        assert_eq!(answer["events"].as_array().unwrap().len(), 1);
        assert_eq!(answer["events"][0]["channel"], shown);
    }
    let two = server.get("/history?channel=a/1&channel=a/2").await;
    assert_eq!(data(&two.ok()).len(), 1);
    assert!(!two.text().contains("private") && !two.text().contains("$user"), "{}", two.text());
}

#[tokio::test]
async fn exclusions_hold() {
    let server = Server::new();
    server.publish(r#"{"channel":"a","data":1,"exclude_client":"tab"}"#).await;
    server.publish(r#"{"channel":"a","data":2}"#).await;
    assert_eq!(data(&server.get("/history?channel=a&client=tab").await.ok()), ["2"]);
    assert_eq!(data(&server.get("/history?channel=a&client=other").await.ok()), ["1", "2"]);
}

#[tokio::test]
async fn what_is_missing_is_said() {
    let caps = Caps { count: Some(2), ..Caps::default() };
    let retention = Retention { default: caps, ..Retention::default() };
    let server = Server::retaining(retention);
    let ids = numbered(&server, "a", 5).await;
    let gap = |after: &str| {
        let target = format!("/history?channel=a&after={after}");
        let server = &server;
        async move { server.get(&target).await.ok() }
    };
    let expired = gap(&ids[0]).await;
    assert_eq!(expired["gap"]["reason"], "expired");
    assert_eq!(expired["gap"]["from"], *ids[0]);
    assert_eq!(expired["gap"]["to"], *ids[2]);
    assert_eq!(data(&expired), ["3", "4"]);
    assert!(gap(&ids[2]).await.get("gap").is_none(), "nothing after it is missing");
    assert!(gap("").await.get("gap").is_none(), "nothing was asked for by a cursor");
    let unknown = gap("nonsense").await;
    assert_eq!(unknown["gap"]["reason"], "unknown");
    assert!(unknown["gap"].get("from").is_none());
    let seal = |epoch, sequence| {
        let position = Position { epoch: Epoch(epoch), sequence: Sequence(sequence) };
        CursorKey::new([7; 16]).seal(position).to_string()
    };
    assert_eq!(gap(&seal(3, 1)).await["gap"]["reason"], "epoch");
    assert_eq!(gap(&seal(7, 99)).await["gap"]["reason"], "unknown");
    assert_eq!(gap(&"x".repeat(5000)).await["gap"]["reason"], "unknown");
}

#[tokio::test]
async fn bad_questions_are_refused() {
    let server = Server::new();
    for (query, says) in [
        ("", "channel"),
        ("channel=a//b", "empty level"),
        ("channel=a&limit=0", "limit"),
        ("channel=a&limit=-1", "limit"),
        ("channel=a&limit=1&limit=2", "limit"),
        ("channel=a&order=up", "order"),
        ("channel=a&until=nonsense", "until"),
        ("channel=a&client=", "client"),
        ("channel=a&colour=red", "colour"),
        ("channel=%ff", "UTF-8"),
    ] {
        let problem = server.get(&format!("/history?{query}")).await.problem(400);
        assert!(problem["detail"].as_str().unwrap().contains(says), "{query}: {problem}");
    }
    let many: String = (0..101).map(|n| format!("channel=c{n}&")).collect();
    server.get(&format!("/history?{many}")).await.problem(400);
    server.get("/history?channel=a&limit=99999999999999999999999").await.ok();
}

#[tokio::test]
async fn a_channel_is_purged_and_one_event_deleted() {
    let server = Server::new();
    let ids = numbered(&server, "a", 3).await;
    numbered(&server, "b", 2).await;
    let delete = |query: String| {
        let server = &server;
        async move { server.send(request("DELETE", &format!("/history?{query}"), "".into())).await }
    };
    assert_eq!(delete(format!("id={}", ids[1])).await.ok()["removed"], 1);
    assert_eq!(delete(format!("id={}", ids[1])).await.ok()["removed"], 0);
    assert_eq!(server.kept("a").await, ["message: 0", "message: 2"]);
    assert_eq!(delete("channel=a".into()).await.ok()["removed"], 2);
    assert!(server.kept("a").await.is_empty());
    assert_eq!(server.kept("b").await.len(), 2);
    for bad in ["", "channel=a&id=x", "id=nonsense", "channel=*", "channel=a&x=1"] {
        delete(bad.to_owned()).await.problem(400);
    }
}

#[tokio::test]
async fn an_event_whose_time_is_over_is_not_shown() {
    let server = Server::new();
    server.publish(r#"{"channel":"a","data":1,"ttl":1}"#).await;
    server.publish(r#"{"channel":"a","data":2,"ttl":1000}"#).await;
    let over = std::time::Instant::now() + Duration::from_secs(30);
    while server.kept("a").await.len() == 2 && std::time::Instant::now() < over {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.kept("a").await, ["message: 2"]);
}

#[tokio::test]
async fn channels_are_listed_by_name() {
    let server = Server::new();
    for channel in ["b", "a/2", "a/1", "c"] {
        server.publish(&format!(r#"{{"channel":"{channel}","data":"four"}}"#)).await;
    }
    let all = server.get("/channels").await.ok();
    let names = |answer: &Value| -> Vec<String> {
        let channels = answer["channels"].as_array().unwrap();
        channels.iter().map(|channel| channel["channel"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&all), ["a/1", "a/2", "b", "c"]);
    assert_eq!(all["channels"][0]["events"], 1);
    assert_eq!(all["channels"][0]["bytes"], 4);
    let history = server.get("/history?channel=a/1").await.ok();
    assert_eq!(all["channels"][0]["newest"], history["events"][0]["id"]);
    assert_eq!(names(&server.get("/channels?prefix=a/").await.ok()), ["a/1", "a/2"]);
    let page = server.get("/channels?limit=2&after=a/1").await.ok();
    assert_eq!(names(&page), ["a/2", "b"]);
    assert_eq!(page["next"], "b");
    let last = server.get("/channels?after=b").await.ok();
    assert_eq!(names(&last), ["c"]);
    assert!(last.get("next").is_none());
    server.get("/channels?after=*").await.problem(400);
}
