//! What others' filters, presence and durable subscriptions cost who uses none of them.

use super::{CHECK_EVERY, Load, Setting, Used, following, spelled};
use crate::clients::{Following, Group};
use crate::error::BenchError;
use crate::results::{Figure, Run, Unit};
use crate::target::{Target, Template};

/// One in so many subscribers is one of the others.
const OTHERS: usize = 10;

/// The same deliveries twice: the others ask for a channel and no more, then for all there is.
pub(super) fn featured(setting: &Setting<'_>) -> Result<Run, BenchError> {
    let settings = setting.settings;
    let Some(users) = setting.target.users.as_ref() else {
        return Err(BenchError::Unsupported("it takes a server whose tokens can be signed here".to_owned()));
    };
    let others = (settings.subscribers / OTHERS).max(1);
    let plain = (settings.subscribers - others).max(1);
    let of_user = |number: usize, more: &str| {
        let user = format!("u{number}");
        Following { count: 1, channels: vec![1], more: format!("&token={}{more}", (users.token)(&user)) }
    };
    let asking =
        "&presence=1&control=1&subscription=bench&filter=!has(region)%7C%7Cregion%20in%20%5B%22eu%22%5D";
    let measure = |more: &str| -> Result<(Group, Used, bool), BenchError> {
        let server = setting.server()?;
        let mut clients = setting.clients(settings.subscribers)?;
        (setting.say)("connecting");
        clients.connect(&server, setting.target, 0, &[following(plain, vec![0])], CHECK_EVERY)?;
        let mut talkative: Target = setting.target.clone();
        talkative.subscribe.path = Template::new("/events?channel={channel}");
        let users: Vec<_> = (0..others).map(|number| of_user(number, more)).collect();
        clients.connect(&server, &talkative, 1, &users, CHECK_EVERY)?;
        let load = Load {
            rate: settings.rate * 2.0,
            seconds: settings.seconds,
            channels: 2,
            sizes: vec![settings.size],
            receivers: vec![plain as u64, 0],
        };
        let (group, used) = setting.open_loop(&server, &mut clients, &load)?;
        Ok((group, used, server.is_accounted()))
    };
    let (without, used_without, accounted) = measure("")?;
    let (with, used_with, _) = measure(asking)?;
    let at = |group: &Group, quantile| group.latencies.value_at_quantile(quantile) as f64;
    let ratio = |quantile| at(&with, quantile) / at(&without, quantile).max(1.0);
    let mut figures = vec![
        Figure::lower("p50 to without", ratio(0.5), Unit::Ratio),
        Figure::lower("p99 to without", ratio(0.99), Unit::Ratio),
    ];
    if accounted {
        let each = |group: &Group, used: Used| used.cpu * 1e6 / group.counted.max(1) as f64;
        let (before, after) = (each(&without, used_without), each(&with, used_with));
        figures.push(Figure::lower("CPU to without", after / before.max(0.001), Unit::Ratio));
        figures.push(Figure::lower("CPU a delivery without", before, Unit::Micros));
        figures.push(Figure::lower("CPU a delivery with", after, Unit::Micros));
    }
    figures.push(Figure::lower("latency p50 without", at(&without, 0.5), Unit::Micros));
    figures.push(Figure::lower("latency p50 with", at(&with, 0.5), Unit::Micros));
    figures.push(Figure::lower("latency p99 without", at(&without, 0.99), Unit::Micros));
    figures.push(Figure::lower("latency p99 with", at(&with, 0.99), Unit::Micros));
    let title = format!(
        "{} subscribers of one channel, {} of another, with and without filters, presence and durable subscriptions of these, {} events/s of {} bytes to each, {} s",
        spelled(plain),
        spelled(others),
        settings.rate,
        settings.size,
        settings.seconds
    );
    let mut run = setting.run(title, figures);
    run.violations = without.violations;
    run.violations.extend(with.violations);
    used_without.or(used_with).note(&mut run);
    Ok(run)
}
