//! Grants as they are typed.

use anyhow::Result;
use tidings::server::auth::{GrantTemplates, Template};

use crate::args;
use crate::outcome::Usage;

impl args::Grants {
    /// The grants, each pattern checked.
    pub(crate) fn read(&self) -> Result<GrantTemplates> {
        Ok(GrantTemplates {
            subscribe: patterns("--subscribe", &self.subscribe)?,
            publish: patterns("--publish", &self.publish)?,
            presence: patterns("--presence", &self.presence)?,
        })
    }
}

fn patterns(flag: &str, texts: &[String]) -> Result<Vec<Template>> {
    let read = |text: &String| {
        text.parse().map_err(|bad| Usage(format!("{flag} {text:?} can't be granted: {bad}")).into())
    };
    texts.iter().map(read).collect()
}
