//! Clients that people use from Rust, each as a list of what it has seen.

use std::time::Duration;

use eventsource_client::{Client as _, SSE};
use futures_util::StreamExt;
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::retry::ExponentialBackoff;
use tidings_client::{Client, Closing, Subscribe, Update};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The crate `reqwest-eventsource`.
    ReqwestEventsource,
    /// The crate `eventsource-client`, by LaunchDarkly.
    EventsourceClient,
    /// This project's own.
    Tidings,
}

/// One event as a client gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: String,
    pub event: String,
    pub data: String,
}

pub struct Reader {
    seen: watch::Receiver<Vec<Seen>>,
    task: JoinHandle<()>,
}

impl Reader {
    /// Subscribes to a channel at a server on a port, and goes on reading and coming back.
    pub fn open(kind: Kind, port: u16, token: &str, channel: &str) -> Reader {
        let (sender, seen) = watch::channel(Vec::new());
        let (token, channel) = (token.to_owned(), channel.to_owned());
        let task = match kind {
            Kind::ReqwestEventsource => tokio::spawn(reqwest_eventsource(port, token, channel, sender)),
            Kind::EventsourceClient => tokio::spawn(eventsource_client(port, token, channel, sender)),
            Kind::Tidings => tokio::spawn(tidings(port, token, channel, sender)),
        };
        Reader { seen, task }
    }

    /// Waits until so many connections were opened.
    pub async fn opened(&mut self, times: usize) {
        self.until(|seen| seen.iter().filter(|seen| seen.event == "tidings:open").count() >= times).await;
    }

    /// How many connections were opened.
    pub fn opens(&self) -> usize {
        self.seen.borrow().iter().filter(|seen| seen.event == "tidings:open").count()
    }

    /// Waits until an event with this data was seen.
    pub async fn saw(&mut self, data: &str) {
        self.until(|seen| seen.iter().any(|seen| seen.data == data)).await;
    }

    /// The published events that were seen; there must have been no gap.
    pub fn events(&self) -> Vec<Seen> {
        let seen = self.seen.borrow();
        assert!(!seen.iter().any(|seen| seen.event == "tidings:gap"), "{seen:?}");
        seen.iter().filter(|seen| !seen.event.starts_with("tidings:")).cloned().collect()
    }

    async fn until(&mut self, done: impl FnMut(&Vec<Seen>) -> bool) {
        let result = timeout(PATIENCE, self.seen.wait_for(done)).await.map(|result| result.is_ok());
        assert_eq!(result, Ok(true), "it is seen in time; seen so far: {:?}", self.seen.borrow());
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn saw(sender: &watch::Sender<Vec<Seen>>, id: String, event: String, data: String) {
    sender.send_modify(|seen| seen.push(Seen { id, event, data }));
}

fn url(port: u16, channel: &str) -> String {
    format!("http://127.0.0.1:{port}/events?channel={channel}")
}

async fn reqwest_eventsource(port: u16, token: String, channel: String, sender: watch::Sender<Vec<Seen>>) {
    use reqwest_eventsource::{Event, EventSource};
    let request = reqwest::Client::new().get(url(port, &channel)).bearer_auth(token);
    let mut source = EventSource::new(request).unwrap();
    let quick = Duration::from_millis(50);
    source.set_retry_policy(Box::new(ExponentialBackoff::new(quick, 1.5, Some(quick * 4), None)));
    while let Some(item) = source.next().await {
        match item {
            Ok(Event::Open) => {}
            Ok(Event::Message(message)) => saw(&sender, message.id, message.event, message.data),
            // It comes back by itself, or ends; then the test sees no more.
            Err(_) => {}
        }
    }
}

async fn eventsource_client(port: u16, token: String, channel: String, sender: watch::Sender<Vec<Seen>>) {
    use eventsource_client::{ClientBuilder, ReconnectOptions};
    let quick = Duration::from_millis(50);
    let reconnect =
        ReconnectOptions::reconnect(true).retry_initial(true).delay(quick).delay_max(quick * 4).build();
    let client = ClientBuilder::for_url(&url(port, &channel))
        .and_then(|builder| builder.header("Authorization", &format!("Bearer {token}")))
        .unwrap()
        .reconnect(reconnect)
        .build_with_transport(HyperTransport::new().unwrap());
    let mut stream = client.stream();
    while let Some(item) = stream.next().await {
        match item {
            Ok(SSE::Event(event)) => {
                saw(&sender, event.id.unwrap_or_default(), event.event_type, event.data);
            }
            Ok(SSE::Connected(_) | SSE::Comment(_)) | Err(_) => {}
        }
    }
}

async fn tidings(port: u16, token: String, channel: String, sender: watch::Sender<Vec<Seen>>) {
    let client = Client::builder(format!("http://127.0.0.1:{port}")).token(token).build().unwrap();
    let mut subscription = client.subscribe(Subscribe::to([channel]).retry(Duration::from_millis(50)));
    while let Some(update) = subscription.next().await {
        match update.expect("the hub is a good one") {
            Update::Open(_) => saw(&sender, String::new(), "tidings:open".to_owned(), String::new()),
            Update::Gap(gap) => saw(&sender, String::new(), "tidings:gap".to_owned(), gap.reason),
            Update::Event(event) => saw(&sender, event.id, event.event, event.data),
            Update::Closing(Closing::Drain) | Update::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    }
}
