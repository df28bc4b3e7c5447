//! Tidings itself as a target.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::{Command, Origin, Publish, Subscribe, Target, Template, Transport};

/// How a server is measured whose events go to users.
#[derive(Clone)]
pub struct Users {
    /// The same server, published to by user.
    pub(crate) target: Box<Target>,
    /// Signs a user's token.
    pub(crate) token: Arc<dyn Fn(&str) -> String + Send + Sync>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("target", &self.target.name).finish_non_exhaustive()
    }
}

impl Target {
    /// The server of this binary, started for each run with `--dev` and its log in memory. `secret` is what it is to
    /// check tokens with, and `token` signs a user's with that.
    pub fn tidings(
        binary: &Path,
        secret: &str,
        token: impl Fn(&str) -> String + Send + Sync + 'static,
    ) -> Target {
        let start = |log: &str| Origin::Command(started(binary, log, secret));
        let target = |log| Target { tidings: true, ..described("Tidings", start(log), None) };
        let mut to_users = target("memory");
        to_users.publish.path = Template::new("/publish?user={channel}");
        to_users.subscribe.path = Template::new("/events?control=0");
        let users = Users { target: Box::new(to_users), token: Arc::new(token) };
        Target { users: Some(users), durable: Some(Box::new(target("disk"))), ..target("memory") }
    }

    /// A Tidings server that runs already: `http://host:port/base`, and the token to use it with.
    ///
    /// # Errors
    ///
    /// When the URL is none of that form.
    pub fn running_tidings(url: &str, token: Option<&str>) -> Result<Target, String> {
        let (address, base) = super::file::split_url(url)?;
        let origin = Origin::Running { address, base, process: None };
        Ok(Target { tidings: true, ..described(url, origin, token) })
    }
}

fn started(binary: &Path, log: &str, secret: &str) -> Command {
    let mut argv = vec![Template::new(&binary.to_string_lossy())];
    let words = ["serve", "--dev", "--log", log, "--listen", "127.0.0.1:{port}", "--data-dir", "{tmp}/data"];
    argv.extend(words.map(Template::new));
    let env = [
        ("TIDINGS_LIMITS__PER_ADDRESS", "1000000"),
        ("TIDINGS_LIMITS__PER_USER", "1000000"),
        ("TIDINGS_LIMITS__CONNECTIONS", "1000000"),
        ("TIDINGS_LOG_LEVEL", "error"),
        ("TIDINGS_JWT_SECRET", secret),
    ];
    Command {
        argv,
        dir: std::env::temp_dir(),
        env: env.map(|(name, value)| (name.to_owned(), Template::new(value))).into(),
        process: None,
    }
}

fn described(name: &str, origin: Origin, token: Option<&str>) -> Target {
    let authorization: Vec<_> = token
        .map(|token| ("Authorization".to_owned(), Template::new(&format!("Bearer {token}"))))
        .into_iter()
        .collect();
    let mut headers = authorization.clone();
    headers.push(("Content-Type".to_owned(), Template::new("text/plain")));
    Target {
        name: name.to_owned(),
        origin,
        ready: Some("/readyz".to_owned()),
        transport: Transport::Sse,
        subscribe: Subscribe {
            path: Template::new("/events?control=0&channel={channel}"),
            more: Some(Template::new("&channel={channel}")),
            headers: authorization,
            hello: None,
            cursor: Vec::new(),
        },
        publish: Publish {
            method: "POST".to_owned(),
            port: None,
            path: Template::new("/publish?channel={channel}"),
            headers,
            body: Template::new("{data}"),
        },
        mark: crate::MARK.to_owned(),
        tidings: false,
        users: None,
        durable: None,
    }
}
