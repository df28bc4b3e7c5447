//! The same router on the log on disk.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings_hub::Timestamp;
use tidings_log_disk::{DataDir, DiskLog, DiskLogConfig};

use super::{Server, request};
use crate::ServerConfig;
use crate::auth::AccessConfig;

fn server(path: &std::path::Path) -> Server {
    // The hub's last thread may let go of the log a moment after the hub was closed.
    let patience = Instant::now() + Duration::from_secs(30);
    let dir = loop {
        match DataDir::open(path) {
            Ok(dir) => break dir,
            Err(error) if Instant::now() > patience => panic!("{error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let log = DiskLog::open(DiskLogConfig::new(dir), Timestamp::now()).unwrap();
    let access = AccessConfig { dev: true, ..AccessConfig::default() };
    Server::on(Arc::new(log), ServerConfig::default(), access)
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = server(dir.path());
    let answer = first.post("/publish?channel=a", "", "one").await.ok();
    assert!(answer.get("sync").is_none(), "the strictest policy needs no word: {answer}");
    let batch = r#"[{"channel":"a","data":2},{"channel":"b","data":{"n": 1.0}}]"#;
    let results = first.post("/publish", "application/json", batch).await.ok();
    let lines = "{\"channel\":\"a\",\"data\":4}\n{\"channel\":\"a\",\"data\":5}\n";
    assert_eq!(first.post("/publish", "application/x-ndjson", lines).await.lines().len(), 2);
    let before = first.get("/history?channel=**").await.ok();
    drop(first);

    let second = server(dir.path());
    let after = second.get("/history?channel=**").await.ok();
    assert_eq!(before["events"], after["events"]);
    assert_eq!(after["events"].as_array().unwrap().len(), 5);
    let since = format!("/history?channel=a&after={}", answer["id"].as_str().unwrap());
    let since = second.get(&since).await.ok();
    assert_eq!(since["events"][0]["id"], results["results"][0]["id"]);
    assert!(since.get("gap").is_none(), "{since}");
    let deleted = format!("/history?id={}", answer["id"].as_str().unwrap());
    assert_eq!(second.send(request("DELETE", &deleted, "".into())).await.ok()["removed"], 1);
    assert_eq!(second.kept("a").await, ["message: 2", "message: 4", "message: 5"]);
}
