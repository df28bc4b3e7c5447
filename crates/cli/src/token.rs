//! `tidings token`: makes a JWT and prints it.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tidings::hub::Timestamp;
use tidings::server::auth::{KeyConfig, KeySource, NewToken, Secrets};
use tidings::wire::UserId;

use crate::args;
use crate::config::{Config, Sources, parse_duration};
use crate::outcome::Usage;
use crate::output;

/// A token can't be taken back before its end, so that one for longer than ten years is a mistake.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);

pub(crate) fn run(args: &args::Token) -> Result<()> {
    let user: Option<UserId> = match &args.sub {
        Some(sub) => Some(sub.parse().map_err(|bad| Usage(format!("--sub {sub:?} is no user: {bad}")))?),
        None => None,
    };
    let ttl = parse_duration(&args.ttl).map_err(|bad| Usage(format!("--ttl: {bad}")))?;
    if ttl.is_zero() || ttl > LONGEST {
        bail!(Usage("--ttl has to be more than nothing and at most 3650d".to_owned()));
    }
    let info = match &args.info {
        Some(info) => Some(serde_json::from_str(info).map_err(|bad| {
            Usage(format!("--info has to be a JSON object, like {{\"name\":\"Ada\"}}: {bad}"))
        })?),
        None => None,
    };
    let token = NewToken { user, grants: args.grants.read()?, admin: args.grants.admin, info, ttl };
    if token.user.is_none() && token.grants == Default::default() && !token.admin {
        bail!(Usage(
            "a token for whom, or for what? Give --sub, --subscribe, --publish, --presence or --admin"
                .to_owned()
        ));
    }
    let configured = &args.configured;
    let config = Config::check(Sources::gather(configured.config.as_deref(), configured.flags())?)?;
    let key = signing_key(&config)?;
    let signed = token.sign(&key, &config.auth.access.claim, Timestamp::now())?;
    output::line(signed.expose())
}

/// The first configured key that can sign; without any the one in the data directory, made now if the server has not
/// been started yet.
fn signing_key(config: &Config) -> Result<KeyConfig> {
    let keys = &config.auth.access.keys;
    if keys.is_empty() {
        let is_new = !config.data_dir.join(Secrets::FILE).exists();
        let secrets =
            Secrets::load_or_create(&config.data_dir).context("the data directory's secret can't be had")?;
        if is_new {
            let dir = config.data_dir.display();
            eprintln!(
                "tidings: made a new secret in {dir}; the token is good for a server with that --data-dir"
            );
        }
        return Ok(KeyConfig::secret(secrets.jwt));
    }
    let shared = keys.iter().find(|key| matches!(key.source, KeySource::Secret(_)));
    Ok(shared.unwrap_or(&keys[0]).clone())
}
