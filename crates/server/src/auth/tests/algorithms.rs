//! The algorithm belongs to the key, never to the token.

use super::*;

fn everybody() -> Vec<Issuer> {
    use Algorithm::*;
    let mut all: Vec<Issuer> = [HS256, HS384, HS512].map(Issuer::shared).into();
    all.extend([RS256, RS384, RS512, PS256, PS384, PS512].map(Issuer::rsa));
    all.extend([ES256, ES384].map(Issuer::elliptic));
    all.push(Issuer::edwards());
    all
}

fn claims() -> Value {
    json!({ "sub": "7", "exp": SECONDS + 3600 })
}

#[tokio::test]
async fn each_algorithm_verifies_its_own_tokens_and_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let all = everybody();
    for mine in &all {
        let access = access(AccessConfig { keys: vec![mine.config(&dir)], ..AccessConfig::default() });
        for theirs in &all {
            let found = identify(&access, &theirs.token(&claims())).await;
            let same = mine.algorithm == theirs.algorithm;
            assert_eq!(found.is_ok(), same, "{:?} with {:?}", theirs.algorithm, mine.algorithm);
        }
        // Another key of the same algorithm.
        if mine.public.is_some() && !matches!(mine.algorithm.family(), jsonwebtoken::AlgorithmFamily::Rsa) {
            let other = match mine.algorithm {
                Algorithm::EdDSA => Issuer::edwards(),
                algorithm => Issuer::elliptic(algorithm),
            };
            assert_eq!(refusal(identify(&access, &other.token(&claims())).await), invalid());
        }
    }
}

#[tokio::test]
async fn all_keys_that_are_configured_count() {
    let dir = tempfile::tempdir().unwrap();
    let all = everybody();
    let keys = all.iter().map(|issuer| issuer.config(&dir)).collect();
    let access = access(AccessConfig { keys, ..AccessConfig::default() });
    for issuer in &all {
        let found = identify(&access, &issuer.token(&claims())).await;
        assert!(found.is_ok(), "{:?}: {found:?}", issuer.algorithm);
    }
}

#[tokio::test]
async fn an_unsigned_token_is_refused() {
    let access = access(config());
    for alg in ["none", "None", "NONE", "nOnE", "", "HS257", "hs256", "RSA1_5", "A128KW"] {
        for signature in [String::new(), base64("x")] {
            let header = base64(json!({ "alg": alg, "typ": "JWT" }).to_string());
            let token = format!("{header}.{}.{signature}", base64(claims().to_string()));
            assert_eq!(refusal(identify(&access, &token).await), invalid(), "{alg}");
        }
    }
    let header = base64(r#"{"typ":"JWT"}"#);
    let token = format!("{header}.{}.", base64(claims().to_string()));
    assert_eq!(refusal(identify(&access, &token).await), invalid());
}

/// The classic: the public key, which everybody has, as the secret of HS256.
#[tokio::test]
async fn a_public_key_is_no_secret() {
    let dir = tempfile::tempdir().unwrap();
    for victim in [Issuer::rsa(Algorithm::RS256), Issuer::elliptic(Algorithm::ES256), Issuer::edwards()] {
        let access = access(AccessConfig { keys: vec![victim.config(&dir)], ..AccessConfig::default() });
        let public = victim.public.clone().unwrap();
        for secret in [public.as_str(), public.trim_end(), ""] {
            for algorithm in [Algorithm::HS256, Algorithm::HS512] {
                let forger =
                    Issuer { algorithm, key: EncodingKey::from_secret(secret.as_bytes()), public: None };
                assert_eq!(refusal(identify(&access, &forger.token(&claims())).await), invalid());
                // The same with the header of the victim's algorithm.
                let header = json!({ "alg": victim.algorithm });
                let forged = forger.token_with(&header, &claims().to_string());
                assert_eq!(refusal(identify(&access, &forged).await), invalid());
            }
        }
    }
    let rsa = Issuer::rsa(Algorithm::RS256).public.unwrap();
    let confused = KeyConfig::secret(Secret::new(rsa));
    let mistakes = Access::new(AccessConfig { keys: vec![confused], ..AccessConfig::default() }).unwrap_err();
    assert!(matches!(mistakes[..], [BadAccess::Key { number: 1, bad: BadKey::PemAsSecret }]), "{mistakes:?}");
}

#[tokio::test]
async fn a_key_id_only_selects_among_the_keys_that_there_are() {
    let named = |kid: &str, secret: &str| KeyConfig {
        kid: Some(kid.to_owned()),
        ..KeyConfig::secret(Secret::new(secret))
    };
    let other = "another secret of the tests, of 44 characters";
    let access = access(AccessConfig { keys: vec![named("a", SECRET), named("b", other)], ..config() });
    let issuer = Issuer::shared(Algorithm::HS256);
    let check = async |kid: Value, good: bool| {
        let token = issuer.token_with(&json!({ "alg": "HS256", "kid": kid }), &claims().to_string());
        assert_eq!(identify(&access, &token).await.is_ok(), good, "{kid}");
    };
    check(json!("a"), true).await;
    check(json!(null), true).await;
    for kid in [
        "b",
        "A",
        "",
        "../../../../dev/null",
        "/dev/null",
        "file:///etc/passwd",
        "a' OR '1'='1",
        "http://127.0.0.1/",
    ] {
        check(json!(kid), false).await;
    }
    check(json!(7), false).await;
    check(json!(["a"]), false).await;
    check(json!("x".repeat(5000)), false).await;
    // What else a header may name is not looked at: keys and places to get them from.
    let header = json!({ "alg": "HS256", "kid": "zz", "jku": "http://127.0.0.1:1/", "jwk": { "kty": "oct", "k": base64(SECRET) } });
    assert!(identify(&access, &issuer.token_with(&header, &claims().to_string())).await.is_err());
}

#[tokio::test]
async fn demanded_extensions_are_refused() {
    let header = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    let token = Issuer::shared(Algorithm::HS256).token_with(&header, &claims().to_string());
    assert_eq!(refusal(identify(&access(config()), &token).await), invalid());
}
