//! `tidings history`: prints events that are kept.

use anyhow::Result;
use tidings::client::History;

use crate::args::{self, Order};
use crate::publish::explain;
use crate::show::Show;

/// How many events one answer of a server has at most.
const PAGE: u16 = 1000;

pub(crate) async fn run(args: args::History) -> Result<()> {
    let client = args.server.client()?;
    let show = Show { json: args.json, quiet: args.quiet };
    let (mut after, mut until) = (args.after.clone(), args.until.clone());
    let mut left = args.limit;
    let mut told = false;
    loop {
        let mut asked =
            History::of(&args.channels).limit(u16::try_from(left).map_or(PAGE, |left| left.min(PAGE)));
        if let Some(id) = &after {
            asked = asked.after(id);
        }
        if let Some(id) = &until {
            asked = asked.until(id);
        }
        if args.order == Order::Desc {
            asked = asked.newest_first();
        }
        let page = client.history(&asked).await.map_err(|error| explain(error, &args.server.url))?;
        // With the newest first every page says what is missing before the oldest.
        if let Some(gap) = page.gap.filter(|_| args.order == Order::Asc || !told) {
            told = true;
            show.gap(&gap)?;
        }
        for event in &page.events {
            show.event(event)?;
        }
        left = left.saturating_sub(page.events.len() as u64);
        let Some(next) = page.next else { return Ok(()) };
        let (place, flag) = match args.order {
            Order::Asc => (&mut after, "after"),
            Order::Desc => (&mut until, "until"),
        };
        if left == 0 {
            show.note(&format!("there is more: --{flag} {next}"));
            return Ok(());
        }
        *place = Some(next);
    }
}
