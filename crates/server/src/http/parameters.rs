//! The parameters of a query, each of which must be known.

use std::borrow::Cow;

use crate::{Problem, query};

/// The parameters that one endpoint has.
#[derive(Debug)]
pub(super) struct Parameters<'a>(Vec<query::Pair<'a>>);

impl<'a> Parameters<'a> {
    /// Reads a query in which only these parameters may be (and a token, which is read elsewhere).
    pub(super) fn read(query: Option<&'a str>, known: &[&str]) -> Result<Parameters<'a>, Problem> {
        let mut parameters = Vec::new();
        for pair in query::pairs(query) {
            let (name, value) = pair?;
            match &*name {
                "token" | "access_token" => {}
                name_ if known.contains(&name_) => parameters.push((name, value)),
                _ => {
                    let name: String = name.chars().take(64).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    return Err(Problem::bad_request(format!(
                        "there is no parameter {name:?} here (known: {known})"
                    )));
                }
            }
        }
        Ok(Parameters(parameters))
    }

    /// All values of a parameter that may be there several times.
    pub(super) fn all<'s, 'n>(&'s self, name: &'n str) -> impl Iterator<Item = &'s str> + use<'s, 'n, 'a> {
        self.0.iter().filter(move |(other, _)| other == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter that may be there once.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut values = self.all(name);
        match (values.next(), values.next()) {
            (value, None) => Ok(value),
            (_, Some(_)) => Err(Problem::bad_request(format!("{name:?} may be there once"))),
        }
    }

    /// The same, as what it stands for.
    pub(super) fn parsed<T>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let parse =
            |value: &str| value.parse().map_err(|bad| Problem::bad_request(format!("{name:?}: {bad}")));
        self.one(name)?.map(parse).transpose()
    }

    /// 1 or 0, which it is if it isn't there.
    pub(super) fn switch(&self, name: &str) -> Result<bool, Problem> {
        match self.one(name)? {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(_) => Err(Problem::bad_request(format!("{name:?} is to be 1 or 0"))),
        }
    }

    /// A whole number from 1 on; more than `most` is `most`.
    pub(super) fn count(&self, name: &str, default: usize, most: usize) -> Result<usize, Problem> {
        let Some(text) = self.one(name)? else { return Ok(default) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(0) => Err(Problem::bad_request(format!("{name:?} is to be at least 1"))),
            Ok(count) if digits => Ok(most.min(count)),
            Err(_) if digits => Ok(most),
            _ => Err(Problem::bad_request(format!("{name:?} is to be a whole number"))),
        }
    }
}

/// A value that may be shown again in an answer, shortened.
pub(super) fn shown(value: &str) -> Cow<'_, str> {
    if value.chars().count() <= 64 {
        Cow::Borrowed(value)
    } else {
        value.chars().take(64).chain(['…']).collect()
    }
}
