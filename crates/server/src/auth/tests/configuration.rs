//! Configurations, and tokens that are made by them.

use std::fs;

use super::*;

fn mistakes(config: AccessConfig) -> Vec<String> {
    Access::new(config).unwrap_err().iter().map(BadAccess::to_string).collect()
}

#[test]
fn all_mistakes_are_told_together() {
    let dir = tempfile::tempdir().unwrap();
    let missing = KeySource::File(dir.path().join("missing.pem"));
    let found = mistakes(AccessConfig {
        keys: vec![
            KeyConfig::secret(Secret::new("")),
            KeyConfig { source: missing, ..KeyConfig::secret(Secret::new("x")) },
        ],
        claim: "sub".to_owned(),
        cookie: "a=b".to_owned(),
        api_key: Some(Secret::new(" ")),
        anonymous: Some(templates(&["orders/{sub}"], &[])),
        ..AccessConfig::default()
    });
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn keys_that_can_not_be_used_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let written = std::cell::Cell::new(0);
    let file = |text: &str| {
        written.set(written.get() + 1);
        let path = dir.path().join(format!("{}.key", written.get()));
        fs::write(&path, text).unwrap();
        path
    };
    let p256 = Issuer::elliptic(Algorithm::ES256).public.unwrap();
    let rsa = Issuer::rsa(Algorithm::RS256).public.unwrap();
    let pem = |algorithm, text: &str| (Some(algorithm), KeySource::File(file(text)));
    let set = |algorithm, text: &str| (algorithm, KeySource::JwksFile(file(text)));
    let url = |text: &str| (None, KeySource::JwksUrl(text.to_owned()));
    let es256 = serde_json::json!({ "keys": [Issuer::elliptic(Algorithm::ES256).jwk("a")] }).to_string();
    let many = serde_json::json!({ "keys": vec![json!({}); 65] }).to_string();
    for ((algorithm, source), expected) in [
        ((None, KeySource::Secret(Secret::new(SECRET))), "alg is missing"),
        ((Some(Algorithm::RS256), KeySource::Secret(Secret::new(SECRET))), "RS256 has public keys"),
        (pem(Algorithm::ES384, &p256), "not a public key in PEM"),
        (pem(Algorithm::RS256, &p256), "not a public key in PEM"),
        (pem(Algorithm::EdDSA, &rsa), "not a public key in PEM"),
        (pem(Algorithm::ES256, &p256.replace("PUBLIC KEY", "PRIVATE KEY")), "private key"),
        (pem(Algorithm::RS256, &rsa.replace("PUBLIC KEY", "CERTIFICATE")), "not a public key in PEM"),
        (pem(Algorithm::RS256, ""), "not a public key in PEM"),
        (pem(Algorithm::HS256, "\n"), "the secret is empty"),
        (pem(Algorithm::HS256, &rsa), "key in PEM"),
        (set(None, "[]"), "not a set of keys"),
        (set(None, r#"{"keys":[]}"#), "none of its keys"),
        (
            set(None, r#"{"keys":[{"kty":"OKP","crv":"X25519","x":"AAAA"},{"kty":"new"},7]}"#),
            "none of its keys",
        ),
        (set(Some(Algorithm::RS256), &es256), "for the alg that is configured"),
        (set(None, &many), "65 keys"),
        (url("ftp://id.example/keys"), "begins with https://"),
        (url("https://user:password@id.example/keys"), "begins with https://"),
        (url("/keys"), "begins with https://"),
    ] {
        let key = KeyConfig { algorithm, source, ..KeyConfig::secret(Secret::new("")) };
        let found = mistakes(AccessConfig { keys: vec![key], ..AccessConfig::default() });
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{expected}: {}", found[0]);
        assert!(found[0].starts_with("[[auth.key]] 1: "), "{}", found[0]);
    }
}

#[tokio::test]
async fn sets_of_keys_are_read_from_files() {
    let dir = tempfile::tempdir().unwrap();
    let all = [
        Issuer::rsa(Algorithm::RS256),
        Issuer::elliptic(Algorithm::ES256),
        Issuer::elliptic(Algorithm::ES384),
        Issuer::edwards(),
    ];
    let mut keys: Vec<Value> =
        all.iter().enumerate().map(|(at, issuer)| issuer.jwk(&format!("key {at}"))).collect();
    // A key for another purpose, and one of a kind that nobody knows yet.
    let encryption = Issuer::elliptic(Algorithm::ES256);
    keys.push(encryption.jwk("enc"));
    keys[4]["use"] = "enc".into();
    keys.push(json!({ "kty": "new", "kid": "new" }));
    // One that says no algorithm.
    keys[0].as_object_mut().unwrap().remove("alg");
    let path = dir.path().join("set.json");
    fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();

    for source in [KeySource::JwksFile(path.clone()), KeySource::File(path)] {
        let key = KeyConfig { algorithm: None, source, ..KeyConfig::secret(Secret::new("")) };
        let access = access(AccessConfig { keys: vec![key], ..AccessConfig::default() });
        let claims = json!({ "sub": "7", "exp": SECONDS + 60 });
        for (at, issuer) in all.iter().enumerate() {
            for (header, good) in [
                (json!({ "alg": issuer.algorithm, "kid": format!("key {at}") }), true),
                (json!({ "alg": issuer.algorithm }), true),
                (json!({ "alg": issuer.algorithm, "kid": "key 9" }), false),
            ] {
                let found = identify(&access, &issuer.token_with(&header, &claims.to_string())).await;
                assert_eq!(found.is_ok(), good, "{header}");
            }
        }
        assert!(identify(&access, &encryption.token(&claims)).await.is_err());
        let ps256 = Issuer::rsa(Algorithm::PS256).token(&claims);
        assert!(identify(&access, &ps256).await.is_err(), "an RSA key that says no algorithm is for RS256");
    }
}

#[tokio::test]
async fn a_shared_secret_may_be_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    for end in ["", "\n", "\r\n"] {
        let path = dir.path().join("secret");
        fs::write(&path, format!("{SECRET}{end}")).unwrap();
        let key = KeyConfig { source: KeySource::File(path), ..KeyConfig::secret(Secret::new("")) };
        let access = access(AccessConfig { keys: vec![key.clone()], ..AccessConfig::default() });
        assert!(identify(&access, &good_token(json!({}))).await.is_ok());
        let made = NewToken { ttl: Duration::from_secs(60), ..NewToken::default() }
            .sign(&key, "tidings", NOW)
            .unwrap();
        assert!(identify(&access, made.expose()).await.is_ok());
    }
}

#[tokio::test]
async fn tokens_that_are_made_here_are_good_here() {
    let dir = tempfile::tempdir().unwrap();
    let own = KeyConfig::secret(Secrets::load_or_create(dir.path()).unwrap().jwt);
    let strict = KeyConfig {
        algorithm: Some(Algorithm::HS512),
        issuer: Some("i".to_owned()),
        audience: vec!["a".to_owned(), "b".to_owned()],
        ..KeyConfig::secret(Secret::new(SECRET))
    };
    for key in [own, strict] {
        let new = NewToken {
            user: Some("7".parse().unwrap()),
            grants: templates(&["orders/{sub}/*"], &["$user/8"]),
            admin: true,
            info: json!({"name": "Ann"}).as_object().cloned(),
            ttl: Duration::from_millis(1500),
        };
        let token = new.sign(&key, "rights", NOW).unwrap();
        let config = AccessConfig { keys: vec![key], claim: "rights".to_owned(), ..AccessConfig::default() };
        let identity = identify(&access(config), token.expose()).await.unwrap();
        assert_eq!(identity.user, new.user);
        assert_eq!(identity.info.as_ref().unwrap().get(), "{\"name\":\"Ann\"}");
        assert!(
            identity.admin && may_subscribe(&identity, "orders/7/1") && may_publish(&identity, "$user/8")
        );
        assert_eq!(identity.expires, Some(NOW.plus(Duration::from_secs(2))));
    }
    let public = Issuer::rsa(Algorithm::RS256).config(&dir);
    assert_eq!(NewToken::default().sign(&public, "tidings", NOW), Err(MintError::PublicKey));
}
