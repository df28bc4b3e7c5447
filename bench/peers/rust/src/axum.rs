//! What people write with axum: a broadcast channel of tokio for each channel, and `Sse` or a WebSocket over it.
//!
//!     peer-axum PORT

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::serve::ListenerExt as _;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::{Stream, StreamExt as _};

/// Events that a channel keeps for subscribers that are behind; who is further behind is cut off.
const KEPT: usize = 1024;

/// An event for both transports, formatted once and not once for each subscriber.
#[derive(Clone)]
struct Published {
    event: Event,
    text: Utf8Bytes,
}

#[derive(Clone, Default)]
struct Channels(Arc<Mutex<HashMap<String, broadcast::Sender<Published>>>>);

impl Channels {
    fn subscribe(&self, channel: String) -> broadcast::Receiver<Published> {
        let mut channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        channels.entry(channel).or_insert_with(|| broadcast::channel(KEPT).0).subscribe()
    }

    fn publish(&self, channel: &str, published: Published) {
        let channels = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = channels.get(channel) {
            // An error says only that nobody is subscribed.
            let _ = sender.send(published);
        }
    }
}

fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::args().nth(1).context("usage: peer-axum PORT")?.parse()?;
    // It gets one core: tasks that move between threads would cost and bring nothing.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve(port))
}

async fn serve(port: u16) -> anyhow::Result<()> {
    let router = Router::new()
        .route("/ready", get(|| async { "ready" }))
        .route("/events/{channel}", get(events))
        .route("/websocket/{channel}", get(websocket))
        .route("/publish/{channel}", post(publish))
        .with_state(Channels::default());
    let listener = TcpListener::bind(("127.0.0.1", port)).await?.tap_io(|socket| {
        let _ = socket.set_nodelay(true);
    });
    axum::serve(listener, router).await?;
    Ok(())
}

async fn publish(State(channels): State<Channels>, Path(channel): Path<String>, data: String) {
    let event = Event::default().data(&data);
    channels.publish(&channel, Published { event, text: data.into() });
}

async fn events(
    State(channels): State<Channels>,
    Path(channel): Path<String>,
) -> Sse<impl Stream<Item = Result<Event, BroadcastStreamRecvError>>> {
    let stream = BroadcastStream::new(channels.subscribe(channel)).map(|published| Ok(published?.event));
    Sse::new(stream).keep_alive(KeepAlive::default())
}

async fn websocket(
    State(channels): State<Channels>,
    Path(channel): Path<String>,
    upgrade: WebSocketUpgrade,
) -> Response {
    // Subscribed before the answer, as the stream is.
    let subscription = channels.subscribe(channel);
    // The default keeps 128 KiB back for reading and as much for writing, far more than these messages take.
    upgrade.read_buffer_size(1024).write_buffer_size(0).on_upgrade(|socket| forward(socket, subscription))
}

async fn forward(mut socket: WebSocket, mut subscription: broadcast::Receiver<Published>) {
    loop {
        tokio::select! {
            published = subscription.recv() => {
                let Ok(published) = published else { return };
                if socket.send(Message::Text(published.text)).await.is_err() {
                    return;
                }
            }
            received = socket.recv() => {
                if !matches!(received, Some(Ok(_))) {
                    return;
                }
            }
        }
    }
}
