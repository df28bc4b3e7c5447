use axum::body::Body;
use serde_json::json;
use tidings_hub::log::Retention;

use super::{Answer, Server, access_with, request, token};
use crate::ServerConfig;
use crate::auth::{AccessConfig, Origins};

fn server(patterns: &[&str]) -> Server {
    Server::made(ServerConfig::default(), access_with(patterns), Retention::default())
}

async fn ask(server: &Server, token: &str, method: &str, target: &str, body: &str) -> Answer {
    let mut request = request(method, target, Body::from(body.to_owned()));
    request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    server.send(request).await
}

#[tokio::test]
async fn every_target_must_be_granted() {
    let server = server(&["a/**", "$user/7"]);
    let token = token(Some("ann"), false);
    let publish = |event: serde_json::Value| {
        let (server, token) = (&server, &token);
        async move { ask(server, token, "POST", "/publish", &event.to_string()).await }
    };
    publish(json!({"channel": "a/b", "user": "7", "data": 1})).await.ok();
    for refused in [
        json!({"channel": "b", "data": 1}),
        json!({"channels": ["a/b", "b"], "data": 1}),
        json!({"user": "8", "data": 1}),
        json!({"broadcast": true, "data": 1}),
        json!([{"channel": "a/b", "data": 1}, {"channel": "b", "data": 1}]),
    ] {
        publish(refused).await.problem(403);
    }
    let history = ask(&server, &token, "GET", "/history?channel=a/**", "").await.ok();
    assert_eq!(history["events"].as_array().unwrap().len(), 1, "nothing of what was refused is stored");
    let lines = "{\"channel\":\"b\",\"data\":1}\n{\"channel\":\"a/b\",\"data\":2}\n";
    let mut ndjson = request("POST", "/publish", lines.into());
    ndjson.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    ndjson.headers_mut().insert("content-type", "application/x-ndjson".parse().unwrap());
    let lines = server.send(ndjson).await.lines();
    assert_eq!(lines[0]["status"], 403);
    assert!(lines[1]["id"].is_string());
}

#[tokio::test]
async fn what_is_not_granted_looks_the_same_whether_it_is_there() {
    let server = server(&["a"]);
    let admin = token(None, true);
    let user = token(Some("ann"), false);
    let grantless = ask(&server, &user, "GET", "/history?channel=b", "").await.problem(403);
    ask(&server, &admin, "POST", "/publish?channel=a", "x").await.ok();
    let again = ask(&server, &user, "GET", "/history?channel=b", "").await.problem(403);
    assert_eq!(grantless["detail"], again["detail"]);
    ask(&server, &user, "GET", "/history?channel=a&channel=b", "").await.problem(403);
    ask(&server, &user, "GET", "/history?channel=**", "").await.problem(403);
    ask(&server, &user, "GET", "/history?channel=$user/bob", "").await.problem(403);
    ask(&server, &user, "GET", "/history?channel=$user/ann", "").await.ok();
    ask(&server, &user, "DELETE", "/history?channel=a", "").await.problem(403);
    ask(&server, &admin, "DELETE", "/history?channel=a", "").await.ok();
}

#[tokio::test]
async fn who_says_nothing_is_asked_for_a_token() {
    let server = server(&["a"]);
    for (method, target) in [
        ("POST", "/publish?channel=a"),
        ("GET", "/history?channel=a"),
        ("DELETE", "/history?channel=a"),
        ("GET", "/channels"),
        ("GET", "/connections"),
        ("GET", "/connections/x"),
        ("DELETE", "/connections/x"),
        ("DELETE", "/connections?user=x"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
    ] {
        let answer = server.call(method, target).await;
        answer.problem(401);
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{target}");
        let joint = if target.contains('?') { '&' } else { '?' };
        let bad = server.call(method, &format!("{target}{joint}token=canary")).await;
        assert_eq!(bad.problem(401)["type"], "urn:tidings:problem:invalid_token", "{target}");
        assert!(!bad.text().contains("canary"));
    }
    for open in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(server.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn every_answer_says_who_may_read_it() {
    let access =
        AccessConfig { origins: Origins::parse(["https://app.example"]).unwrap(), ..access_with(&["a"]) };
    let server = Server::made(ServerConfig::default(), access, Retention::default());
    for (target, status) in [("/healthz", 200), ("/nothing", 404), ("/stats", 401), ("/publish", 405)] {
        for (origin, allowed) in [("https://app.example", true), ("https://evil.example", false)] {
            let mut request = request("GET", target, Body::empty());
            request.headers_mut().insert("origin", origin.parse().unwrap());
            let answer = server.send(request).await;
            assert_eq!(answer.status.as_u16(), status);
            let said = answer.headers.get("access-control-allow-origin");
            assert_eq!(said.is_some_and(|said| said == origin), allowed, "{origin} {target}");
            assert!(allowed || said.is_none());
            assert!(answer.headers.get_all("vary").iter().any(|vary| vary == "Origin"));
        }
        assert_eq!(server.get(target).await.headers["vary"], "Origin");
    }
    let mut preflight = request("OPTIONS", "/publish", Body::empty());
    for (name, value) in [("origin", "https://app.example"), ("access-control-request-method", "POST")] {
        preflight.headers_mut().insert(name, value.parse().unwrap());
    }
    let answer = server.send(preflight).await;
    assert_eq!(answer.status, 204);
    let allowed = answer.headers["access-control-allow-headers"].to_str().unwrap().to_ascii_lowercase();
    for header in ["authorization", "cache-control", "last-event-id", "content-type", "idempotency-key"] {
        assert!(allowed.contains(header), "{allowed}");
    }
    assert_eq!(answer.headers.get_all("access-control-allow-origin").iter().count(), 1);
    assert_eq!(answer.headers.get_all("vary").iter().filter(|vary| *vary == "Origin").count(), 1);
}

#[tokio::test]
async fn dev_is_for_this_machine_on_every_path() {
    let server = Server::with(ServerConfig { dev: true, ..ServerConfig::default() });
    for path in ["/", "/healthz", "/nothing", "/history?channel=a"] {
        let mut foreign = request("GET", path, Body::empty());
        foreign.headers_mut().insert("host", "evil.example".parse().unwrap());
        let answer = server.send(foreign).await;
        assert!(matches!(answer.status.as_u16(), 403 | 421), "{path}: {}", answer.status);
        let mut elsewhere = request("GET", path, Body::empty());
        elsewhere.extensions_mut().clear();
        assert!(server.send(elsewhere).await.status.is_client_error(), "{path}");
    }
}
