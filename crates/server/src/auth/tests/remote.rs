//! Sets of keys that are fetched.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// An issuer's web server: answers everything with one text, and counts.
#[derive(Clone)]
struct Web {
    url: String,
    answer: Arc<Mutex<String>>,
    asked: Arc<AtomicUsize>,
}

impl Web {
    async fn start(answer: String) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let web = Web { url, answer: Arc::new(Mutex::new(answer)), asked: Arc::default() };
        let served = web.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                served.asked.fetch_add(1, Ordering::SeqCst);
                let answer = served.answer.lock().unwrap().clone();
                // Whoever refuses an answer half-way may be gone.
                let _ = socket.write_all(answer.as_bytes()).await;
            }
        });
        web
    }

    fn says(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn key(&self) -> KeyConfig {
        KeyConfig {
            algorithm: None,
            source: KeySource::JwksUrl(self.url.clone()),
            ..KeyConfig::secret(Secret::new(""))
        }
    }
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn set(keys: &[(&Issuer, &str)]) -> String {
    let keys: Vec<Value> = keys.iter().map(|(issuer, kid)| issuer.jwk(kid)).collect();
    answer("200 OK", &json!({ "keys": keys }).to_string())
}

fn token(issuer: &Issuer, kid: &str, more: Value) -> String {
    let mut claims = json!({ "sub": "7", "exp": SECONDS + 86_400 });
    claims.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    issuer.token_with(&json!({ "alg": issuer.algorithm, "kid": kid }), &claims.to_string())
}

fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}

#[tokio::test]
async fn keys_are_fetched_once_and_again_when_the_issuer_rotates() {
    let (old, new) = (Issuer::elliptic(Algorithm::ES256), Issuer::elliptic(Algorithm::ES256));
    let web = Web::start(set(&[(&old, "old")])).await;
    let access = access(AccessConfig { keys: vec![web.key()], ..AccessConfig::default() });
    assert_eq!(web.asked(), 0);
    for n in 0..3 {
        assert!(identify(&access, &token(&old, "old", json!({ "n": n }))).await.is_ok());
    }
    assert_eq!(web.asked(), 1);

    // Rotated: the unknown key id leads to another fetch, at most every ten seconds.
    web.says(set(&[(&old, "old"), (&new, "new")]));
    let rotated = token(&new, "new", json!({}));
    assert_eq!(refusal(identify_at(&access, &rotated, later(9)).await), invalid());
    assert_eq!(web.asked(), 1);
    assert!(identify_at(&access, &rotated, later(10)).await.is_ok());
    assert_eq!(web.asked(), 2);
    for n in 0..20 {
        let unknown = token(&new, &format!("made up {n}"), json!({}));
        assert_eq!(refusal(identify_at(&access, &unknown, later(15)).await), invalid());
    }
    assert_eq!(web.asked(), 2, "made-up key ids are no lever");

    // Withdrawn: its tokens are refused when the set was fetched anew, those that were verified before as well.
    let known = token(&old, "old", json!({}));
    assert!(identify_at(&access, &known, later(20)).await.is_ok());
    web.says(set(&[(&new, "new")]));
    assert!(identify_at(&access, &known, later(609)).await.is_ok());
    assert_eq!(refusal(identify_at(&access, &known, later(621)).await), invalid());
    assert!(identify_at(&access, &rotated, later(622)).await.is_ok());
}

#[tokio::test]
async fn an_issuer_that_is_away_is_no_reason_to_send_anybody_away_for_good() {
    let issuer = Issuer::elliptic(Algorithm::ES256);
    let web = Web::start(answer("500 Internal Server Error", "")).await;
    let access = access(AccessConfig { keys: vec![web.key()], ..AccessConfig::default() });
    let token = token(&issuer, "a", json!({}));
    for answer in [
        answer("500 Internal Server Error", ""),
        answer("302 Found\r\nlocation: http://127.0.0.1:1/", ""),
        answer("200 OK", "<html>"),
        answer("200 OK", r#"{"keys":[]}"#),
        answer("200 OK", &" ".repeat(300_000)),
        "garbage\r\n\r\n".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let (at, answer) = answer;
        web.says(answer);
        let found = identify_at(&access, &token, later(20 * at as u64)).await;
        assert_eq!(refusal(found), (503, "keys_unavailable", None), "{at}");
    }
    let asked = web.asked();
    assert_eq!(identify_at(&access, &token, later(101)).await.unwrap_err().headers()["retry-after"], "10");
    assert_eq!(web.asked(), asked, "not asked again at once");

    web.says(set(&[(&issuer, "a")]));
    assert!(identify_at(&access, &token, later(200)).await.is_ok());
    // Once known, the keys stay good while the issuer is away.
    web.says(answer("500 Internal Server Error", ""));
    assert!(identify_at(&access, &token, later(5000)).await.is_ok());
    assert!(web.asked() > asked + 1);
}

#[tokio::test]
async fn the_same_key_id_at_two_issuers_is_two_keys() {
    let (a, b) = (Issuer::elliptic(Algorithm::ES256), Issuer::elliptic(Algorithm::ES256));
    let (web_a, web_b) = (Web::start(set(&[(&a, "1")])).await, Web::start(set(&[(&b, "1")])).await);
    let keys = vec![
        KeyConfig { issuer: Some("a".to_owned()), ..web_a.key() },
        KeyConfig { issuer: Some("b".to_owned()), ..web_b.key() },
    ];
    let access = access(AccessConfig { keys, ..AccessConfig::default() });
    for (issuer, name, good) in [(&a, "a", true), (&b, "b", true), (&a, "b", false), (&b, "a", false)] {
        let found = identify(&access, &token(issuer, "1", json!({ "iss": name }))).await;
        assert_eq!(found.is_ok(), good, "{name}");
    }
}

#[tokio::test]
async fn a_public_set_has_no_secrets() {
    let shared = json!({ "keys": [{ "kty": "oct", "alg": "HS256", "kid": "a", "k": base64(SECRET) }] });
    let web = Web::start(answer("200 OK", &shared.to_string())).await;
    let access = access(AccessConfig { keys: vec![web.key()], ..AccessConfig::default() });
    let forged = token(&Issuer::shared(Algorithm::HS256), "a", json!({}));
    assert!(identify(&access, &forged).await.is_err());
}

#[tokio::test]
async fn keys_at_hand_need_nobody() {
    let web = Web::start(answer("500 Internal Server Error", "")).await;
    let keys = vec![KeyConfig::secret(Secret::new(SECRET)), web.key()];
    let access = access(AccessConfig { keys, ..AccessConfig::default() });
    assert!(identify(&access, &good_token(json!({}))).await.is_ok());
    assert_eq!(web.asked(), 0);
}

#[tokio::test]
async fn many_at_once_ask_once() {
    let issuer = Issuer::elliptic(Algorithm::ES256);
    let web = Web::start(set(&[(&issuer, "a")])).await;
    let access = Arc::new(access(AccessConfig { keys: vec![web.key()], ..AccessConfig::default() }));
    let tasks: Vec<_> = (0..50)
        .map(|n| {
            let (access, token) = (access.clone(), token(&issuer, "a", json!({ "n": n })));
            tokio::spawn(async move { identify(&access, &token).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(web.asked(), 1);
}
