//! A server's address and the right to use it.

use std::fmt;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, RequestBuilder, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::connect::read_body;
use crate::{Error, History, Page, Problem, Publish, Published, Subscribe, Subscription};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long publishing may take, and whatever else is answered at once.
const PUBLISH: Duration = Duration::from_secs(30);
/// The longest answer to a publish that is read: 10,000 results of under 100 bytes.
const LONGEST_ANSWER: usize = 4 << 20;
/// The longest page of history: 8 MiB of data, of which JSON may make six times as much (`\u001f`), and its envelopes.
const LONGEST_PAGE: usize = 64 << 20;

/// A server's address and the right to use it. A clone shares the connections.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    publish_timeout: Duration,
}

/// Makes a [`Client`].
#[derive(Clone)]
pub struct ClientBuilder {
    url: String,
    token: Option<String>,
    publish_timeout: Duration,
}

impl Client {
    /// A client of the server at `url`, for example `http://127.0.0.1:4600`, or `https://example.org/tidings` where the
    /// server lives under a path.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder { url: url.into(), token: None, publish_timeout: PUBLISH }
    }

    /// Subscribes. Nothing is sent before the first update is asked for.
    pub fn subscribe(&self, subscribe: Subscribe) -> Subscription {
        Subscription::new(self.clone(), subscribe)
    }

    /// Publishes one event; when this returns, it is stored.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server refuses it, [`Error::Failed`] when it can't store it now, and
    /// [`Error::NoAnswer`] when it may or may not be stored.
    pub async fn publish(&self, event: &Publish) -> Result<Published, Error> {
        self.send(Method::POST, "publish", serde_json::to_vec(event), None).await
    }

    /// Publishes up to 10,000 events, all or none; when this returns, they are stored. None of them may have an
    /// idempotency key of its own.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_all(&self, events: &[Publish]) -> Result<Vec<Published>, Error> {
        self.publish_array(events, None).await
    }

    /// The same, stored once however often it is sent within five minutes under this idempotency key.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn publish_all_once(&self, events: &[Publish], key: &str) -> Result<Vec<Published>, Error> {
        self.publish_array(events, Some(key)).await
    }

    /// Reads what is kept of some channels, a page at a time.
    ///
    /// # Errors
    /// As [`Client::publish`]; nothing is changed by it, so it can always be asked again.
    pub async fn history(&self, history: &History) -> Result<Page, Error> {
        let mut url = self.at("history");
        history.write_to(&mut url);
        Page::read(&answer(self.http.get(url).timeout(self.publish_timeout), LONGEST_PAGE).await?)
    }

    /// Acknowledges to a durable subscription everything up to an id, and says how far it is then.
    ///
    /// # Errors
    /// [`Error::Refused`] when there is no subscription of this name, or the id is none of this server's.
    pub async fn acknowledge(&self, subscription: &str, id: &str) -> Result<String, Error> {
        #[derive(Serialize)]
        struct Acknowledge<'a> {
            subscription: &'a str,
            id: &'a str,
        }
        #[derive(Deserialize)]
        struct Answer {
            id: String,
        }
        let body = serde_json::to_vec(&Acknowledge { subscription, id });
        let answer: Answer = self.send(Method::POST, "acks", body, None).await?;
        Ok(answer.id)
    }

    async fn publish_array(&self, events: &[Publish], key: Option<&str>) -> Result<Vec<Published>, Error> {
        #[derive(Deserialize)]
        struct Answer {
            results: Vec<Published>,
        }
        let answer: Answer = self.send(Method::POST, "publish", serde_json::to_vec(events), key).await?;
        if answer.results.len() != events.len() {
            return Err(Error::Answer("it has not one result for each event".to_owned()));
        }
        Ok(answer.results)
    }

    /// Sends a JSON body and reads a JSON answer.
    pub(crate) async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Result<Vec<u8>, serde_json::Error>,
        key: Option<&str>,
    ) -> Result<T, Error> {
        let mut request = self
            .http
            .request(method, self.at(path))
            .header(CONTENT_TYPE, "application/json")
            .timeout(self.publish_timeout)
            .body(body.map_err(Error::Data)?);
        if let Some(key) = key {
            let key = HeaderValue::from_bytes(key.as_bytes()).map_err(|_| Error::IdempotencyKey)?;
            request = request.header("idempotency-key", key);
        }
        let body = answer(request, LONGEST_ANSWER).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Answer(error.to_string()))
    }

    /// A request for a stream.
    pub(crate) fn open(&self, subscribe: &Subscribe) -> RequestBuilder {
        let mut url = self.at("events");
        subscribe.write_to(&mut url);
        self.http.get(url)
    }

    fn at(&self, path: &str) -> Url {
        let mut url = self.base.clone();
        let base = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{base}/{path}"));
        url
    }
}

/// The body of an answer that is a success.
async fn answer(request: RequestBuilder, longest: usize) -> Result<Vec<u8>, Error> {
    let no_answer = |error: reqwest::Error| Error::NoAnswer(error.without_url());
    let response = request.send().await.map_err(no_answer)?;
    let status = response.status();
    let body = read_body(response, longest).await.map_err(no_answer)?;
    match status {
        StatusCode::OK => body.ok_or_else(|| Error::Answer(format!("it has more than {longest} bytes"))),
        status => {
            let problem = Problem::new(status.as_u16(), &body.unwrap_or_default());
            Err(if status.is_server_error() { Error::Failed(problem) } else { Error::Refused(problem) })
        }
    }
}

impl ClientBuilder {
    /// The token or API key to send with every request.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> ClientBuilder {
        self.token = Some(token.into());
        self
    }

    /// How long publishing may take, and whatever else is answered at once: 30 seconds.
    #[must_use]
    pub fn publish_timeout(mut self, time: Duration) -> ClientBuilder {
        self.publish_timeout = time;
        self
    }

    /// The client.
    ///
    /// # Errors
    /// When the address or the token can't be used, or the system's certificates can't be read.
    pub fn build(self) -> Result<Client, Error> {
        let base = address(&self.url)?;
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT)
            .user_agent(concat!("tidings-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(Error::Http)?;
        Ok(Client { http, base, publish_timeout: self.publish_timeout })
    }
}

fn address(text: &str) -> Result<Url, Error> {
    let refuse = |reason: &str| Error::Address { url: text.to_owned(), reason: reason.to_owned() };
    let beginning = "it has to begin with http:// or https:// and a host";
    if !text.contains("://") {
        return Err(refuse(beginning));
    }
    let mut url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(refuse(beginning));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the HTTP client, whose headers have the token, nor more of the URL, which may have a password.
        write!(f, "Client({})", self.base.host_str().unwrap_or_default())
    }
}

impl fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder").field("has_token", &self.token.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_appended_to_the_address() {
        for (base, events) in [
            ("http://127.0.0.1:4600", "http://127.0.0.1:4600/events"),
            ("http://127.0.0.1:4600/", "http://127.0.0.1:4600/events"),
            ("https://example.org/tidings", "https://example.org/tidings/events"),
            ("https://example.org/a/b/?x=1#y", "https://example.org/a/b/events"),
        ] {
            assert_eq!(Client::builder(base).build().unwrap().at("events").as_str(), events);
        }
    }

    #[test]
    fn bad_addresses_and_tokens_are_refused() {
        for bad in ["", "127.0.0.1:4600", "localhost:4600", "/events", "ftp://example.org", "http://"] {
            assert!(matches!(Client::builder(bad).build(), Err(Error::Address { .. })), "{bad:?}");
        }
        for bare in ["127.0.0.1:4600", "localhost:4600", "push.example/tidings"] {
            let error = Client::builder(bare).build().unwrap_err().to_string();
            assert!(error.contains("begin with http:// or https://"), "{error}");
        }
        let error = Client::builder("http://a").token("secret\n").build().unwrap_err();
        assert!(matches!(error, Error::Token) && !error.to_string().contains("secret"));
    }

    #[test]
    fn a_token_is_not_in_the_debug_output() {
        let builder = Client::builder("http://a").token("canary");
        let client = builder.clone().build().unwrap();
        let subscription = client.subscribe(Subscribe::to(["a"]));
        assert!(!format!("{builder:?} {client:?} {subscription:?}").contains("canary"));
    }
}
