//! What somebody may: patterns to subscribe to, to publish to, and to see who is there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tidings_wire::{BadName, Channel, Pattern, UserId};

/// The rights of one identity, its user's id already in the place of every `{sub}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grants {
    pub(super) subscribe: Vec<Pattern>,
    pub(super) publish: Vec<Pattern>,
    pub(super) presence: Vec<Pattern>,
}

impl Grants {
    /// Whether all that `asked` may show lies within one grant. Two grants that only together cover it don't.
    pub fn may_subscribe(&self, asked: &Pattern) -> bool {
        self.subscribe.iter().any(|grant| grant.covers(asked))
    }

    /// Whether events may be sent to a channel, the hub's own for users and everybody among them.
    pub fn may_publish(&self, channel: &Channel) -> bool {
        self.publish.iter().any(|grant| grant.matches(channel))
    }

    /// Whether it may be seen who is in the channels of a pattern.
    pub fn may_see_presence(&self, asked: &Pattern) -> bool {
        self.presence.iter().any(|grant| grant.covers(asked))
    }

    /// These rights and those.
    #[must_use]
    pub(super) fn and(mut self, more: Grants) -> Grants {
        self.subscribe.extend(more.subscribe);
        self.publish.extend(more.publish);
        self.presence.extend(more.presence);
        self
    }
}

/// Reads a pattern as it is granted or asked for. A user's channel has two levels, so that `$user/**` is `$user/*`,
/// whichever of them was granted.
///
/// # Errors
/// When it is no pattern.
pub(crate) fn pattern(text: &str) -> Result<Pattern, BadName> {
    match text {
        "$user/**" => "$user/*",
        text => text,
    }
    .parse()
}

/// A pattern in which a level may be `{sub}`: the id of the user, as one literal level.
#[derive(Clone, PartialEq, Eq)]
pub struct Template(Arc<str>);

/// Why a grant is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadTemplate {
    /// Braces that are not `{sub}` alone in their level.
    #[error("braces may only be in a level that is exactly \"{{sub}}\"")]
    Braces,
    /// It is no pattern.
    #[error("{0}")]
    Pattern(#[from] BadName),
}

impl Template {
    const SUB: &str = "{sub}";

    /// Whether there is a place for the user's id.
    pub fn needs_user(&self) -> bool {
        self.0.split('/').any(|level| level == Template::SUB)
    }

    /// The text as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The pattern for a user. There is none for nobody where an id is needed, and none where it would be too long.
    fn resolve(&self, user: Option<&UserId>) -> Option<Pattern> {
        if !self.needs_user() {
            return pattern(&self.0).ok();
        }
        // The id is one level that matches itself only, whatever it is: `*`, `a/b`, `..` are encoded.
        let id = user?.as_level();
        let levels: Vec<&str> =
            self.0.split('/').map(|level| if level == Template::SUB { &id } else { level }).collect();
        pattern(&levels.join("/")).ok()
    }
}

impl FromStr for Template {
    type Err = BadTemplate;

    fn from_str(text: &str) -> Result<Template, BadTemplate> {
        let plain: Vec<&str> =
            text.split('/').map(|level| if level == Template::SUB { "sub" } else { level }).collect();
        let plain = plain.join("/");
        if plain.contains(['{', '}']) {
            return Err(BadTemplate::Braces);
        }
        pattern(&plain)?;
        Ok(Template(text.into()))
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", self.0)
    }
}

/// Rights as they are configured or said by a token, before it is known for whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrantTemplates {
    /// What may be subscribed to.
    pub subscribe: Vec<Template>,
    /// Where events may be sent.
    pub publish: Vec<Template>,
    /// Where it may be seen who is there.
    pub presence: Vec<Template>,
}

impl GrantTemplates {
    /// All channels, users, everybody.
    pub(super) fn everything() -> GrantTemplates {
        let all = |texts: &[&str]| texts.iter().map(|text| Template((*text).into())).collect();
        GrantTemplates {
            subscribe: all(&["**", "$user/*", "$all", "$presence", "$stats"]),
            publish: all(&["**", "$user/*", "$all"]),
            presence: all(&["**", "$user/*", "$all", "$presence"]),
        }
    }

    /// The rights of a user, or of nobody in particular.
    pub fn resolve(&self, user: Option<&UserId>) -> Grants {
        let all = |templates: &[Template]| templates.iter().filter_map(|t| t.resolve(user)).collect();
        Grants { subscribe: all(&self.subscribe), publish: all(&self.publish), presence: all(&self.presence) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grants(subscribe: &[&str], user: Option<&str>) -> Grants {
        let templates = GrantTemplates {
            subscribe: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
            publish: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
            presence: Vec::new(),
        };
        templates.resolve(user.map(|id| id.parse().unwrap()).as_ref())
    }

    #[test]
    fn a_pattern_asked_for_lies_within_one_grant() {
        let check = |granted: &[&str], asked: &str, expected: bool| {
            let asked = pattern(asked).unwrap();
            assert_eq!(grants(granted, Some("7")).may_subscribe(&asked), expected, "{granted:?} {asked}");
        };
        check(&["news"], "news", true);
        check(&["news"], "news/a", false);
        check(&["news/*"], "news/a", true);
        check(&["a/**", "b/**"], "*/x", false);
        check(&["orders/{sub}/*"], "orders/7/1", true);
        check(&["orders/{sub}/*"], "orders/8/1", false);
        check(&["orders/{sub}/*"], "orders/7/*", true);
        check(&["orders/{sub}/*"], "orders/*/*", false);
        check(&["**"], "$user/7", false);
        check(&["**"], "$all", false);
        check(&["$user/**"], "$user/*", true);
        check(&["$user/*"], "$user/**", true);
        check(&["$user/{sub}"], "$user/7", true);
        check(&["$user/{sub}"], "$user/8", false);
        check(&[], "a", false);
    }

    #[test]
    fn no_id_of_a_user_widens_a_grant() {
        for id in ["*", "**", "a/b", "..", "$all", "{sub}", "%2A", "a/**"] {
            let granted = grants(&["orders/{sub}", "$user/{sub}"], Some(id));
            let user: UserId = id.parse().unwrap();
            for asked in ["orders/*", "orders/**", "orders/x", "orders/a/b", "$user/*", "$user/x", "**"] {
                assert!(!granted.may_subscribe(&pattern(asked).unwrap()), "{id} {asked}");
            }
            assert!(granted.may_subscribe(&Pattern::from(&Channel::user(&user))), "{id}");
            assert!(granted.may_subscribe(&pattern(&format!("orders/{}", user.as_level())).unwrap()), "{id}");
            assert!(granted.may_publish(&Channel::user(&user)));
            assert!(!granted.may_publish(&Channel::user(&"x".parse().unwrap())));
        }
    }

    #[test]
    fn a_grant_for_a_user_is_none_for_nobody() {
        assert_eq!(grants(&["orders/{sub}", "news"], None).subscribe, [pattern("news").unwrap()]);
    }

    #[test]
    fn bad_grants_are_refused() {
        let check =
            |text: &str, error: BadTemplate| assert_eq!(text.parse::<Template>(), Err(error), "{text}");
        check("a-{sub}", BadTemplate::Braces);
        check("{name}/a", BadTemplate::Braces);
        check("{{sub}}", BadTemplate::Braces);
        check("", BadName::Empty.into());
        check("**/a", BadName::InnerRest.into());
        check("a/$user", BadName::Reserved.into());
    }

    /// A plain matcher to check against: levels from the left, one at a time.
    fn naive(pattern: &[&str], channel: &[&str]) -> bool {
        match (pattern, channel) {
            ([], []) => true,
            (["**"], [_, ..]) => channel.iter().all(|level| !level.starts_with('$')),
            (["*", pattern @ ..], [level, channel @ ..]) => {
                !level.starts_with('$') && naive(pattern, channel)
            }
            ([mine, pattern @ ..], [level, channel @ ..]) => mine == level && naive(pattern, channel),
            _ => false,
        }
    }

    fn levels(text: &str) -> Vec<&str> {
        text.split('/').collect()
    }

    /// All channels of up to three levels over a small alphabet, users' and everybody's among them.
    fn channels() -> Vec<Channel> {
        let alphabet = ["a", "b", "%2A"];
        let mut all: Vec<Channel> = vec![Channel::all()];
        all.extend(["a", "b", "*"].map(|id| Channel::user(&id.parse().unwrap())));
        for x in alphabet {
            all.push(x.parse().unwrap());
            for y in alphabet {
                all.push(format!("{x}/{y}").parse().unwrap());
                all.extend(alphabet.map(|z| format!("{x}/{y}/{z}").parse().unwrap()));
            }
        }
        all
    }

    fn any_template() -> impl Strategy<Value = String> {
        let level = prop_oneof![
            4 => Just("a"), 2 => Just("b"), 3 => Just("*"), 2 => Just("{sub}"), 1 => Just("%2A")
        ];
        let inner = prop::collection::vec(level, 0..3);
        (prop_oneof![6 => Just(""), 1 => Just("$user"), 1 => Just("$all")], inner, any::<bool>()).prop_map(
            |(first, mut inner, rest)| {
                if first == "$all" {
                    return "$all".to_owned();
                }
                if rest || inner.is_empty() {
                    inner.push("**");
                }
                if !first.is_empty() {
                    inner.insert(0, first);
                }
                inner.join("/")
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever a subscription that was let through can show, some one grant shows by the plain matcher too; and
        /// a channel that a grant shows may be asked for.
        #[test]
        fn nothing_is_shown_that_was_not_granted(
            granted in prop::collection::vec(any_template(), 0..4),
            asked in any_template(),
            id in prop_oneof![Just("a"), Just("*"), Just("**"), Just("a/b"), Just("$all")],
        ) {
            let user: UserId = id.parse().unwrap();
            let texts: Vec<&str> = granted.iter().map(String::as_str).collect();
            let rights = grants(&texts, Some(id));
            let resolved: Vec<String> = granted.iter().map(|t| t.replace("{sub}", &user.as_level())).collect();
            let shows = |pattern: &str, channel: &Channel| naive(&levels(pattern), &levels(channel.as_str()));

            let asked = asked.replace("{sub}", "a");
            let asked_pattern = pattern(&asked).unwrap();
            let channels = channels();
            if rights.may_subscribe(&asked_pattern) {
                for channel in channels.iter().filter(|channel| asked_pattern.matches(channel)) {
                    prop_assert!(resolved.iter().any(|grant| shows(grant, channel)), "{granted:?} {asked} {channel}");
                }
            }
            for channel in &channels {
                let granted_plainly = resolved.iter().any(|grant| shows(grant, channel));
                prop_assert_eq!(rights.may_subscribe(&Pattern::from(channel)), granted_plainly, "{}", channel);
                prop_assert_eq!(rights.may_publish(channel), granted_plainly, "{}", channel);
                prop_assert_eq!(asked_pattern.matches(channel), shows(&asked, channel), "{} {}", asked, channel);
            }
        }
    }
}
