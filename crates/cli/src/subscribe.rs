//! `tidings subscribe`: prints events as they come.

use anyhow::Result;
use tidings::client::{Closing, LostReason, Start, Subscribe, Subscription, Update};
use tokio::sync::watch;

use crate::acknowledge::acknowledge;
use crate::args;
use crate::publish::{explain, is_it_running};
use crate::show::Show;

pub(crate) async fn run(args: args::Subscribe) -> Result<()> {
    let client = args.server.client()?;
    let subscription = client.subscribe(asked(&args));
    let Some(name) = &args.subscription else { return read(&args, subscription, None).await };
    let (printed, newest) = watch::channel(String::new());
    let reading = read(&args, subscription, Some(printed));
    let acknowledging = acknowledge(&client, name, newest);
    tokio::pin!(reading, acknowledging);
    let not_acknowledged = |error| {
        explain(error, &args.server.url)
            .context("the last events printed are not acknowledged, and come again")
    };
    tokio::select! {
        read = &mut reading => {
            let acknowledged = acknowledging.await.map_err(not_acknowledged);
            read.and(acknowledged)
        }
        // As long as something is read, this ends only when it fails.
        acknowledged = &mut acknowledging => acknowledged.map_err(not_acknowledged),
    }
}

fn asked(args: &args::Subscribe) -> Subscribe {
    let start = match (&args.last_event_id, &args.history) {
        (Some(id), _) => Start::After(id.clone()),
        (None, Some(history)) => history.clone(),
        (None, None) if args.earliest => Start::Earliest,
        (None, None) => Start::Now,
    };
    let mut subscribe = Subscribe::to(&args.channels).start(start).envelope();
    if args.only {
        subscribe = subscribe.only();
    } else {
        subscribe = subscribe.control();
    }
    if args.presence {
        subscribe = subscribe.presence();
    }
    if let Some(filter) = &args.filter {
        subscribe = subscribe.filter(filter);
    }
    if let Some(name) = &args.subscription {
        subscribe = subscribe.subscription(name);
    }
    subscribe
}

/// Prints what comes until there is nothing more to come, or enough. `printed` is told how far that is.
async fn read(
    args: &args::Subscribe,
    mut subscription: Subscription,
    printed: Option<watch::Sender<String>>,
) -> Result<()> {
    let show = Show { json: args.json, quiet: args.quiet };
    let mut left = args.count.unwrap_or(u64::MAX);
    // Whether a server has answered, or it was asked if there is one.
    let mut known = false;
    while left > 0 {
        let update = match subscription.next().await {
            None => break,
            Some(update) => update.map_err(|error| explain(error, &args.server.url))?,
        };
        match update {
            Update::Event(event) => {
                show.event(&event)?;
                left -= 1;
            }
            Update::Gap(gap) => show.gap(&gap)?,
            Update::Skipped(count) => show.skipped(count)?,
            Update::Presence(presence) => {
                show.presence(&presence)?;
                continue;
            }
            update => {
                show.note(&meaning(args, &update));
                if let Update::Lost(lost) = &update
                    && matches!(lost.reason, LostReason::Transport(_))
                    && !known
                {
                    show.note(&is_it_running(&args.server.url));
                }
                known = true;
                continue;
            }
        }
        if let Some(printed) = &printed {
            printed.send_replace(subscription.last_event_id().to_owned());
        }
    }
    Ok(())
}

/// What happened to the connection.
fn meaning(args: &args::Subscribe, update: &Update) -> String {
    match update {
        Update::Open(open) => match &open.user {
            Some(user) => format!("connected to {} as {user}", args.server.url),
            None => format!("connected to {}", args.server.url),
        },
        Update::End => "there is nothing more to come".to_owned(),
        Update::Closing(closing) => match closing {
            Closing::Expired => "the token has ended",
            Closing::Kicked if args.subscription.is_some() => {
                "this connection is ended, perhaps by another one with the same subscription"
            }
            Closing::Kicked => "the server was told to end this connection",
            Closing::Overloaded => "the server holds no more streams now",
            Closing::Drain => "the server is stopping",
            _ => "the server ends this connection",
        }
        .to_owned(),
        Update::Lost(lost) => format!("{}; trying again in {:.1?}", lost.reason, lost.retry_in),
        // Not its data, which may be no business of whoever reads this.
        Update::Control(event) => {
            format!("the server says {}, which this version does not know", event.event)
        }
        _ => "the server says something that this version does not know".to_owned(),
    }
}
