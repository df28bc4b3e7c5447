//! What a token says, once its signature is known to be good.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use tidings_hub::Timestamp;
use tidings_wire::UserId;

use super::date;
use super::grants::{GrantTemplates, Template};
use super::jwt::TokenError;

/// The claims that this server reads. All others are somebody else's.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) user: Option<UserId>,
    pub(super) lifetime: Lifetime,
    pub(super) issuer: Option<String>,
    pub(super) audience: Vec<String>,
    pub(super) granted: Granted,
}

/// When a token is good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lifetime {
    /// `exp`.
    pub(super) expires: Option<Timestamp>,
    /// `nbf`.
    pub(super) not_before: Option<Timestamp>,
    /// `iat`.
    pub(super) issued: Option<Timestamp>,
}

/// The claim of this server's own (`tidings`).
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) grants: GrantTemplates,
    pub(super) admin: bool,
    pub(super) info: Option<Arc<RawValue>>,
}

impl Claims {
    /// Reads the claims, `own` being the name of this server's claim.
    pub(super) fn read(json: &[u8], own: &str) -> Result<Claims, TokenError> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let raw = RawClaimsOf(own).deserialize(&mut deserializer).map_err(|_| TokenError::Claims)?;
        deserializer.end().map_err(|_| TokenError::Claims)?;
        let date = |name: &'static str, value: Option<&RawValue>| {
            value.map(date::read).transpose().map_err(|bad| TokenError::Date { claim: name, bad })
        };
        Ok(Claims {
            user: raw.sub.map(read_user).transpose()?,
            lifetime: Lifetime {
                expires: date("exp", raw.exp)?,
                not_before: date("nbf", raw.nbf)?,
                issued: date("iat", raw.iat)?,
            },
            issuer: raw.iss.map(|iss| read_json(iss).ok_or(TokenError::NotText("iss"))).transpose()?,
            audience: raw.aud.map(read_audience).transpose()?.unwrap_or_default(),
            granted: raw.own.map(Granted::read).transpose()?.unwrap_or_default(),
        })
    }
}

fn read_json<'a, T: Deserialize<'a>>(value: &'a RawValue) -> Option<T> {
    serde_json::from_str(value.get()).ok()
}

fn read_user(value: &RawValue) -> Result<UserId, TokenError> {
    let text: String = read_json(value).ok_or(TokenError::NotText("sub"))?;
    text.parse().map_err(TokenError::User)
}

/// One audience, or a list of them (RFC 7519, section 4.1.3).
fn read_audience(value: &RawValue) -> Result<Vec<String>, TokenError> {
    let one: Option<String> = read_json(value);
    one.map(|one| vec![one]).or_else(|| read_json(value)).ok_or(TokenError::NotText("aud"))
}

#[derive(Default)]
struct RawClaims<'a> {
    sub: Option<&'a RawValue>,
    exp: Option<&'a RawValue>,
    nbf: Option<&'a RawValue>,
    iat: Option<&'a RawValue>,
    iss: Option<&'a RawValue>,
    aud: Option<&'a RawValue>,
    own: Option<&'a RawValue>,
}

/// The name of this server's claim is known at run time only, and no claim may come twice: which of two `exp` counts
/// must not depend on who reads them.
struct RawClaimsOf<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for RawClaimsOf<'_> {
    type Value = RawClaims<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RawClaimsOf<'_> {
    type Value = RawClaims<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut claims = RawClaims::default();
        while let Some(name) = map.next_key::<String>()? {
            let slot = match name.as_str() {
                "sub" => &mut claims.sub,
                "exp" => &mut claims.exp,
                "nbf" => &mut claims.nbf,
                "iat" => &mut claims.iat,
                "iss" => &mut claims.iss,
                "aud" => &mut claims.aud,
                name if name == self.0 => &mut claims.own,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if slot.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("a claim comes twice"));
            }
        }
        Ok(claims)
    }
}

/// An unknown member is refused: the issuer wrote it to say something, and a right (or a limit of one) that this
/// server does not know must not be passed over. Who adds members later adds them to the servers first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGranted<'a> {
    #[serde(borrow)]
    subscribe: Option<&'a RawValue>,
    #[serde(borrow)]
    publish: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    admin: Option<&'a RawValue>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
}

impl Granted {
    fn read(value: &RawValue) -> Result<Granted, TokenError> {
        let raw: RawGranted<'_> = read_json(value).ok_or(TokenError::Granted)?;
        let templates = |member: &'static str, value: Option<&RawValue>| match value {
            Some(value) => read_templates(member, value),
            None => Ok(Vec::new()),
        };
        let info = match raw.info {
            Some(info) if !info.get().starts_with('{') => return Err(TokenError::Info),
            info => info.map(|info| Arc::from(info.to_owned())),
        };
        Ok(Granted {
            grants: GrantTemplates {
                subscribe: templates("subscribe", raw.subscribe)?,
                publish: templates("publish", raw.publish)?,
                presence: templates("presence", raw.presence)?,
            },
            admin: raw
                .admin
                .map(|admin| read_json(admin).ok_or(TokenError::Admin))
                .transpose()?
                .unwrap_or(false),
            info,
        })
    }
}

fn read_templates(member: &'static str, value: &RawValue) -> Result<Vec<Template>, TokenError> {
    let texts: Vec<String> = read_json(value).ok_or(TokenError::NotPatterns(member))?;
    let parse = |text: &String| text.parse().map_err(|bad| TokenError::Pattern { member, bad });
    texts.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_read() {
        let claims = Claims::read(
            br#"{"sub":"7","exp":20,"nbf":10,"iat":9.5,"iss":"i","aud":["a","b"],"name":{"x":[1]},
                "tidings":{"subscribe":["a/**"],"publish":["$user/{sub}"],"admin":true,"info":{"n":1}}}"#,
            "tidings",
        )
        .unwrap();
        assert_eq!(claims.user, Some("7".parse().unwrap()));
        let lifetime = Lifetime {
            expires: Some(Timestamp(20_000)),
            not_before: Some(Timestamp(10_000)),
            issued: Some(Timestamp(9_500)),
        };
        assert_eq!(claims.lifetime, lifetime);
        assert_eq!(claims.issuer.as_deref(), Some("i"));
        assert_eq!(claims.audience, ["a", "b"]);
        assert_eq!(claims.granted.grants.subscribe, ["a/**".parse().unwrap()]);
        assert_eq!(claims.granted.info.unwrap().get(), r#"{"n":1}"#);
        assert!(claims.granted.admin);
        let other =
            Claims::read(br#"{"https://a.example/t":{"admin":true},"tidings":7}"#, "https://a.example/t");
        assert!(other.unwrap().granted.admin);
    }

    #[test]
    fn bad_claims_are_refused() {
        let check = |json: &str, expected: TokenError| {
            assert_eq!(Claims::read(json.as_bytes(), "tidings").unwrap_err(), expected, "{json}");
        };
        let bad = |claim, bad| TokenError::Date { claim, bad };
        check("", TokenError::Claims);
        check("[]", TokenError::Claims);
        check("{} {}", TokenError::Claims);
        check(r#"{"exp":1,"exp":2}"#, TokenError::Claims);
        check(r#"{"exp":1,"\u0065xp":2}"#, TokenError::Claims);
        check(r#"{"exp":"1"}"#, bad("exp", date::BadDate::NotANumber));
        check(r#"{"exp":-1}"#, bad("exp", date::BadDate::Negative));
        check(r#"{"exp":1e308}"#, bad("exp", date::BadDate::TooLarge));
        check(r#"{"nbf":null}"#, bad("nbf", date::BadDate::NotANumber));
        check(r#"{"sub":7}"#, TokenError::NotText("sub"));
        check(r#"{"sub":""}"#, TokenError::User(tidings_wire::BadName::Empty));
        check(r#"{"sub":"a\n"}"#, TokenError::User(tidings_wire::BadName::Character('\n')));
        check(r#"{"aud":7}"#, TokenError::NotText("aud"));
        check(r#"{"iss":["a"]}"#, TokenError::NotText("iss"));
        check(r#"{"tidings":[]}"#, TokenError::Granted);
        check(r#"{"tidings":{"subscrib":["a"]}}"#, TokenError::Granted);
        check(r#"{"tidings":{"subscribe":["a"],"subscribe":["b"]}}"#, TokenError::Granted);
        check(r#"{"tidings":{"subscribe":"a"}}"#, TokenError::NotPatterns("subscribe"));
        check(r#"{"tidings":{"publish":[7]}}"#, TokenError::NotPatterns("publish"));
        check(r#"{"tidings":{"admin":"true"}}"#, TokenError::Admin);
        check(r#"{"tidings":{"info":[]}}"#, TokenError::Info);
        let pattern = r#"{"tidings":{"presence":["**/a"]}}"#;
        assert!(matches!(
            Claims::read(pattern.as_bytes(), "tidings"),
            Err(TokenError::Pattern { member: "presence", .. })
        ));
    }
}
