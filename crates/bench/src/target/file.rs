//! A target's file.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Command, Cursor, Origin, Place, Process, Publish, Subscribe, Target, Template, Transport};

/// Why a file is no target.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The file can't be read.
    #[error("the target {} can't be read: {error}", file.display())]
    Unreadable {
        /// Which file.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It isn't TOML, or has a field that there is not, or lacks one.
    #[error("the target {} is wrong: {error}", file.display())]
    Malformed {
        /// Which file.
        file: PathBuf,
        /// What and where.
        error: Box<toml::de::Error>,
    },
    /// Its fields don't go together.
    #[error("the target {} is wrong: {what}", file.display())]
    Contradictory {
        /// Which file.
        file: PathBuf,
        /// What to do about it.
        what: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    command: Option<Vec<String>>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    url: Option<String>,
    ready: Option<String>,
    #[serde(default = "sse")]
    transport: Transport,
    subscribe: String,
    subscribe_more: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    hello: Option<String>,
    #[serde(default)]
    cursor: OneOrMany,
    publish: RawPublish,
    #[serde(default = "default_mark")]
    mark: String,
    pid: Option<u32>,
    pid_file: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPublish {
    #[serde(default = "post")]
    method: String,
    port: Option<String>,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default = "just_the_data")]
    body: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCursor {
    header: Option<String>,
    json: Option<String>,
    into_header: Option<String>,
    into_query: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(RawCursor),
    Many(Vec<RawCursor>),
}

impl Default for OneOrMany {
    fn default() -> OneOrMany {
        OneOrMany::Many(Vec::new())
    }
}

fn sse() -> Transport {
    Transport::Sse
}

fn default_mark() -> String {
    crate::MARK.to_owned()
}

fn post() -> String {
    "POST".to_owned()
}

fn just_the_data() -> String {
    "{data}".to_owned()
}

impl Target {
    /// Reads a target's file.
    ///
    /// # Errors
    ///
    /// When it can't be read or is wrong; the error says where.
    pub fn read(file: &Path) -> Result<Target, TargetError> {
        let text = fs::read_to_string(file)
            .map_err(|error| TargetError::Unreadable { file: file.to_owned(), error })?;
        // A command runs in the folder, so that the path has to hold after a change of folder.
        let dir = file.canonicalize().ok().and_then(|file| file.parent().map(Path::to_owned));
        Target::parse(&text, file, &dir.unwrap_or_default())
    }

    fn parse(text: &str, file: &Path, dir: &Path) -> Result<Target, TargetError> {
        let raw: Raw = toml::from_str(text)
            .map_err(|error| TargetError::Malformed { file: file.to_owned(), error: Box::new(error) })?;
        raw.check(dir).map_err(|what| TargetError::Contradictory { file: file.to_owned(), what })
    }
}

impl Raw {
    fn check(self, dir: &Path) -> Result<Target, String> {
        let process = match (self.pid, self.pid_file) {
            (None, None) => None,
            (Some(pid), None) => Some(Process::Id(pid)),
            (None, Some(file)) => Some(Process::File(Template::new(&dir.join(file).to_string_lossy()))),
            (Some(_), Some(_)) => return Err("give pid or pid_file, not both".to_owned()),
        };
        let origin = match (self.command, self.url) {
            (Some(argv), None) if !argv.is_empty() => Origin::Command(Command {
                argv: argv.iter().map(|word| Template::new(word)).collect(),
                dir: dir.to_owned(),
                env: templates(&self.env),
                process,
            }),
            (Some(_), None) => {
                return Err("command is empty; it is a list like [\"node\", \"server.js\"]".to_owned());
            }
            (None, Some(url)) => {
                let (address, base) = split_url(&url)?;
                Origin::Running { address, base, process }
            }
            _ => return Err("give command (it is started) or url (it runs already)".to_owned()),
        };
        let cursor = match self.cursor {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        };
        let cursor: Vec<Cursor> = cursor.into_iter().map(RawCursor::check).collect::<Result<_, _>>()?;
        if !cursor.is_empty() && self.transport != Transport::LongPolling {
            return Err("cursor is for transport = \"long-polling\"".to_owned());
        }
        if self.hello.is_some() && self.transport != Transport::Websocket {
            return Err("hello is for transport = \"websocket\"".to_owned());
        }
        if self.mark.is_empty() {
            return Err("mark is empty: every event would be any byte".to_owned());
        }
        let paths = [Some(&self.subscribe), Some(&self.publish.path), self.ready.as_ref()];
        if let Some(path) = paths.into_iter().flatten().find(|path| !path.starts_with('/')) {
            return Err(format!("{path:?} has to begin with /"));
        }
        Ok(Target {
            name: self.name,
            origin,
            ready: self.ready,
            transport: self.transport,
            subscribe: Subscribe {
                path: Template::new(&self.subscribe),
                more: self.subscribe_more.as_deref().map(Template::new),
                headers: templates(&self.headers),
                hello: self.hello.as_deref().map(Template::new),
                cursor,
            },
            publish: Publish {
                method: self.publish.method,
                port: self.publish.port.as_deref().map(Template::new),
                path: Template::new(&self.publish.path),
                headers: templates(&self.publish.headers),
                body: Template::new(&self.publish.body),
            },
            mark: self.mark,
            tidings: false,
            users: None,
            durable: None,
        })
    }
}

impl RawCursor {
    fn check(self) -> Result<Cursor, String> {
        let from = match (self.header, self.json) {
            (Some(header), None) => Place::Header(header),
            (None, Some(field)) => Place::Json(field),
            _ => return Err("a cursor comes from one of header and json".to_owned()),
        };
        let into = match (self.into_header, self.into_query) {
            (Some(header), None) => Place::Header(header),
            (None, Some(parameter)) => Place::Query(parameter),
            _ => return Err("a cursor is sent in one of into_header and into_query".to_owned()),
        };
        Ok(Cursor { from, into })
    }
}

fn templates(of: &BTreeMap<String, String>) -> Vec<(String, Template)> {
    of.iter().map(|(name, text)| (name.clone(), Template::new(text))).collect()
}

/// From `http://host:port/base` to `host:port` and `/base`.
pub(crate) fn split_url(url: &str) -> Result<(String, String), String> {
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(format!(
            "{url:?} is not measured: only http:// is. Name the address behind the TLS, like http://127.0.0.1:4600"
        ));
    };
    let (address, base) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if address.is_empty() {
        return Err(format!("{url:?} names no host"));
    }
    let has_port =
        address.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok()) && address.contains(':');
    let address = if has_port { address.to_owned() } else { format!("{address}:80") };
    Ok((address, base.trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Origin, Place, Target, Transport, Values};

    fn parse(text: &str) -> Result<Target, String> {
        Target::parse(text, Path::new("x/target.toml"), Path::new("/x")).map_err(|error| error.to_string())
    }

    const NODE: &str = r#"
        name = "express"
        command = ["node", "server.js", "{port}"]
        ready = "/health"
        subscribe = "/events/{channel}"
        publish = { path = "/publish/{channel}", headers = { Content-Type = "text/plain" } }
    "#;

    #[test]
    fn a_file_with_the_least() {
        let target = parse(NODE).unwrap();
        assert_eq!(target.transport, Transport::Sse);
        assert_eq!((target.publish.method.as_str(), target.mark.as_str()), ("POST", "@@"));
        let values = Values { channel: "c1", data: "hello", ports: [81, 82, 83], tmp: "/tmp/t" };
        assert_eq!(target.publish.body.fill(&values), "hello");
        assert_eq!(target.subscribe.path.fill_path(&values), "/events/c1");
        let Origin::Command(command) = target.origin else { panic!() };
        assert_eq!(command.argv[2].fill(&values), "81");
        assert_eq!(command.dir, Path::new("/x"));
    }

    #[test]
    fn long_polling_takes_its_cursors_along() {
        let target = parse(
            r#"
            name = "nchan"
            url = "http://localhost:8080/push/"
            transport = "long-polling"
            subscribe = "/sub/{channel}"
            cursor = [
                { header = "Last-Modified", into_header = "If-Modified-Since" },
                { json = "last_event_id", into_query = "after" },
            ]
            [publish]
            path = "/pub/{channel}"
            "#,
        )
        .unwrap();
        assert_eq!(target.subscribe.cursor[1].from, Place::Json("last_event_id".to_owned()));
        let Origin::Running { address, base, .. } = target.origin else { panic!() };
        assert_eq!((address.as_str(), base.as_str()), ("localhost:8080", "/push"));
    }

    #[test]
    fn mistakes_say_what_to_do() {
        let both = NODE.replace("ready", "url = \"http://x\"\nready");
        assert!(parse(&both).unwrap_err().contains("command (it is started) or url"));
        assert!(parse(&NODE.replace("/health", "health")).unwrap_err().contains("begin with /"));
        assert!(parse(&NODE.replace("ready", "raedy")).unwrap_err().contains("raedy"));
        let tls = NODE.replace(r#"command = ["node", "server.js", "{port}"]"#, "url = \"https://x\"");
        assert!(parse(&tls).unwrap_err().contains("only http://"));
        assert!(parse(&format!("hello = \"x\"\n{NODE}")).unwrap_err().contains("websocket"));
    }
}
