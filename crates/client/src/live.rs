//! Other channels on a subscription that runs.

use reqwest::Method;
use serde::{Deserialize, Serialize};

use crate::{Error, Subscription};

#[derive(Serialize)]
struct Change<'a> {
    connection: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
    channels: &'a [String],
}

#[derive(Deserialize)]
struct Changed {
    from: String,
}

impl Subscription {
    /// Adds channels or patterns to the subscription as it runs, and to what it asks for when it reconnects.
    ///
    /// The answer is the cursor from which on they come on this stream. What lies before it is to be had from
    /// [`Client::history`](crate::Client::history), with [`History::until`](crate::History::until). If the connection is
    /// lost before the stream has got that far, it goes on from its own last id with all its channels, so that events
    /// from before the cursor may come once more.
    ///
    /// While there is no connection the next one asks for them, and the answer is the id that it goes on from; empty if
    /// there is none yet.
    ///
    /// With [`Subscribe::presence`](crate::Subscribe::presence) who is in an added channel is told from the next
    /// connection on. That asks for the presence of all channels, so that a pattern, or a channel without such a grant,
    /// would end the subscription then.
    ///
    /// # Errors
    /// [`Error::Refused`] when a channel is not granted, or there would be more than 100. Nothing is added then. After
    /// [`Error::NoAnswer`] they may have been added until the next reconnect; adding them again does no harm.
    pub async fn add(
        &mut self,
        channels: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<String, Error> {
        let channels: Vec<String> = channels.into_iter().map(Into::into).collect();
        let from = self.change(Method::POST, &channels).await?;
        for channel in channels {
            if !self.subscribe.channels.contains(&channel) {
                self.subscribe.channels.push(channel);
            }
        }
        Ok(from)
    }

    /// Takes channels or patterns away, by the words in which they were asked for; as [`Subscription::add`].
    ///
    /// # Errors
    /// As [`Subscription::add`].
    pub async fn remove(
        &mut self,
        channels: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<String, Error> {
        let channels: Vec<String> = channels.into_iter().map(Into::into).collect();
        let from = self.change(Method::DELETE, &channels).await?;
        self.subscribe.channels.retain(|channel| !channels.contains(channel));
        Ok(from)
    }

    async fn change(&mut self, method: Method, channels: &[String]) -> Result<String, Error> {
        if channels.is_empty() {
            return Ok(self.last_event_id().to_owned());
        }
        if let Some(handle) = self.handle() {
            let change =
                Change { connection: &handle.connection, secret: handle.secret.as_deref(), channels };
            match self.client.send(method, "subscriptions", serde_json::to_vec(&change), None).await {
                Ok(Changed { from }) => return Ok(from),
                // The connection is lost, and nothing has come of that here yet; or it is on another node.
                Err(Error::Refused(problem)) if problem.status == 404 => {}
                Err(error) => return Err(error),
            }
        }
        self.ask_anew();
        Ok(self.last_event_id().to_owned())
    }
}
