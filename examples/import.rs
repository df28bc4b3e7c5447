//! An import whose progress anybody can watch: a state with a key, and an end.
//!
//!     cargo run --release -p tidings --example import              # then open http://127.0.0.1:8000
//!     seq 500 | curl --data-binary @- http://127.0.0.1:8000/imports    # answers the channel: import/1
//!     curl -N 'http://127.0.0.1:8000/events?channel=import/1&history=latest'
//!
//! Who watches from the beginning sees every step, who comes late or reads slowly the newest one and what follows, and
//! who comes when all is done the result. Then the stream ends, and an `EventSource` stays away (204).

#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::{get, post};
use tidings::{Channel, Data, Event, Hub};
use tokio::net::TcpListener;

/// How long a row takes, for people to see something.
const ROW: Duration = Duration::from_millis(10);

#[derive(Clone)]
struct Imports {
    hub: Hub,
    begun: Arc<AtomicU64>,
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "whoever runs it looks for the address there")]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8000".to_owned());
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);

    let hub = tidings::in_memory()?;
    let imports = Imports { hub: hub.clone(), begun: Arc::default() };
    let router = Router::new().route("/", get(Html(PAGE))).route("/imports", post(begin)).with_state(imports);
    tidings::serve(listener, router, hub).await?;
    Ok(())
}

/// Begins to import the numbers in the body, one a line, and answers with the channel of its progress.
async fn begin(State(imports): State<Imports>, body: String) -> Result<String, (StatusCode, String)> {
    let rows: Result<Vec<u64>, _> = body.lines().map(|row| row.trim().parse()).collect();
    let rows = rows.map_err(|bad| (StatusCode::BAD_REQUEST, format!("a number a line, please: {bad}\n")))?;
    let number = imports.begun.fetch_add(1, Ordering::Relaxed) + 1;
    let name = format!("import/{number}");
    let channel = name.parse().map_err(|bad| (StatusCode::INTERNAL_SERVER_ERROR, format!("{bad}\n")))?;
    tokio::spawn(async move {
        if let Err(error) = import(&imports.hub, &channel, rows).await {
            eprintln!("{}: {error}", channel.as_str());
        }
    });
    Ok(name)
}

async fn import(hub: &Hub, channel: &Channel, rows: Vec<u64>) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut sum: u64 = 0;
    for (done, row) in rows.iter().enumerate() {
        hub.publish(progress(channel, done, rows.len(), sum)?).await?;
        tokio::time::sleep(ROW).await;
        sum = sum.saturating_add(*row);
    }
    // The same key: the result takes the place of the last step.
    let result = progress(channel, rows.len(), rows.len(), sum)?;
    hub.publish(Event { end: true, ..result }).await?;
    Ok(())
}

fn progress(channel: &Channel, done: usize, of: usize, sum: u64) -> Result<Event, tidings::wire::BadKey> {
    let data = Data::Json(format!(r#"{{"done":{done},"of":{of},"sum":{sum}}}"#).into());
    Ok(Event { key: Some("progress".parse()?), ..Event::to(channel.clone(), data) })
}

const PAGE: &str = r#"<!doctype html>
<title>Imports</title>
<button>import 1 to 300</button>
<p>Other tabs: add <code>#import/1</code> to the address.</p>
<progress value="0"></progress> <output></output>
<script>
  const [bar, text] = [document.querySelector("progress"), document.querySelector("output")];
  function watch(channel) {
    const events = new EventSource("/events?history=latest&channel=" + encodeURIComponent(channel));
    events.onmessage = (event) => {
      const { done, of, sum } = JSON.parse(event.data);
      [bar.max, bar.value, text.value] = [of, done, `${channel}: ${done} of ${of}, the sum is ${sum}`];
    };
    events.addEventListener("tidings:end", () => { text.value += ", done"; });
  }
  document.querySelector("button").onclick = async () => {
    const body = Array.from({ length: 300 }, (_, n) => n + 1).join("\n");
    location.hash = await (await fetch("/imports", { method: "POST", body })).text();
  };
  window.onhashchange = () => watch(location.hash.slice(1));
  if (location.hash) watch(location.hash.slice(1));
</script>
"#;
