//! `tidings key`: API keys of services, kept as hashes in the data directory.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tidings::hub::Timestamp;
use tidings::server::auth::{ApiKey, ApiKeyError, ApiKeyFile, Template};

use crate::args;
use crate::config::{Config, Sources};
use crate::date::utc;
use crate::outcome::Usage;
use crate::output;

pub(crate) fn run(command: &args::Key) -> Result<()> {
    match command {
        args::Key::Create { name, grants, configured } => create(name.as_deref(), grants, configured),
        args::Key::List { json, configured } => list(*json, configured),
        args::Key::Revoke { key, configured } => revoke(key, configured),
    }
}

fn create(name: Option<&str>, grants: &args::Grants, configured: &args::Configured) -> Result<()> {
    let templates = grants.read()?;
    let (key, secret) = file(configured)?
        .create(name, &templates, grants.admin, Timestamp::now())
        .map_err(usage_or_failure)?;
    eprintln!("tidings: this is the only time that the key {} is shown", key.id);
    output::line(secret.expose())
}

fn list(as_json: bool, configured: &args::Configured) -> Result<()> {
    let keys = file(configured)?.list()?;
    if as_json {
        return keys.iter().try_for_each(|key| output::line(&describe(key).to_string()));
    }
    for key in &keys {
        let mut grants = Vec::new();
        for (what, patterns) in [
            ("subscribe", &key.grants.subscribe),
            ("publish", &key.grants.publish),
            ("presence", &key.grants.presence),
        ] {
            grants.extend(patterns.iter().map(|pattern| format!("{what} {pattern}")));
        }
        if key.admin {
            grants.push("admin".to_owned());
        }
        let name = key.name.as_deref().unwrap_or("-");
        output::line(&format!("{}  {name:<16}  {}  {}", key.id, utc(key.created), grants.join(", ")))?;
    }
    if keys.is_empty() {
        eprintln!("tidings: there are no keys; `tidings key create --help` shows how to make one");
    }
    Ok(())
}

fn describe(key: &ApiKey) -> Value {
    let texts = |patterns: &[Template]| {
        patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect::<Vec<_>>()
    };
    json!({
        "id": key.id,
        "name": key.name,
        "created": utc(key.created),
        "subscribe": texts(&key.grants.subscribe),
        "publish": texts(&key.grants.publish),
        "presence": texts(&key.grants.presence),
        "admin": key.admin,
    })
}

fn revoke(key: &str, configured: &args::Configured) -> Result<()> {
    let revoked = file(configured)?.revoke(key)?;
    let name = revoked.name.map(|name| format!(" ({name})")).unwrap_or_default();
    eprintln!("tidings: the key {}{name} is good no more", revoked.id);
    Ok(())
}

fn file(configured: &args::Configured) -> Result<ApiKeyFile> {
    let config = Config::check(Sources::gather(configured.config.as_deref(), configured.flags())?)?;
    config.auth.access.api_keys.context("there is no file of API keys")
}

/// What was typed wrong, and what went wrong.
fn usage_or_failure(error: ApiKeyError) -> anyhow::Error {
    match error {
        ApiKeyError::NeedsUser(_) | ApiKeyError::NoGrant | ApiKeyError::BadName => {
            Usage(error.to_string()).into()
        }
        error => error.into(),
    }
}
