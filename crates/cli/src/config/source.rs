//! Where settings come from: a TOML file, the environment, flags. What is read here is not checked yet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Mistake;

/// Settings by name.
pub(crate) type Table = BTreeMap<String, Node>;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Raw,
    pub(crate) origin: Origin,
}

/// A value as it was written.
#[derive(Debug, Clone)]
pub(crate) enum Raw {
    /// From the environment or a flag: its type is what the setting wants.
    Text(String),
    String(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A TOML type that no setting has, by its name.
    Other(&'static str),
}

/// Where a value was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    File { path: Arc<Path>, line: usize },
    Environment(String),
    Flag(&'static str),
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment(name) => f.write_str(name),
            Origin::Flag(flag) => f.write_str(flag),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// Reads a file's settings; what can't be read as TOML is reported with its line, the rest is kept.
pub(crate) fn from_toml(path: &Path, text: &str, mistakes: &mut Vec<Mistake>) -> Table {
    let file = File { path: path.into(), text };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(0, |span| span.start);
        mistakes.push(Mistake { origin: file.origin(at), what: error.message().to_owned() });
    }
    file.table(table.into_inner(), mistakes)
}

struct File<'a> {
    path: Arc<Path>,
    text: &'a str,
}

impl File<'_> {
    fn origin(&self, at: usize) -> Origin {
        let before = self.text.as_bytes().get(..at).unwrap_or(self.text.as_bytes());
        Origin::File {
            path: self.path.clone(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
        }
    }

    fn table(&self, table: DeTable<'_>, mistakes: &mut Vec<Mistake>) -> Table {
        table
            .into_iter()
            .map(|(key, value)| {
                let origin = self.origin(key.span().start);
                (key.into_inner().into_owned(), self.node(value, Some(origin), mistakes))
            })
            .collect()
    }

    /// `named_at`: where the value's key stands. A value in a list has none and stands where it begins.
    fn node(
        &self,
        value: Spanned<DeValue<'_>>,
        named_at: Option<Origin>,
        mistakes: &mut Vec<Mistake>,
    ) -> Node {
        let origin = named_at.unwrap_or_else(|| self.origin(value.span().start));
        let value = match value.into_inner() {
            DeValue::String(text) => Raw::String(text.into_owned()),
            DeValue::Boolean(is) => Raw::Boolean(is),
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Raw::Integer(number),
                Err(_) => {
                    mistakes.push(Mistake {
                        origin: origin.clone(),
                        what: format!("{} is too large a number", number.as_str()),
                    });
                    Raw::Integer(i64::MAX)
                }
            },
            DeValue::Array(list) => {
                Raw::List(list.into_iter().map(|item| self.node(item, None, mistakes)).collect())
            }
            DeValue::Table(table) => Raw::Table(self.table(table, mistakes)),
            DeValue::Float(_) => Raw::Other("a number with a fraction"),
            DeValue::Datetime(_) => Raw::Other("a date"),
        };
        Node { value, origin }
    }
}

/// Names in the environment that begin like settings and are none: credentials and the client's own.
pub(crate) const NOT_SETTINGS: [&str; 5] =
    ["TIDINGS_API_KEY", "TIDINGS_JWT_SECRET", "TIDINGS_TOKEN", "TIDINGS_URL", "TIDINGS_CONFIG"];

/// Lays the environment's settings over others: `TIDINGS_LIMITS__PER_USER` is `per_user` in `[limits]`.
///
/// `is_setting` judges names without `__`. Those that are no setting are left alone: orchestrators make names like
/// `TIDINGS_PORT` and `TIDINGS_SERVICE_HOST` for a service that is called so.
pub(crate) fn lay_environment(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
    is_setting: impl Fn(&str) -> bool,
    mistakes: &mut Vec<Mistake>,
) {
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix("TIDINGS_") else { continue };
        if NOT_SETTINGS.contains(&name.as_str()) {
            continue;
        }
        let path: Vec<String> = rest.split("__").map(str::to_ascii_lowercase).collect();
        if path.len() == 1 && !is_setting(&path[0]) {
            continue;
        }
        let origin = Origin::Environment(name);
        let node = typed(value, &origin, mistakes);
        lay(table, &path, node, mistakes);
    }
}

/// A text that begins like a list or a table of TOML is one.
fn typed(text: String, origin: &Origin, mistakes: &mut Vec<Mistake>) -> Node {
    if text.starts_with(['[', '{']) {
        let path: &Path = Path::new("");
        let file = File { path: path.into(), text: &text };
        match DeValue::parse(&text) {
            Ok(value) => {
                let mut node = file.node(value, Some(origin.clone()), mistakes);
                node.written_at(origin);
                return node;
            }
            Err(error) => {
                mistakes.push(Mistake { origin: origin.clone(), what: error.message().to_owned() });
            }
        }
    }
    Node { value: Raw::Text(text), origin: origin.clone() }
}

impl Node {
    fn written_at(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Raw::List(list) => list.iter_mut().for_each(|node| node.written_at(origin)),
            Raw::Table(table) => table.values_mut().for_each(|node| node.written_at(origin)),
            _ => {}
        }
    }
}

/// Puts one value at its place; what was there before is replaced.
pub(crate) fn lay(table: &mut Table, path: &[String], node: Node, mistakes: &mut Vec<Mistake>) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), node);
        }
        [name, rest @ ..] => {
            let section = table
                .entry(name.clone())
                .or_insert_with(|| Node { value: Raw::Table(Table::new()), origin: node.origin.clone() });
            match &mut section.value {
                Raw::Table(section) => lay(section, rest, node, mistakes),
                _ => mistakes.push(Mistake { origin: node.origin, what: format!("{name} is not a section") }),
            }
        }
    }
}
