use std::collections::BTreeSet;

use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use tower::ServiceExt;

use super::super::routes::routes;
use super::{Server, request};
use crate::ServerConfig;
use crate::http::{Side, router};

const SPECIFICATION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/openapi.yaml");
const DESCRIPTION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/openapi.json");

/// What the server shows is what the specification says. With `TIDINGS_BLESS=1` it is made so.
#[test]
fn the_description_is_the_specification() {
    let specification: Value =
        yaml_serde::from_str(&std::fs::read_to_string(SPECIFICATION).unwrap()).unwrap();
    let specification = format!("{specification:#}\n");
    if std::env::var_os("TIDINGS_BLESS").is_some() {
        std::fs::write(DESCRIPTION, &specification).unwrap();
    }
    let description = std::fs::read_to_string(DESCRIPTION).unwrap();
    assert_eq!(description, specification, "run the test again with TIDINGS_BLESS=1");
}

#[tokio::test]
async fn every_route_is_described_and_nothing_else() {
    let description = Server::new().get("/openapi.json").await.ok();
    let mut described = BTreeSet::new();
    for (path, item) in description["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            described.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let built: BTreeSet<_> = routes()
        .flat_map(|route| route.built().map(move |method| format!("{method} {}", route.path)))
        .collect();
    assert_eq!(described, built);
}

#[tokio::test]
async fn every_reference_in_the_description_leads_somewhere() {
    fn check(value: &Value, root: &Value, seen: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref") {
                    assert!(root.pointer(target.strip_prefix('#').unwrap()).is_some(), "{target}");
                    *seen += 1;
                }
                map.values().for_each(|value| check(value, root, seen));
            }
            Value::Array(list) => list.iter().for_each(|value| check(value, root, seen)),
            _ => {}
        }
    }
    let description = Server::new().get("/openapi.json").await.ok();
    let mut seen = 0;
    check(&description, &description, &mut seen);
    assert!(seen > 50);
}

#[tokio::test]
async fn what_is_described_of_a_query_is_what_is_known() {
    let server = Server::new();
    let description = server.get("/openapi.json").await.ok();
    for (method, path, body) in [
        ("GET", "/history", ""),
        ("DELETE", "/history", ""),
        ("GET", "/queues", ""),
        ("DELETE", "/queues", ""),
        ("GET", "/channels", ""),
        ("GET", "/presence", ""),
        ("GET", "/users", ""),
        ("POST", "/publish", "x"),
    ] {
        let operation = &description["paths"][path][method.to_lowercase()];
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = match parameter["$ref"].as_str() {
                Some(target) => description.pointer(target.strip_prefix('#').unwrap()).unwrap(),
                None => parameter,
            };
            if parameter["in"] != "query" {
                continue;
            }
            let name = parameter["name"].as_str().unwrap();
            let answer = server.send(request(method, &format!("{path}?{name}=1"), Body::from(body))).await;
            assert!(!answer.text().contains("there is no parameter"), "{path} {name}: {}", answer.text());
        }
        let answer = server.send(request(method, &format!("{path}?undescribed=1"), Body::from(body))).await;
        assert!(answer.text().contains("there is no parameter"), "{path}: {}", answer.text());
    }
}

#[tokio::test]
async fn every_json_body_is_read_alike() {
    let server = Server::new();
    for (method, path) in [
        ("POST", "/publish"),
        ("POST", "/acks"),
        ("POST", "/subscriptions"),
        ("DELETE", "/subscriptions"),
        ("POST", "/subscribe"),
        ("DELETE", "/subscribe"),
    ] {
        let send = async |header: &'static str, value: &str, body: &'static str| {
            let mut request = request(method, path, Body::from(body));
            if !header.is_empty() {
                request.headers_mut().insert(header, value.parse().unwrap());
            }
            server.send(request).await
        };
        for bad in ["", "{", "[", "x", "{]", "\u{feff}{}"] {
            let problem = send("", "", bad).await.problem(400);
            assert_eq!(problem["type"], "urn:tidings:problem:bad_json", "{method} {path} {bad}: {problem}");
        }
        for good in ["application/json", "Application/JSON; charset=UTF-8", "application/vnd.x+json"] {
            let problem = send("content-type", good, "{}").await.problem(400);
            assert_ne!(problem["type"], "urn:tidings:problem:bad_json", "{method} {path} {good}: {problem}");
        }
        for (header, value) in [
            ("content-type", "text/plain"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-type", "application/json; charset=latin1"),
            ("content-encoding", "gzip"),
        ] {
            let problem = send(header, value, "{}").await.problem(415);
            assert_eq!(problem["type"], "urn:tidings:problem:unsupported_type", "{method} {path} {value}");
        }
        let answer = server.send(request(method, &format!("{path}?x=1"), Body::from("{}"))).await;
        answer.problem(400);
    }
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_is() {
    let server = Server::new();
    server.get("/nothing").await.problem(404);
    server.get("/publish/").await.problem(404);
    server.get("/console").await.problem(404);
    for (method, path, allow) in [
        ("GET", "/publish", "POST, OPTIONS"),
        ("PUT", "/history", "GET, HEAD, DELETE, OPTIONS"),
        ("POST", "/events", "GET, HEAD, OPTIONS"),
        ("TRACE", "/healthz", "GET, HEAD, OPTIONS"),
        ("PATCH", "/connections/x", "GET, HEAD, DELETE, OPTIONS"),
        ("GET", "/tickets", "POST, OPTIONS"),
    ] {
        let answer = server.call(method, path).await;
        answer.problem(405);
        assert_eq!(answer.headers["allow"], allow, "{method} {path}");
        let options = server.call("OPTIONS", path).await;
        assert_eq!((options.status.as_u16(), &options.headers["allow"]), (204, &allow.parse().unwrap()));
    }
    for (method, path) in
        [("POST", "/tickets"), ("GET", "/explain"), ("GET", "/tidings.js"), ("PUT", "/connections/x/token")]
    {
        server.call(method, path).await.problem(501);
    }
}

#[tokio::test]
async fn every_problem_has_an_id_of_its_own() {
    let server = Server::new();
    let one = server.get("/nothing").await.problem(404)["request_id"].clone();
    let other = server.get("/nothing").await.problem(404)["request_id"].clone();
    assert_ne!(one, other);
}

#[tokio::test]
async fn nothing_of_a_query_is_repeated() {
    let server = Server::new();
    for target in ["/nothing?token=canary", "/history?token=canary", "/publish?token=canary&x=1"] {
        let answer = server.get(target).await;
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
}

#[tokio::test]
async fn health_and_readiness_are_apart() {
    let server = Server::new();
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).await.status, 200);
        assert_eq!(server.call("HEAD", path).await.status, 200);
    }
    server.app.begin_drain();
    assert_eq!(server.get("/healthz").await.status, 200);
    let draining = server.get("/readyz").await;
    draining.problem(503);
    assert!(draining.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn the_page_is_there_with_dev_only() {
    Server::new().get("/").await.problem(404);
    let server = Server::with(ServerConfig { dev: true, ..ServerConfig::default() });
    let page = server.get("/").await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    assert!(page.text().contains("EventSource"));
}

#[tokio::test]
async fn the_public_side_has_only_what_browsers_need() {
    let server = Server::new();
    let public = router(server.app.clone(), Side::Public);
    let internal = router(server.app.clone(), Side::Internal);
    for route in routes() {
        let path = route.path.replace("{id}", "x");
        let there = [
            "/events",
            "/history",
            "/presence",
            "/subscribe",
            "/subscriptions",
            "/tickets",
            "/tidings.js",
            "/healthz",
            "/readyz",
        ];
        for (router, expected) in [(&public, there.contains(&route.path)), (&internal, true)] {
            // Every path knows this method; what isn't there is answered like what never was.
            let answer = router.clone().oneshot(request("OPTIONS", &path, Body::empty())).await.unwrap();
            assert_eq!(answer.status() == 204, expected, "{path}");
        }
    }
}

#[tokio::test]
async fn every_path_moves_under_a_base_path() {
    let server =
        Server::with(ServerConfig { base_path: "/push".parse().unwrap(), ..ServerConfig::default() });
    server.get("/healthz").await.problem(404);
    assert_eq!(server.get("/push/healthz").await.status, 200);
    server.post("/push/publish?channel=a", "", "x").await.ok();
}

#[tokio::test]
async fn a_relayed_stream_may_begin_with_many_bytes_at_once() {
    let server = Server::new();
    let channels: String = (0..100).map(|n| format!("channel={n:0100}&")).collect();
    let target = format!("/events?{channels}padding=4096");
    let response = server.router.clone().oneshot(request("GET", &target, Body::empty())).await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let first = response.into_body().frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(first.starts_with(b":ok\n"), "{first:?}");
}
