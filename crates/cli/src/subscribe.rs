//! `tidings subscribe`: prints events as they come.

use anyhow::Result;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tidings::client::{Client, Closing, Event, Start, Subscribe, Update};

use crate::args;
use crate::outcome::Usage;
use crate::output;
use crate::publish::explain;

pub(crate) async fn run(args: args::Subscribe) -> Result<()> {
    let mut client = Client::builder(&args.server.url);
    if let Some(token) = args.server.token() {
        client = client.token(token);
    }
    let client = client.build().map_err(|error| Usage(error.to_string()))?;
    let start = match (&args.last_event_id, args.history) {
        (Some(id), _) => Start::After(id.clone()),
        (None, Some(count)) => Start::History(count),
        (None, None) if args.earliest => Start::Earliest,
        (None, None) => Start::Now,
    };
    let mut subscribe = Subscribe::to(&args.channels).start(start).envelope();
    if args.only {
        subscribe = subscribe.only();
    }
    if let Some(filter) = &args.filter {
        subscribe = subscribe.filter(filter);
    }
    let mut subscription = client.subscribe(subscribe);
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match subscription.next().await {
            None => break,
            Some(Err(error)) => return Err(explain(error, &args.server.url)),
            Some(Ok(Update::Event(event))) => {
                print(&args, &event)?;
                left -= 1;
            }
            Some(Ok(update)) => tell(&args, update)?,
        }
    }
    Ok(())
}

fn print(args: &args::Subscribe, event: &Event) -> Result<()> {
    if args.json {
        return output::line(&as_json(event));
    }
    let channel = event.channel.as_deref().unwrap_or_default();
    match event.event.as_str() {
        "message" => output::line(&format!("{channel}  {}", event.data)),
        kind => output::line(&format!("{channel}  {kind}  {}", event.data)),
    }
}

/// `{"id","channel","event","data","time"}`: what was published as JSON is JSON here too, as it came.
fn as_json(event: &Event) -> String {
    let data = match RawValue::from_string(event.data.clone()) {
        Ok(raw) if !event.is_text => raw.get().to_owned(),
        _ => Value::from(event.data.as_str()).to_string(),
    };
    let text = |text: &str| Value::from(text).to_string();
    format!(
        "{{\"id\":{},\"channel\":{},\"event\":{},\"data\":{data},\"time\":{}}}",
        text(&event.id),
        event.channel.as_deref().map_or("null".to_owned(), text),
        text(&event.event),
        event.time.map_or("null".to_owned(), |time| time.to_string()),
    )
}

/// What happens to the connection is for people, but a gap is for programs too.
fn tell(args: &args::Subscribe, update: Update) -> Result<()> {
    match update {
        Update::Open(open) => match &open.user {
            Some(user) => note(args, &format!("connected to {} as {user}", args.server.url)),
            None => note(args, &format!("connected to {}", args.server.url)),
        },
        Update::Gap(gap) => {
            note(args, &format!("events are missing here: {}", meaning(&gap.reason)));
            if args.json {
                let data = json!({"reason": gap.reason, "from": gap.from, "to": gap.to});
                output::line(&json!({"event": "tidings:gap", "data": data}).to_string())?;
            }
        }
        Update::End => note(args, "there is nothing more to come"),
        Update::Closing(closing) => note(
            args,
            match closing {
                Closing::Expired => "the token has ended",
                Closing::Kicked => "the server was told to end this connection",
                Closing::Overloaded => "the server holds no more streams now",
                Closing::Drain => "the server is stopping",
                _ => "the server ends this connection",
            },
        ),
        Update::Lost(lost) => note(args, &format!("{}; trying again in {:.1?}", lost.reason, lost.retry_in)),
        _ => {}
    }
    Ok(())
}

fn meaning(reason: &str) -> String {
    match reason {
        "expired" => "they are not kept any more".to_owned(),
        "unknown" => "the id to go on from is none of this server's".to_owned(),
        "epoch" => "the server's log was set back to an earlier state".to_owned(),
        "limit" => "there were more than are replayed at once".to_owned(),
        other => other.to_owned(),
    }
}

fn note(args: &args::Subscribe, text: &str) {
    if !args.quiet {
        eprintln!("tidings: {text}");
    }
}
