//! `tidings publish`: one event, or one for each line.

use std::io::{IsTerminal, Read};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidings::client::{Client, Error, Publish};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

use crate::args;
use crate::config::parse_duration;
use crate::outcome::Usage;
use crate::output;

/// How many lines are published in one request at most: enough that the request's cost does not count, few enough
/// that a line that is refused takes few others with it.
const BATCH_LINES: usize = 1000;
/// How many bytes of lines, well below what a server takes as one body.
const BATCH_BYTES: usize = 1 << 20;

pub(crate) async fn run(args: args::Publish) -> Result<()> {
    let (channel, data) = split(&args)?;
    let ttl =
        args.ttl.as_deref().map(parse_duration).transpose().map_err(|bad| Usage(format!("--ttl: {bad}")))?;
    let to = Template { channel, ttl, args: &args };
    let client = args.server.client()?;
    if args.stdin {
        return publish_lines(&client, &to).await;
    }
    let data = match data {
        None if !args.end => Some(read_standard_input()?),
        typed => typed,
    };
    let event = to.event(data)?;
    let published = client.publish(&event).await.map_err(|error| explain(error, &args.server.url))?;
    output::line(&published.id)
}

/// What was typed: the channel, if it is among the words, and the data, if it is.
fn split(args: &args::Publish) -> Result<(Option<String>, Option<String>)> {
    let named = !args.channel.is_empty() || !args.user.is_empty() || args.broadcast;
    let (channel, data) = match (args.words.as_slice(), named) {
        ([], true) => (None, None),
        ([data], true) => (None, Some(data.clone())),
        ([channel], false) => (Some(channel.clone()), None),
        ([channel, data], _) => (Some(channel.clone()), Some(data.clone())),
        _ => bail!(Usage(
            "where to? Name a channel, --user or --broadcast: tidings publish orders/7 'paid'".to_owned()
        )),
    };
    if args.stdin && data.is_some() {
        bail!(Usage("with --stdin the data comes from the standard input, so none can be typed".to_owned()));
    }
    Ok((channel, data))
}

fn read_standard_input() -> Result<String> {
    let mut data = String::new();
    std::io::stdin().read_to_string(&mut data).context("the standard input can't be read as UTF-8")?;
    // Nothing at all is a job without a terminal, or a command before the pipe that failed.
    if data.is_empty() && !std::io::stdin().is_terminal() {
        bail!(Usage(
            "there is no data, and nothing on the standard input; an empty event is sent with '' as the data: \
             tidings publish orders/7 ''"
                .to_owned()
        ));
    }
    // What `echo` puts at the end is not meant.
    Ok(data.strip_suffix('\n').map(str::to_owned).unwrap_or(data))
}

/// An event but for its data.
struct Template<'a> {
    channel: Option<String>,
    ttl: Option<Duration>,
    args: &'a args::Publish,
}

impl Template<'_> {
    fn event(&self, data: Option<String>) -> Result<Publish> {
        let mut event = Publish::to_nobody();
        for channel in self.channel.iter().chain(&self.args.channel) {
            event = event.channel(channel);
        }
        for user in &self.args.user {
            event = event.user(user);
        }
        if self.args.broadcast {
            event = event.everybody();
        }
        if let Some(kind) = &self.args.event {
            event = event.event(kind);
        }
        if let Some(ttl) = self.ttl {
            event = event.ttl(ttl);
        }
        if self.args.ephemeral {
            event = event.ephemeral();
        }
        if let Some(key) = &self.args.idempotency_key {
            event = event.idempotency_key(key);
        }
        if let Some(key) = &self.args.key {
            event = event.key(key);
        }
        for (name, value) in &self.args.tag {
            event = event.tag(name, value.clone());
        }
        if self.args.end {
            event = event.end();
        }
        let Some(data) = data else { return Ok(event) };
        if self.args.json {
            event.raw_json(data).map_err(|error| Usage(error.to_string()).into())
        } else {
            Ok(event.text(data))
        }
    }
}

/// Publishes lines as they come. Those that are there already when a request is answered share the next one.
async fn publish_lines(client: &Client, to: &Template<'_>) -> Result<()> {
    let (sender, mut lines) = mpsc::channel(BATCH_LINES);
    tokio::spawn(async move {
        let mut reader = BufReader::new(tokio::io::stdin()).lines();
        loop {
            let line = reader.next_line().await;
            let end = !matches!(line, Ok(Some(_)));
            if let Some(line) = line.transpose()
                && sender.send(line).await.is_err()
            {
                return;
            }
            if end {
                return;
            }
        }
    });
    let mut number = 0;
    let mut next = lines.recv().await;
    while let Some(line) = next.take() {
        let first = number + 1;
        let mut bytes = 0;
        let mut batch = Vec::new();
        let mut line = Some(line);
        while let Some(text) = line.take() {
            number += 1;
            let text = text.context("the standard input can't be read as UTF-8")?;
            bytes += text.len();
            batch.push(to.event(Some(text)).with_context(|| format!("line {number}"))?);
            if batch.len() < BATCH_LINES && bytes < BATCH_BYTES {
                line = lines.try_recv().ok();
            }
        }
        let published = client.publish_all(&batch).await;
        let published =
            published.map_err(|error| explain(error, &to.args.server.url)).with_context(|| {
                if first == number {
                    format!("line {number}")
                } else {
                    format!("lines {first} to {number}, none of them stored")
                }
            })?;
        for event in published {
            output::line(&event.id)?;
        }
        next = lines.recv().await;
    }
    Ok(())
}

/// An error with what to do about it.
pub(crate) fn explain(error: Error, url: &str) -> anyhow::Error {
    let hint = match &error {
        Error::Refused(problem) if problem.status == 401 => {
            Some("give a token in TIDINGS_TOKEN or an API key in TIDINGS_API_KEY; `tidings token` and `tidings key create` make them".to_owned())
        }
        Error::Refused(problem) if problem.status == 403 => {
            Some("the token does not grant this; `tidings token --help` shows how to grant".to_owned())
        }
        Error::Refused(problem) if problem.kind == "idempotency_key" => {
            Some("a key is for one event; take another for this one".to_owned())
        }
        Error::Refused(problem) if problem.kind == "ended" => {
            Some("its last event was published; the channel begins anew when that is gone".to_owned())
        }
        Error::NoAnswer(_) => Some(is_it_running(url)),
        _ => None,
    };
    match hint {
        Some(hint) => anyhow::anyhow!("{error}\n{hint}"),
        None => error.into(),
    }
}

/// What to look for where nobody answers.
pub(crate) fn is_it_running(url: &str) -> String {
    format!(
        "is a server running at {url}? `tidings serve --dev` starts one; --url or TIDINGS_URL says where it is"
    )
}
