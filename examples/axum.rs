//! An axum application that tells browsers what happens, with a subscriber in the same process.
//!
//!     cargo run --release -p tidings --example axum    # then open http://127.0.0.1:8000
//!     curl -X POST http://127.0.0.1:8000/hello/ada
//!
//! The streams (`/events`) are kept by worker threads of Tidings; everything else is this program's own.

#![allow(clippy::print_stdout)]

use std::error::Error;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use tidings::{Channel, Event, Hub, Subscribe};
use tokio::net::TcpListener;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "whoever runs it looks for the address there")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let hub = tidings::in_memory()?;
    tokio::spawn(greet_back(hub.clone()));
    let http = tidings::Http::from(&hub);
    let router = Router::new()
        .route("/", get(Html(PAGE)))
        .route("/hello/{name}", post(hello))
        .with_state(hub)
        // What else Tidings has over HTTP; and the streams, for who serves the router in another way.
        .nest("/push", tidings::axum::routes(http.clone()));
    tidings::serve(listener, router, http).await?;
    Ok(())
}

/// Publishes; when this answers, the event is in the log.
async fn hello(State(hub): State<Hub>, Path(name): Path<String>) -> Result<String, (StatusCode, String)> {
    let channel: Channel = "hello".parse().map_err(bad_request)?;
    let event = Event::to(channel, format!("{name} says hello"));
    let published = hub.publish(event).await.map_err(unavailable)?;
    Ok(published.id.to_string())
}

/// A subscriber in the same process: it gets what browsers get, and answers in another channel.
async fn greet_back(hub: Hub) -> Result<(), Box<dyn Error + Send + Sync>> {
    let hello: Channel = "hello".parse()?;
    let answers: Channel = "answers".parse()?;
    let mut subscription = hub.subscribe(Subscribe::new([hello.into()]))?;
    loop {
        if let Some(event) = subscription.next().await?.event() {
            let answer = format!("hello to who said: {}", event.data.as_str());
            hub.publish(Event::to(answers.clone(), answer)).await?;
        }
    }
}

fn bad_request(error: impl Error) -> (StatusCode, String) {
    (StatusCode::BAD_REQUEST, error.to_string())
}

fn unavailable(error: impl Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

const PAGE: &str = r#"<!doctype html>
<title>Tidings in axum</title>
<form action="javascript:fetch('/hello/' + encodeURIComponent(user.value), { method: 'POST' })">
  <input id="user" value="ada"> <button>say hello</button>
</form>
<pre id="log"></pre>
<script>
  const events = new EventSource("/events?channel=hello&channel=answers&history=10");
  events.onmessage = (event) => log.append(event.data + "\n");
</script>
"#;
