//! No token, key or secret is ever seen: not in an error, not in `Debug`, not in the log.

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::MakeWriter;

use super::*;

const CANARY: &str = "CANARYx7Qm";

#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl Seen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Seen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Seen {
    type Writer = Seen;

    fn make_writer(&'a self) -> Seen {
        self.clone()
    }
}

/// Every text that carries the canary where a credential, or a part of one, may be.
fn credentials() -> Vec<String> {
    let issuer = Issuer::shared(Algorithm::HS256);
    let later = SECONDS + 3600;
    let plain = |claims: &str| issuer.token_with(&json!({ "alg": "HS256" }), claims);
    let mut all = vec![
        CANARY.to_owned(),
        format!("tk_{CANARY}"),
        format!("{CANARY}.{CANARY}.{CANARY}"),
        issuer.token_with(&json!({ "alg": CANARY }), "{}"),
        issuer.token_with(&json!({ "alg": "HS256", "kid": CANARY }), "{}"),
        issuer.token_with(&json!({ "alg": "HS256", "crit": [CANARY] }), "{}"),
        plain(CANARY),
        plain(&format!(r#"{{"exp":"{CANARY}"}}"#)),
        plain(&format!(r#"{{"sub":"{CANARY}\n","exp":{later}}}"#)),
        plain(&format!(r#"{{"iss":["{CANARY}"],"exp":{later}}}"#)),
        plain(&format!(r#"{{"exp":{later},"tidings":{{"{CANARY}":1}}}}"#)),
        plain(&format!(r#"{{"exp":{later},"tidings":{{"subscribe":["{CANARY}*"]}}}}"#)),
        plain(&format!(r#"{{"exp":{later},"tidings":{{"admin":"{CANARY}"}}}}"#)),
        plain(&format!(r#"{{"sub":"7","exp":{later},"jti":"{CANARY}"}}"#)),
        plain(&format!(r#"{{"sub":"7","exp":{},"jti":"{CANARY}"}}"#, SECONDS - 10)),
    ];
    all.push(format!("{}{CANARY}", good_token(json!({}))));
    all
}

/// All words that would give a credential away: the canary, and each part of the credential itself.
fn telltales(credential: &str) -> Vec<String> {
    let mut all = vec![CANARY.to_owned(), base64(CANARY), SECRET.to_owned()];
    all.extend(credential.split('.').filter(|part| part.len() > 8).map(str::to_owned));
    all
}

#[test]
fn no_credential_is_ever_seen() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(seen.clone())
        .with_ansi(false)
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let mut shown = tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let config = AccessConfig {
            api_key: Some(Secret::new(format!("environment {CANARY}"))),
            api_keys: Some(ApiKeyFile::in_directory(dir.path())),
            ..config()
        };
        let mut shown = format!("{config:?} ");
        let access = access(config);
        shown += &format!("{access:?} ");
        for credential in credentials() {
            let bearer = format!("Bearer {credential}");
            let cookie = format!("tidings_token={credential}");
            let query = format!("/events?channel=a&token={}", credential.replace('+', "%2B"));
            for (uri, headers) in [
                ("/events", vec![("authorization", bearer.as_str())]),
                ("/events", vec![("x-api-key", &credential)]),
                ("/events", vec![("cookie", &cookie), ("sec-fetch-site", "none")]),
                ("/events", vec![("cookie", &cookie)]),
                (&query, vec![]),
                (&format!("{query}&token=2"), vec![]),
            ] {
                let parts = request(uri, &headers);
                let found = runtime.block_on(access.identify(&parts, peer(), NOW));
                let said = match found {
                    Ok(identity) => {
                        let refused = identity.require_subscribe(&pattern("b").unwrap()).unwrap_err();
                        format!("{identity:?} {}", refused.document("1"))
                    }
                    Err(problem) => format!("{problem:?} {} {:?}", problem.document("1"), problem.headers()),
                };
                for telltale in telltales(&credential) {
                    assert!(!said.contains(&telltale), "{telltale} in {said}");
                }
                shown += &said;
            }
        }
        // Refusals are logged at a bounded rate, which other tests share.
        let somebody = runtime.block_on(identify(&access, &good_token(json!({})))).unwrap();
        for _ in 0..100 {
            assert!(somebody.require_subscribe(&pattern("b").unwrap()).is_err());
            if seen.text().contains("refused to subscribe") {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        shown
    });
    let logged = seen.text();
    assert!(logged.contains("refused to subscribe"), "the log is looked at: {logged}");
    shown += &logged;
    for telltale in credentials().iter().flat_map(|credential| telltales(credential)) {
        assert!(!shown.contains(&telltale), "{telltale}");
    }
}

#[test]
fn configured_secrets_are_not_repeated_in_mistakes() {
    for algorithm in [Algorithm::RS256, Algorithm::HS256] {
        let secret = format!("-----BEGIN PUBLIC KEY-----{CANARY}");
        let key = KeyConfig { algorithm: Some(algorithm), ..KeyConfig::secret(Secret::new(secret)) };
        let mistakes = Access::new(AccessConfig { keys: vec![key], ..AccessConfig::default() }).unwrap_err();
        let said: String = mistakes.iter().map(|bad| format!("{bad} {bad:?}")).collect();
        assert!(!said.is_empty() && !said.contains(CANARY), "{said}");
    }
}

#[test]
fn a_refused_origin_is_in_the_log_with_what_would_allow_it() {
    let seen = Seen::default();
    let subscriber = tracing_subscriber::fmt().with_writer(seen.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        let cors = Cors::new(Origins::default());
        for _ in 0..3 {
            let page = request("/events?token=CANARYx7Qm", &[("origin", "https://app.example")]);
            cors.apply(&page, &mut http::HeaderMap::new());
        }
        let own =
            request("/publish", &[("origin", "https://own.example"), ("sec-fetch-site", "same-origin")]);
        Cors::new(Origins::default()).apply(&own, &mut http::HeaderMap::new());
    });
    let text = seen.text();
    assert_eq!(text.matches("[cors] origins = [\"https://app.example\"]").count(), 1, "{text}");
    assert!(!text.contains(CANARY) && !text.contains("own.example"), "{text}");
}
