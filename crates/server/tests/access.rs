//! Access on real sockets: the whole server, and clients that are let in or not.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tidings_hub::log::{MemoryLog, MemoryLogConfig, Retention};
use tidings_hub::{Hub, HubConfig, Timestamp};
use tidings_server::auth::{
    Access, AccessConfig, ApiKeyFile, Cors, GrantTemplates, KeyConfig, KeySource, NewToken, Origins, Secret,
};
use tidings_server::{App, Server, ServerConfig, Side};
use tidings_wire::{CursorKey, Epoch};
use tokio::net::TcpListener;

/// Longer than anything here takes, for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    client: reqwest::Client,
}

fn key() -> KeyConfig {
    KeyConfig::secret(Secret::new("a secret of the tests, of 40 characters."))
}

fn config() -> AccessConfig {
    AccessConfig { keys: vec![key()], origins: origins(), ..AccessConfig::default() }
}

fn origins() -> Origins {
    Origins::parse(["https://app.example"]).unwrap()
}

async fn start(access: AccessConfig) -> Running {
    let log = Arc::new(MemoryLog::new(MemoryLogConfig { epoch: Epoch(1), retention: Retention::default() }));
    let hub = Hub::start(log, HubConfig::new(CursorKey::new([7; 16]))).unwrap();
    let cors = Cors::new(Origins { local: access.dev, ..access.origins.clone() });
    let config = ServerConfig { workers: NonZeroUsize::MIN, dev: access.dev, ..ServerConfig::default() };
    let app = Arc::new(App::new(hub, Access::new(access).unwrap(), cors, config));
    let server = Server::of_side(app.clone(), Side::Both).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { server.serve(listener).await.unwrap() });
    // A stream's connection ends with the stream, without a word before: none is used again.
    let client = reqwest::Client::builder().timeout(PATIENCE).pool_max_idle_per_host(0).build().unwrap();
    Running { address, client }
}

fn templates(subscribe: &[&str], publish: &[&str]) -> GrantTemplates {
    let all = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    GrantTemplates { subscribe: all(subscribe), publish: all(publish), presence: Vec::new() }
}

fn token(user: &str, subscribe: &[&str], publish: &[&str]) -> String {
    let new = NewToken {
        user: Some(user.parse().unwrap()),
        grants: templates(subscribe, publish),
        admin: false,
        info: None,
        ttl: Duration::from_secs(600),
    };
    new.sign(&key(), "tidings", Timestamp::now()).unwrap().expose().to_owned()
}

impl Running {
    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    async fn send(
        &self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> reqwest::Response {
        let mut request = self.client.request(method.parse().unwrap(), self.url(target));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if method == "POST" {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await.unwrap()
    }

    /// The status, and the word of the problem.
    async fn status(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let body = json!({ "channel": "a", "data": 1 });
        let response = self.send(method, target, headers, body).await;
        let status = response.status().as_u16();
        if status < 400 {
            return (status, String::new());
        }
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let challenge = response.headers().get("www-authenticate").cloned();
        assert_eq!(challenge.is_some_and(|value| value.as_bytes().starts_with(b"Bearer")), status == 401);
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        assert_eq!(problem["status"], status);
        let kind = problem["type"].as_str().unwrap().rsplit(':').next().unwrap();
        (status, kind.to_owned())
    }

    async fn publish(&self, token: &str, body: Value) {
        let bearer = format!("Bearer {token}");
        let response = self.send("POST", "/publish", &[("authorization", &bearer)], body).await;
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
    }

    /// Reads a stream until a text has come; all that came.
    async fn read_until(&self, target: &str, text: &str) -> String {
        let mut response = self.client.get(self.url(target)).send().await.unwrap();
        assert_eq!(response.status(), 200, "{target}");
        let mut came = String::new();
        while !came.contains(text) {
            let chunk = response.chunk().await.unwrap();
            came.push_str(std::str::from_utf8(&chunk.expect("it ends early")).unwrap());
        }
        came
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_path_asks_who_it_is() {
    let server = start(config()).await;
    let token = token("7", &["a"], &[]);
    let good = format!("Bearer {token}");
    let calls = [
        ("GET", "/events?channel=a"),
        ("POST", "/publish"),
        ("GET", "/history?channel=a"),
        ("DELETE", "/history?channel=a"),
        ("GET", "/channels"),
        ("GET", "/connections?user=8"),
        ("DELETE", "/connections?user=8"),
        ("GET", "/stats"),
        ("GET", "/metrics"),
    ];
    for (method, target) in calls {
        assert_eq!(server.status(method, target, &[]).await, (401, "unauthorized".into()), "{target}");
        for bad in ["Bearer x", "Bearer a.b.c", "Bearer tk_00000000_x"] {
            let found = server.status(method, target, &[("authorization", bad)]).await;
            assert_eq!(found, (401, "invalid_token".into()), "{target}");
        }
        let found = server.status(method, target, &[("authorization", &good)]).await;
        let reading = target.contains("channel=a") && method == "GET";
        let expected = if reading { (200, String::new()) } else { (403, "not_granted".into()) };
        assert_eq!(found, expected, "{method} {target}");
        let query = format!("{target}{}token={token}", if target.contains('?') { '&' } else { '?' });
        assert_eq!(server.status(method, &query, &[]).await, expected, "{method} {target}, in the query");
    }
    for target in ["/events?channel=b", "/events?channel=*", "/events?channel=$user/8", "/history?channel=b"]
    {
        let found = server.status("GET", target, &[("authorization", &good)]).await;
        assert_eq!(found, (403, "not_granted".into()), "{target}");
    }
    assert_eq!(server.status("GET", "/healthz", &[]).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_what_is_not_theirs() {
    let access = AccessConfig { anonymous: Some(templates(&["public/**"], &[])), ..config() };
    let server = start(access).await;
    let all = token("publisher", &[], &["**", "$user/*", "$all"]);
    for (to, data) in [
        (json!({ "channel": "private/a" }), "hidden"),
        (json!({ "user": "7" }), "for seven"),
        (json!({ "user": "*" }), "for star"),
        (json!({ "channels": ["public/a", "private/b"], "user": "8" }), "for some"),
        (json!({ "broadcast": true }), "for all"),
    ] {
        let mut body = to;
        body["data"] = data.into();
        server.publish(&all, body).await;
    }
    let seen = async |query: &str, token: Option<String>| {
        let token = token.map(|token| format!("&token={token}")).unwrap_or_default();
        let target = format!("/events?last_event_id=earliest{query}{token}");
        let came = server.read_until(&target, "data: for all").await;
        ["hidden", "for seven", "for star", "for some"].map(|data| came.contains(&format!("data: {data}\n")))
    };
    assert_eq!(seen("&channel=public/**", None).await, [false, false, false, true]);
    assert_eq!(seen("", None).await, [false; 4]);
    assert_eq!(seen("", Some(token("7", &[], &[]))).await, [false, true, false, false]);
    assert_eq!(seen("", Some(token("*", &[], &[]))).await, [false, false, true, false]);
    assert_eq!(seen("", Some(token("8", &[], &[]))).await, [false, false, false, true]);
    assert_eq!(seen("&channel=**", Some(token("9", &["**"], &[]))).await, [true, false, false, true]);
    let private = server.status("GET", "/events?channel=private/a", &[]).await;
    assert_eq!(private, (401, "unauthorized".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_elsewhere_can_not_act_with_its_visitors_cookie() {
    let server = start(config()).await;
    let cookie = format!("tidings_token={}", token("7", &["a"], &["a"]));
    for (headers, expected) in [
        (&[("sec-fetch-site", "same-origin")][..], 200),
        (&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")], 200),
        (&[("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")], 401),
        (&[("sec-fetch-site", "same-site")], 401),
        (&[], 401),
    ] {
        for (method, target) in
            [("POST", "/publish"), ("GET", "/events?channel=a"), ("GET", "/history?channel=a")]
        {
            let headers = [&[("cookie", cookie.as_str())], headers].concat();
            assert_eq!(server.status(method, target, &headers).await.0, expected, "{target} {headers:?}");
            let response = server.send(method, target, &headers, json!({ "channel": "a", "data": 1 })).await;
            let allowed = response.headers().get("access-control-allow-origin");
            let trusted = headers.contains(&("origin", "https://app.example"));
            assert_eq!(allowed.is_some(), trusted, "{target} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_lets_this_machine_do_anything_and_nobody_else() {
    let server = start(AccessConfig { dev: true, origins: Origins::default(), ..config() }).await;
    let local =
        [&[][..], &[("origin", "http://localhost:3000")], &[("host", "localhost:9")], &[("host", "[::1]")]];
    let foreign = [
        ([("origin", "https://evil.example")], 403),
        ([("origin", "null")], 403),
        ([("x-forwarded-for", "10.0.0.1")], 403),
        ([("forwarded", "for=10.0.0.1")], 403),
        ([("via", "1.1 proxy")], 403),
        ([("host", "evil.example")], 421),
    ];
    for (method, target) in
        [("POST", "/publish"), ("GET", "/events?channel=a"), ("GET", "/channels"), ("GET", "/")]
    {
        for headers in local {
            assert_eq!(server.status(method, target, headers).await.0, 200, "{target} {headers:?}");
        }
        for (headers, status) in foreign {
            assert_eq!(server.status(method, target, &headers).await.0, status, "{target} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_publishes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    let server = start(AccessConfig { api_keys: Some(file.clone()), ..config() }).await;
    let (made, key) = file.create(Some("shop"), &templates(&[], &["a"]), false, Timestamp::now()).unwrap();
    let header = [("x-api-key", key.expose())];
    assert_eq!(server.status("POST", "/publish", &header).await.0, 200);
    assert_eq!(server.status("GET", "/events?channel=a", &header).await, (403, "not_granted".into()));
    file.revoke(&made.id).unwrap();
    let refused = async {
        while server.status("POST", "/publish", &header).await.0 == 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, refused).await.expect("the key is still good");
}

/// Not before its end: whoever was told too early would come back, with a token that is still good, to be told again.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_told_of_its_tokens_end_when_that_has_come() {
    let server = start(config()).await;
    let user = Some("7".parse().unwrap());
    // The end of a token is a whole second; the request comes anywhere in one.
    for ttl in [700, 1000, 1300] {
        let new = NewToken { user: user.clone(), ttl: Duration::from_millis(ttl), ..NewToken::default() };
        let begun = Timestamp::now();
        let end = Timestamp(begun.plus(new.ttl).0.div_ceil(1000) * 1000);
        let target = format!("/events?token={}", new.sign(&key(), "tidings", begun).unwrap().expose());
        let came = server.read_until(&target, "event: tidings:expired").await;
        assert!(Timestamp::now() >= end, "it came {:?} too early: {came}", end.since(Timestamp::now()));
        assert_eq!(server.status("GET", &target, &[]).await, (401, "invalid_token".into()));
    }
}

/// Anything but 200 would end an `EventSource` for good.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_keys_can_not_be_had_browsers_are_told_to_come_back() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let url = KeySource::JwksUrl(format!("http://{nobody}/keys"));
    let away = KeyConfig { algorithm: None, source: url, ..key() };
    let server = start(AccessConfig { keys: vec![away], ..config() }).await;
    let target = format!("/events?channel=a&last_event_id=mine&token={}", token("7", &["a"], &[]));
    let response = server.send("GET", &target, &[("accept", "text/event-stream")], Value::Null).await;
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/event-stream".parse().unwrap())
    );
    let body = response.text().await.unwrap();
    assert!(
        body.contains("event: tidings:overloaded\n") && body.contains("retry: ") && body.contains("\nid: "),
        "{body}"
    );
    assert_eq!(server.status("GET", &target, &[]).await, (503, "keys_unavailable".into()));
    assert_eq!(server.status("GET", "/events", &[("accept", "text/event-stream")]).await.0, 401);
}
