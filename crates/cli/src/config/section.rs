//! Reading one section: each setting is taken by its name and type, mistakes are collected, what is left is unknown.

use std::cell::RefCell;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use tidings::log_redis::Ack;
use tidings::server::BasePath;
use tidings::wire::Pattern;
use tidings_ingest_redis::{StreamName, Topic};

use super::source::{Node, Origin, Raw, Table};
use super::units::{parse_duration, parse_size, show_duration, show_size};
use super::{Entry, Mistake};

/// What was found while reading: mistakes, and the value of every setting.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) mistakes: Vec<Mistake>,
    pub(crate) entries: Vec<Entry>,
}

/// One section under reading.
pub(crate) struct Section<'f> {
    findings: &'f RefCell<Findings>,
    /// As it stands in a file: ``, `[limits]`, `[[retention]]`.
    heading: String,
    origin: Origin,
    table: Table,
    /// What was asked for, and where it was written.
    known: Vec<(&'static str, Option<Origin>)>,
    /// Whether a setting of this section was noted already.
    noted: bool,
}

impl<'f> Section<'f> {
    pub(crate) fn root(table: Table, findings: &'f RefCell<Findings>) -> Section<'f> {
        Section {
            findings,
            heading: String::new(),
            origin: Origin::Default,
            table,
            known: Vec::new(),
            noted: false,
        }
    }

    /// Where the section begins.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// A setting, or its default when it is absent or wrong.
    pub(crate) fn get<T: Setting>(&mut self, name: &'static str, default: T) -> T {
        self.find(name).unwrap_or_else(|| {
            self.enter(name, default.show(), Origin::Default);
            default
        })
    }

    /// A setting that need not be there.
    pub(crate) fn find<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        let node = self.take(name)?;
        match T::read(&node) {
            Ok(value) => {
                self.enter(name, value.show(), node.origin);
                Some(value)
            }
            Err(what) => {
                self.mistake_in(name, node.origin, &what);
                None
            }
        }
    }

    /// Reports what is wrong with a setting's value. Named once: a flag and a variable are the setting's name already.
    fn mistake_in(&self, name: &str, origin: Origin, what: &str) {
        let named = match &origin {
            Origin::Flag(_) => true,
            Origin::Environment(variable) => variable.starts_with("TIDINGS_"),
            Origin::File { .. } | Origin::Default => false,
        };
        let what = if named { what.to_owned() } else { format!("{}: {what}", self.full_name(name)) };
        self.mistake(origin, what);
    }

    /// A setting that lies between two values.
    pub(crate) fn within<T: Setting + PartialOrd>(
        &mut self,
        name: &'static str,
        default: T,
        range: RangeInclusive<T>,
    ) -> T {
        self.find_within(name, range).unwrap_or_else(|| {
            self.enter(name, default.show(), Origin::Default);
            default
        })
    }

    /// A setting that need not be there, and lies between two values if it is.
    pub(crate) fn find_within<T: Setting + PartialOrd>(
        &mut self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let origin = self.origin_of(name);
        let value = self.find(name)?;
        if range.contains(&value) {
            return Some(value);
        }
        let (least, most) = (range.start().show(), range.end().show());
        self.mistake_in(name, origin, &format!("{} lies outside of {least} to {most}", value.show()));
        None
    }

    /// A section inside this one, empty when it is absent.
    pub(crate) fn section(&mut self, name: &'static str) -> Section<'f> {
        let heading = format!("[{}]", self.full_name(name));
        let (table, origin) = match self.take(name) {
            Some(Node { value: Raw::Table(table), origin }) => (table, origin),
            Some(node) => {
                self.mistake(
                    node.origin.clone(),
                    format!("{} is a section: write {heading}", self.full_name(name)),
                );
                (Table::new(), node.origin)
            }
            None => (Table::new(), Origin::Default),
        };
        Section { findings: self.findings, heading, origin, table, known: Vec::new(), noted: false }
    }

    /// Sections that may be there more than once.
    pub(crate) fn sections(&mut self, name: &'static str) -> Vec<Section<'f>> {
        let heading = format!("[[{}]]", self.full_name(name));
        let Some(node) = self.take(name) else { return Vec::new() };
        let items = match node.value {
            Raw::List(items) => items,
            _ => {
                self.mistake(
                    node.origin,
                    format!("{} is a list of sections: write {heading}", self.full_name(name)),
                );
                return Vec::new();
            }
        };
        items
            .into_iter()
            .filter_map(|item| match item.value {
                Raw::Table(table) => Some(Section {
                    findings: self.findings,
                    heading: heading.clone(),
                    origin: item.origin,
                    table,
                    known: Vec::new(),
                    noted: false,
                }),
                _ => {
                    self.mistake(
                        item.origin,
                        format!("each {} is a section: write {heading}", self.full_name(name)),
                    );
                    None
                }
            })
            .collect()
    }

    /// Whether a setting was written, right or wrong.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name) || self.known.iter().any(|(known, at)| *known == name && at.is_some())
    }

    /// Whether nothing at all was written in this section, not even its heading.
    pub(crate) fn is_unsaid(&self) -> bool {
        self.origin == Origin::Default
    }

    /// One more section of a name, with nothing said in it.
    pub(crate) fn unsaid(&self, name: &'static str) -> Section<'f> {
        Section {
            findings: self.findings,
            heading: format!("[[{}]]", self.full_name(name)),
            origin: Origin::Default,
            table: Table::new(),
            known: Vec::new(),
            noted: false,
        }
    }

    /// A name that a later version will have: refused, so that nobody relies on what does not happen.
    pub(crate) fn later(&mut self, name: &'static str) {
        if let Some(node) = self.take(name) {
            self.mistake(node.origin, format!("{} is not in this version yet", self.full_name(name)));
        }
    }

    /// Reports a mistake of the section as a whole.
    pub(crate) fn mistake(&self, origin: Origin, what: String) {
        self.findings.borrow_mut().mistakes.push(Mistake { origin, what });
    }

    /// Where a setting was written; the section's beginning when it was not.
    pub(crate) fn origin_of(&self, name: &str) -> Origin {
        let taken =
            self.known.iter().find(|(known, _)| *known == name).and_then(|(_, origin)| origin.clone());
        let waiting = || self.table.get(name).map(|node| node.origin.clone());
        taken.or_else(waiting).unwrap_or_else(|| self.origin.clone())
    }

    /// Whatever was not taken is unknown.
    pub(crate) fn finish(self) {
        let known: Vec<&str> = self.known.iter().map(|(name, _)| *name).collect();
        for (name, node) in &self.table {
            let full = self.full_name(name);
            let hint = match similar(name, &known) {
                Some(near) => format!(", did you mean {}?", self.full_name(near)),
                None => format!("; known here: {}", known.join(", ")),
            };
            self.mistake(node.origin.clone(), format!("{full} is not a setting{hint}"));
        }
    }

    /// Notes a setting's value for `tidings check`.
    fn enter(&mut self, name: &'static str, value: String, origin: Origin) {
        let heading = self.heading.clone();
        let begins = !std::mem::replace(&mut self.noted, true);
        self.findings.borrow_mut().entries.push(Entry { heading, begins, name, value, origin });
    }

    fn take(&mut self, name: &'static str) -> Option<Node> {
        let node = self.table.remove(name);
        self.known.push((name, node.as_ref().map(|node| node.origin.clone())));
        node
    }

    fn full_name(&self, name: &str) -> String {
        match self.heading.trim_matches(['[', ']']) {
            "" => name.to_owned(),
            section => format!("{section}.{name}"),
        }
    }
}

/// The known name that was probably meant.
pub(crate) fn similar<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let name = name.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|near| (distance(&name, near), *near))
        .filter(|(distance, near)| *distance <= near.len().max(3) / 3)
        .min()
        .map(|(_, near)| near)
}

/// How many letters have to be put in, left out, replaced or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i.max(j)
            } else {
                let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if swapped { best.min(rows[i - 2][j - 2] + 1) } else { best }
            };
        }
    }
    rows[a.len()][b.len()]
}

/// A type that a setting can have.
pub(crate) trait Setting: Sized {
    /// From what was written; the error says what would be right.
    fn read(node: &Node) -> Result<Self, String>;
    /// As it stands in a file.
    fn show(&self) -> String;
}

impl Setting for String {
    fn read(node: &Node) -> Result<String, String> {
        match &node.value {
            Raw::String(text) | Raw::Text(text) => Ok(text.clone()),
            other => Err(format!("expected a text in quotes, found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        quoted(self)
    }
}

impl Setting for bool {
    fn read(node: &Node) -> Result<bool, String> {
        match &node.value {
            Raw::Boolean(is) => Ok(*is),
            Raw::Text(text) if text == "true" || text == "1" => Ok(true),
            Raw::Text(text) if text == "false" || text == "0" => Ok(false),
            Raw::Text(text) => Err(format!("expected true or false, found {text:?}")),
            other => Err(format!("expected true or false, found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for u64 {
    fn read(node: &Node) -> Result<u64, String> {
        match &node.value {
            Raw::Integer(number) => {
                u64::try_from(*number).map_err(|_| format!("{number} is less than nothing"))
            }
            Raw::Text(text) => text.parse().map_err(|_| format!("expected a whole number, found {text:?}")),
            other => Err(format!("expected a whole number, found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for Duration {
    fn read(node: &Node) -> Result<Duration, String> {
        match &node.value {
            Raw::String(text) | Raw::Text(text) => parse_duration(text),
            Raw::Integer(number) => Err(format!("write the unit, like \"{number}s\"")),
            other => Err(format!("expected a duration like \"15s\", found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        quoted(&show_duration(*self))
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

impl Setting for Size {
    fn read(node: &Node) -> Result<Size, String> {
        match &node.value {
            Raw::String(text) | Raw::Text(text) => parse_size(text).map(Size),
            Raw::Integer(number) => Err(format!("write the unit, like \"{number}B\" or \"1MiB\"")),
            other => Err(format!("expected a size like \"1MiB\", found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        quoted(&show_size(self.0))
    }
}

impl Setting for PathBuf {
    fn read(node: &Node) -> Result<PathBuf, String> {
        match String::read(node)?.as_str() {
            "" => Err("a path can't be empty".to_owned()),
            path => Ok(PathBuf::from(path)),
        }
    }

    fn show(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

/// An IP address or a name, and a port. A name is looked up when the configuration is read; of several addresses the
/// first counts, those of IPv4 before the others: what commands of this program connect to by themselves is 127.0.0.1.
impl Setting for SocketAddr {
    fn read(node: &Node) -> Result<SocketAddr, String> {
        let text = String::read(node)?;
        if let Ok(address) = text.parse() {
            return Ok(address);
        }
        let named = text.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?)));
        let (name, port) = named.filter(|(name, _)| is_host_name(name)).ok_or_else(|| {
            format!("{text:?} is not an address: write HOST:PORT, like 127.0.0.1:4600, localhost:4600 or [::1]:4600 (0.0.0.0:4600 for all)")
        })?;
        let found = (name, port).to_socket_addrs();
        let found =
            found.map_err(|error| format!("{text:?} can't be used: {name} has no address here: {error}"))?;
        found
            .min_by_key(SocketAddr::is_ipv6)
            .ok_or_else(|| format!("{text:?} can't be used: {name} has no address here"))
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// A text that its own type reads.
macro_rules! parsed {
    ($($name:ty),*) => {$(
        impl Setting for $name {
            fn read(node: &Node) -> Result<$name, String> {
                let text = String::read(node)?;
                <$name>::from_str(&text).map_err(|error| format!("{text:?} can't be used: {error}"))
            }

            fn show(&self) -> String {
                quoted(&self.to_string())
            }
        }
    )*};
}

parsed!(Ack, BasePath, Pattern, StreamName, Topic);

/// Something that is never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hidden(pub(crate) String);

impl Setting for Hidden {
    fn read(node: &Node) -> Result<Hidden, String> {
        match &node.value {
            Raw::String(text) | Raw::Text(text) if text.is_empty() => Err("it is empty".to_owned()),
            Raw::String(text) | Raw::Text(text) => Ok(Hidden(text.clone())),
            other => Err(format!("expected a text in quotes, found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        quoted("(hidden)")
    }
}

impl<T: Setting> Setting for Vec<T> {
    /// A list; in the environment also a text with commas in between.
    fn read(node: &Node) -> Result<Vec<T>, String> {
        match &node.value {
            Raw::List(items) => items.iter().map(T::read).collect(),
            Raw::Text(text) if text.is_empty() => Ok(Vec::new()),
            Raw::Text(text) => text
                .split(',')
                .map(|item| {
                    let value = Raw::Text(item.trim().to_owned());
                    T::read(&Node { value, origin: node.origin.clone() })
                })
                .collect(),
            other => Err(format!("expected a list in [ ], found {}", other.kind())),
        }
    }

    fn show(&self) -> String {
        format!("[{}]", self.iter().map(T::show).collect::<Vec<_>>().join(", "))
    }
}

impl Raw {
    fn kind(&self) -> &'static str {
        match self {
            Raw::Text(_) | Raw::String(_) => "a text",
            Raw::Integer(_) => "a number",
            Raw::Boolean(_) => "true or false",
            Raw::List(_) => "a list",
            Raw::Table(_) => "a section",
            Raw::Other(kind) => kind,
        }
    }
}

/// As a basic string of TOML.
pub(crate) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use super::similar;

    #[test]
    fn the_name_that_was_meant_is_found() {
        let known = ["listen", "internal_listen", "heartbeat", "per_user", "log", "sync", "data_dir"];
        for (typed, meant) in [
            ("lisen", Some("listen")),
            ("Heartbeat", Some("heartbeat")),
            ("hartbeat", Some("heartbeat")),
            ("per-user", Some("per_user")),
            ("datadir", Some("data_dir")),
            ("snyc", Some("sync")),
            ("port", None),
            ("bin", None),
            ("python", None),
            ("service_host", None),
        ] {
            assert_eq!(similar(typed, &known), meant, "{typed}");
        }
    }
}
