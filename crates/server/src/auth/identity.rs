//! Who sent a request, and what they may.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use serde_json::value::RawValue;
use tidings_hub::Timestamp;
use tidings_wire::{Channel, Pattern, UserId};

use super::grants::{GrantTemplates, Grants};
use super::verified::TokenHash;
use crate::Problem;
use crate::log_limit::LogLimit;

/// Who sent a request, as its credential says. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The user (`sub`). Services, and those without a token, are none.
    pub user: Option<UserId>,
    /// Whether the administrative calls may be used. It grants no channel.
    pub admin: bool,
    /// When the credential ends, and everything that was opened with it.
    pub expires: Option<Timestamp>,
    /// What the token says about the user for others to read: a JSON object.
    pub info: Option<Arc<RawValue>>,
    source: Source,
    /// Which API key it is, if it is one.
    service: u64,
    grants: Arc<Grants>,
}

/// What an identity rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// No credential at all, where that is allowed.
    Anonymous,
    /// A JWT.
    Token,
    /// An API key.
    ApiKey,
    /// Nothing: the server runs with `--dev`.
    Dev,
}

/// Refusals are in the log for the people who configure the server, not once for each request of a flood.
static REFUSALS: LogLimit = LogLimit::new(Duration::from_secs(1));

/// Made once: with `--dev` every request has them.
static EVERYTHING: LazyLock<Arc<Grants>> =
    LazyLock::new(|| Arc::new(GrantTemplates::everything().resolve(None)));

impl Identity {
    pub(super) fn anonymous(grants: Arc<Grants>) -> Identity {
        let source = Source::Anonymous;
        Identity { user: None, admin: false, expires: None, info: None, source, service: 0, grants }
    }

    /// A service with the API key of this hash.
    pub(super) fn service(hash: &TokenHash, admin: bool, grants: Arc<Grants>) -> Identity {
        // A part of the hash is enough to tell keys apart.
        let service = hash.first_chunk().map_or(0, |part| u64::from_le_bytes(*part));
        Identity { admin, source: Source::ApiKey, service, ..Identity::anonymous(grants) }
    }

    pub(super) fn token(
        user: Option<UserId>,
        admin: bool,
        expires: Option<Timestamp>,
        info: Option<Arc<RawValue>>,
        grants: Grants,
    ) -> Identity {
        let grants = Arc::new(grants);
        Identity { user, admin, expires, info, source: Source::Token, service: 0, grants }
    }

    /// Anybody, who may do anything: a server with `--dev`, or a test.
    pub fn dev() -> Identity {
        let grants = EVERYTHING.clone();
        Identity { admin: true, source: Source::Dev, ..Identity::anonymous(grants) }
    }

    /// A user with these rights and no end, for a program that knows its users by itself.
    pub fn of_user(user: UserId, grants: &GrantTemplates) -> Identity {
        let grants = grants.resolve(Some(&user));
        Identity::token(Some(user), false, None, None, grants)
    }

    /// The same user, who may do anything.
    pub(super) fn with_everything(self) -> Identity {
        Identity { admin: true, source: Source::Dev, grants: Identity::dev().grants, ..self }
    }

    /// Gives the parts of a name that no other publisher has: the user whatever the token, else the API key. Tokens
    /// without a user are all one publisher, like those who come without any.
    pub(crate) fn name_as_publisher(&self, mut part: impl FnMut(&[u8])) {
        if let Some(user) = &self.user {
            part(b"user");
            part(user.as_str().as_bytes());
            return;
        }
        match self.source {
            Source::Anonymous => part(b"anonymous"),
            Source::Token => part(b"token"),
            Source::ApiKey => {
                part(b"key");
                part(&self.service.to_le_bytes());
            }
            Source::Dev => part(b"dev"),
        }
    }

    /// What this identity rests on.
    pub fn source(&self) -> Source {
        self.source
    }

    /// Whether all channels of a pattern may be read: it lies within one grant, or is what every stream gets by
    /// itself (what is sent to its user, and to all). What `/stats` says is for administrators as a channel (`$stats`) too.
    pub fn may_subscribe(&self, asked: &Pattern) -> bool {
        let may_look = self.admin || asked.levels().next() != Some("$stats");
        self.is_own(asked) || may_look && self.grants.may_subscribe(asked)
    }

    fn is_own(&self, asked: &Pattern) -> bool {
        match asked.as_str().strip_prefix("$user/") {
            Some(level) => self.user.as_ref().is_some_and(|user| user.as_level() == level),
            None => asked.as_str() == "$all",
        }
    }

    /// Whether events may be sent there. Users (`$user/…`) and everybody (`$all`) need grants that name them.
    pub fn may_publish(&self, channel: &Channel) -> bool {
        self.grants.may_publish(channel)
    }

    /// Whether it may be seen who is in the channels of a pattern.
    pub fn may_see_presence(&self, asked: &Pattern) -> bool {
        self.grants.may_see_presence(asked)
    }

    /// Goes on only if all channels of a pattern may be read.
    ///
    /// # Errors
    /// 401 without a credential, 403 with one: the same whether or not there is such a channel.
    pub fn require_subscribe(&self, asked: &Pattern) -> Result<(), Problem> {
        if self.may_subscribe(asked) {
            return Ok(());
        }
        if self.grants.may_subscribe(asked) {
            // Of what is granted, only `$stats` asks for more.
            return self.require_admin();
        }
        self.log_refusal("subscribe", asked.as_str());
        Err(self.refusal(format!("subscribing to {:?} is not granted", asked.as_str())))
    }

    /// Goes on only if events may be sent there.
    ///
    /// # Errors
    /// 401 without a credential, 403 with one.
    pub fn require_publish(&self, channel: &Channel) -> Result<(), Problem> {
        if self.may_publish(channel) {
            return Ok(());
        }
        self.log_refusal("publish", channel.as_str());
        Err(self.refusal(match channel.as_str() {
            "$all" => "publishing to everybody is not granted: it needs \"$all\" among the publish grants".into(),
            own if own.starts_with("$user/") => format!(
                "publishing to this user is not granted: it needs {own:?}, or \"$user/*\", among the publish grants"
            ),
            name => format!("publishing to {name:?} is not granted"),
        }))
    }

    /// Goes on only if it may be seen who is in the channels of a pattern.
    ///
    /// # Errors
    /// 401 without a credential, 403 with one: the same whether or not there is such a channel.
    pub fn require_presence(&self, asked: &Pattern) -> Result<(), Problem> {
        if self.may_see_presence(asked) {
            return Ok(());
        }
        self.log_refusal("presence", asked.as_str());
        Err(self.refusal(format!(
            "seeing who is in {:?} is not granted: it needs that among the presence grants",
            asked.as_str()
        )))
    }

    /// Goes on only for administrators.
    ///
    /// # Errors
    /// 401 without a credential, 403 with one.
    pub fn require_admin(&self) -> Result<(), Problem> {
        if self.admin {
            return Ok(());
        }
        Err(self.refusal(
            "this call is for administrators: it needs a token with \"admin\": true, or an API key made with --admin"
                .into(),
        ))
    }

    /// The answer to what is not granted: who sent no credential is told that one is needed.
    pub fn refusal(&self, detail: String) -> Problem {
        match self.source {
            Source::Anonymous => unauthorized(format!("{detail} (the request came without a token)")),
            _ => Problem::not_granted(detail),
        }
    }

    fn log_refusal(&self, right: &'static str, name: &str) {
        let Some(suppressed) = REFUSALS.pass() else { return };
        tracing::info!(
            user = self.user.as_ref().map(UserId::as_str),
            suppressed,
            "{}: {}",
            match right {
                "presence" => "refused to show who is there".to_owned(),
                right => format!("refused to {right}"),
            },
            remedy(self.source, right, name)
        );
    }
}

/// What would allow it, that which gives the least first: what stands in the configuration is for many.
fn remedy(source: Source, right: &str, name: &str) -> String {
    let grants = format!("{right} = [{name:?}]");
    match source {
        Source::Anonymous => format!(
            "it came without a token, and one that grants {grants} would allow it; \
             [auth] anonymous = {{ {grants} }} would allow it to anybody, without a token too"
        ),
        Source::ApiKey => format!("an API key made with --{right} '{name}' would allow it"),
        Source::Token | Source::Dev => format!(
            "{grants} among the token's own grants would allow it; \
             [auth] grants = {{ {grants} }} would allow it to anybody with a token"
        ),
    }
}

/// 401 `unauthorized`: a credential is needed and there is none.
pub(super) fn unauthorized(detail: String) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed", detail)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// 401 `invalid_token`: there is a credential, and it is not good (RFC 6750, section 3.1).
pub(crate) fn invalid_token(detail: String) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_token", "The token is not valid", detail)
        .header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer error=\"invalid_token\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::grants::pattern;

    fn identity(user: Option<&str>, subscribe: &[&str]) -> Identity {
        let templates = GrantTemplates {
            subscribe: subscribe.iter().map(|text| text.parse().unwrap()).collect(),
            ..GrantTemplates::default()
        };
        let user: Option<UserId> = user.map(|id| id.parse().unwrap());
        let grants = templates.resolve(user.as_ref());
        Identity::token(user, false, None, None, grants)
    }

    #[test]
    fn everybody_may_read_what_is_sent_to_all_and_to_themselves() {
        let check = |user: Option<&str>, asked: &str, expected: bool| {
            assert_eq!(
                identity(user, &[]).may_subscribe(&pattern(asked).unwrap()),
                expected,
                "{user:?} {asked}"
            );
        };
        check(Some("7"), "$all", true);
        check(None, "$all", true);
        check(Some("7"), "$user/7", true);
        check(Some("7"), "$user/8", false);
        check(Some("7"), "$user/*", false);
        check(Some("*"), "$user/*", false);
        check(Some("*"), "$user/%2A", true);
        check(None, "$user/7", false);
        check(Some("a/b"), "$user/a%2Fb", true);
    }

    #[test]
    fn who_came_without_a_token_is_told_so() {
        let asked = pattern("news").unwrap();
        let anonymous = Identity::anonymous(Arc::default()).require_subscribe(&asked).unwrap_err();
        assert_eq!((anonymous.status(), anonymous.kind()), (StatusCode::UNAUTHORIZED, "unauthorized"));
        assert_eq!(anonymous.headers()[WWW_AUTHENTICATE], "Bearer");
        let other = identity(Some("7"), &["a"]).require_subscribe(&asked).unwrap_err();
        assert_eq!((other.status(), other.kind()), (StatusCode::FORBIDDEN, "not_granted"));
    }

    #[test]
    fn what_needs_an_administrator_says_so() {
        let anonymous = Identity::anonymous(Arc::default()).require_admin().unwrap_err();
        assert_eq!(anonymous.status(), StatusCode::UNAUTHORIZED);
        let needed = "this call is for administrators: it needs a token with \"admin\": true, or an API key made with --admin";
        assert_eq!(anonymous.detail(), format!("{needed} (the request came without a token)"));
        let user = identity(Some("7"), &["a"]).require_admin().unwrap_err();
        assert_eq!((user.status(), user.detail()), (StatusCode::FORBIDDEN, needed));
    }

    #[test]
    fn the_log_names_what_gives_the_least_first() {
        let hint = remedy(Source::Token, "subscribe", "orders/bob/17");
        assert!(hint.starts_with("subscribe = [\"orders/bob/17\"] among the token's own grants"), "{hint}");
        assert!(hint.ends_with("would allow it to anybody with a token"), "{hint}");
        let hint = remedy(Source::Anonymous, "subscribe", "news");
        assert!(hint.find("one that grants") < hint.find("[auth] anonymous"), "{hint}");
        // Configured grants are no API key's.
        assert!(!remedy(Source::ApiKey, "publish", "news").contains("[auth]"));
    }

    #[test]
    fn an_administrator_is_granted_no_channel() {
        let admin = Identity::token(None, true, None, None, Grants::default());
        assert!(admin.require_admin().is_ok());
        assert!(!admin.may_subscribe(&pattern("a").unwrap()));
        assert!(!admin.may_publish(&Channel::all()));
        let stats = pattern("$stats").unwrap();
        let granted =
            || GrantTemplates { subscribe: vec!["$stats".parse().unwrap()], ..GrantTemplates::default() };
        let service = |admin| Identity::token(None, admin, None, None, granted().resolve(None));
        assert!(!admin.may_subscribe(&stats), "its grant is missing");
        assert!(!service(false).may_subscribe(&stats), "it is no administrator");
        assert!(service(false).require_subscribe(&stats).is_err());
        assert!(service(true).require_subscribe(&stats).is_ok());
    }

    #[test]
    fn anybody_may_do_anything_in_dev() {
        let dev = Identity::dev();
        for asked in ["**", "a/*", "$user/*", "$user/7", "$all", "$presence", "$stats"] {
            assert!(dev.may_subscribe(&pattern(asked).unwrap()), "{asked}");
        }
        assert!(dev.may_publish(&Channel::all()) && dev.may_publish(&Channel::user(&"7".parse().unwrap())));
        assert!(dev.may_see_presence(&pattern("**").unwrap()) && dev.admin);
    }
}
