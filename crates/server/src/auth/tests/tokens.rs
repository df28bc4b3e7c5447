//! Tokens, good and bad.

use proptest::prelude::*;

use super::*;

#[tokio::test]
async fn a_bare_token_gets_the_default_grants() {
    let access =
        access(AccessConfig { grants: templates(&["news", "orders/{sub}/*"], &["chat/{sub}"]), ..config() });
    let identity = identify(&access, &good_token(json!({}))).await.unwrap();
    assert_eq!(identity.user, Some("7".parse().unwrap()));
    assert_eq!(identity.expires, Some(NOW.plus(Duration::from_secs(3600))));
    assert!(!identity.admin);
    for (asked, granted) in [
        ("news", true),
        ("orders/7/*", true),
        ("orders/8/*", false),
        ("$user/7", true),
        ("$user/8", false),
        ("$all", true),
    ] {
        assert_eq!(may_subscribe(&identity, asked), granted, "{asked}");
    }
    for (name, granted) in
        [("chat/7", true), ("chat/8", false), ("news", false), ("$user/7", false), ("$all", false)]
    {
        assert_eq!(may_publish(&identity, name), granted, "{name}");
    }
}

#[tokio::test]
async fn a_token_says_its_own_grants() {
    let rights = json!({
        "subscribe": ["a/**"], "publish": ["b", "$user/*", "$all"], "presence": ["a/*"], "admin": true,
        "info": { "name": "Ada" }
    });
    let identity = identify(&access(config()), &good_token(json!({ "tidings": rights }))).await.unwrap();
    assert!(identity.admin);
    assert!(may_subscribe(&identity, "a/b/c") && !may_subscribe(&identity, "b"));
    assert!(
        may_publish(&identity, "b") && may_publish(&identity, "$user/8") && may_publish(&identity, "$all")
    );
    assert!(!may_publish(&identity, "a/b"));
    assert!(
        identity.may_see_presence(&pattern("a/b").unwrap())
            && !identity.may_see_presence(&pattern("b").unwrap())
    );
    assert_eq!(identity.info.unwrap().get(), r#"{"name":"Ada"}"#);

    let renamed = access(AccessConfig { claim: "https://a.example/rights".to_owned(), ..config() });
    let other = good_token(
        json!({ "https://a.example/rights": { "subscribe": ["a"] }, "tidings": { "subscribe": ["b"] } }),
    );
    let identity = identify(&renamed, &other).await.unwrap();
    assert!(may_subscribe(&identity, "a") && !may_subscribe(&identity, "b"));
}

#[tokio::test]
async fn a_users_id_widens_nothing() {
    let access =
        access(AccessConfig { grants: templates(&["orders/{sub}/*"], &["$user/{sub}"]), ..config() });
    for id in ["*", "**", "a/b", "..", "$all", "{sub}"] {
        let identity = identify(&access, &good_token(json!({ "sub": id }))).await.unwrap();
        for asked in ["orders/*/*", "orders/x/*", "orders/a/b", "orders/**", "$user/*", "$user/x", "**", "*"]
        {
            assert!(!may_subscribe(&identity, asked), "{id} {asked}");
        }
        assert!(!may_publish(&identity, "$user/x") && !may_publish(&identity, "$all"), "{id}");
    }
    for id in [json!(""), json!("a\nb"), json!("x".repeat(257)), json!(7), json!(null), json!(["7"])] {
        let token = good_token(json!({ "sub": id }));
        assert_eq!(refusal(identify(&access, &token).await), invalid(), "{id}");
    }
}

/// Each with a good signature: nothing but its content is wrong.
#[tokio::test]
async fn bad_claims_are_refused() {
    let access = access(config());
    let issuer = Issuer::shared(Algorithm::HS256);
    let header = json!({ "alg": "HS256" });
    let later = SECONDS + 3600;
    for claims in [
        r#"{"sub":"7"}"#.to_owned(),
        r#"{}"#.to_owned(),
        format!(r#"{{"sub":"7","exp":"{later}"}}"#),
        r#"{"sub":"7","exp":-1}"#.to_owned(),
        r#"{"sub":"7","exp":1e308}"#.to_owned(),
        r#"{"sub":"7","exp":1e999}"#.to_owned(),
        r#"{"sub":"7","exp":null}"#.to_owned(),
        r#"{"sub":"7","exp":true}"#.to_owned(),
        r#"{"sub":"7","exp":[99999999999]}"#.to_owned(),
        format!(r#"{{"sub":"7","exp":{}}}"#, NOW.0 + 3_600_000),
        format!(r#"{{"sub":"7","exp":{SECONDS}}}"#),
        format!(r#"{{"sub":"7","exp":{}}}"#, SECONDS - 1),
        format!(r#"{{"sub":"7","exp":{later},"exp":{later}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"nbf":{later}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"nbf":"0"}}"#),
        format!(r#"{{"sub":"7","exp":{later},"iat":{later}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"tidings":{{"subscrib":["a"]}}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"tidings":{{"subscribe":["**/a"]}}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"tidings":{{"subscribe":["a{{sub}}"]}}}}"#),
        format!(r#"{{"sub":"7","exp":{later},"tidings":"admin"}}"#),
        format!(r#"{{"sub":"7","exp":{later}}} trailing"#),
        format!(r#"{{"sub":"7","exp":{later}"#),
        format!(r#"{{"sub":"7","exp":{later},"x":{}}}"#, "[".repeat(5000)),
        "[]".to_owned(),
        "null".to_owned(),
        String::new(),
    ] {
        let token = issuer.token_with(&header, &claims);
        assert_eq!(refusal(identify(&access, &token).await), invalid(), "{claims}");
    }
}

#[tokio::test]
async fn times_are_those_of_the_caller() {
    let access = access(config());
    let token = good_token(json!({ "nbf": SECONDS, "iat": SECONDS }));
    let check = async |at: u64, good: bool| {
        // Twice: the second time it is known already.
        for _ in 0..2 {
            assert_eq!(identify_at(&access, &token, Timestamp(at)).await.is_ok(), good, "{at}");
        }
    };
    let end = NOW.0 + 3_600_000;
    check(NOW.0, true).await;
    check(end - 1, true).await;
    check(end, false).await;
    check(NOW.0 - 5_000, true).await;
    check(NOW.0 - 5_001, false).await;
    check(NOW.0, true).await;
}

#[tokio::test]
async fn a_leeway_lengthens_both_ends() {
    let access = access(AccessConfig { leeway: Duration::from_secs(30), ..config() });
    let token = good_token(json!({ "nbf": SECONDS }));
    let identity = identify(&access, &token).await.unwrap();
    let end = NOW.plus(Duration::from_secs(3630));
    assert_eq!(identity.expires, Some(end));
    assert!(identify_at(&access, &token, end.minus(Duration::from_millis(1))).await.is_ok());
    assert!(identify_at(&access, &token, end).await.is_err());
    assert!(identify_at(&access, &token, NOW.minus(Duration::from_secs(30))).await.is_ok());
    assert!(identify_at(&access, &token, NOW.minus(Duration::from_secs(31))).await.is_err());
}

#[tokio::test]
async fn services_may_be_without_an_end_where_that_is_configured() {
    let issuer = Issuer::shared(Algorithm::HS256);
    let service = issuer.token(&json!({ "tidings": { "publish": ["a"] } }));
    let user = issuer.token(&json!({ "sub": "7" }));
    assert_eq!(refusal(identify(&access(config()), &service).await), invalid());
    let endless = access(AccessConfig { endless_services: true, ..config() });
    let identity = identify(&endless, &service).await.unwrap();
    assert_eq!((identity.user.clone(), identity.expires), (None, None));
    assert!(may_publish(&identity, "a"));
    assert_eq!(refusal(identify(&endless, &user).await), invalid(), "a user's token has to end");
}

#[tokio::test]
async fn issuer_and_audience_are_checked_where_they_are_configured() {
    let strict = || KeyConfig {
        issuer: Some("https://id.example".to_owned()),
        audience: vec!["tidings".to_owned(), "events".to_owned()],
        ..KeyConfig::secret(Secret::new(SECRET))
    };
    let access_with = |keys| access(AccessConfig { keys, ..config() });
    let both = access_with(vec![strict()]);
    let check = async |claims: Value, good: bool| {
        let found = identify(&both, &good_token(claims.clone())).await;
        assert_eq!(found.is_ok(), good, "{claims}");
    };
    check(json!({ "iss": "https://id.example", "aud": "tidings" }), true).await;
    check(json!({ "iss": "https://id.example", "aud": ["x", "events"] }), true).await;
    check(json!({ "iss": "https://id.example", "aud": [] }), false).await;
    check(json!({ "iss": "https://id.example", "aud": "other" }), false).await;
    check(json!({ "iss": "https://id.example" }), false).await;
    check(json!({ "aud": "tidings" }), false).await;
    check(json!({ "iss": "https://id.example/", "aud": "tidings" }), false).await;
    let loose = good_token(json!({ "iss": "anybody", "aud": "anything" }));
    assert!(identify(&access(config()), &loose).await.is_ok(), "neither is configured");

    // One secret for two issuers: the second key's terms fit.
    let second = KeyConfig { issuer: Some("second".to_owned()), ..KeyConfig::secret(Secret::new(SECRET)) };
    let two = access_with(vec![strict(), second]);
    assert!(identify(&two, &good_token(json!({ "iss": "second" }))).await.is_ok());
    assert!(identify(&two, &good_token(json!({ "iss": "third" }))).await.is_err());
}

#[tokio::test]
async fn what_is_no_token_is_refused() {
    let access = access(config());
    let good = good_token(json!({}));
    let [header, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { unreachable!() };
    let other_claims = base64(json!({ "sub": "8", "exp": SECONDS + 3600 }).to_string());
    for bad in [
        ".".to_owned(),
        "..".to_owned(),
        "x".to_owned(),
        "a.b.c".to_owned(),
        format!("{header}.{claims}"),
        format!("{header}.{claims}."),
        format!("{header}.{claims}.{signature}.{signature}"),
        format!("{header}.{other_claims}.{signature}"),
        format!("{header}.{claims}.{}", &signature[1..]),
        format!("{header}.{claims}.{signature}="),
        format!("{header}.{claims}.{}", base64("short")),
        format!("{}.{claims}.{signature}", base64("{}")),
        format!("{}.{claims}.{signature}", base64(r#"{"alg":7}"#)),
        format!("{}.{claims}.{signature}", base64(b"\xff")),
        "a".repeat(20_000),
        format!("{good}{}", "A".repeat(20_000)),
    ] {
        assert_eq!(refusal(identify(&access, &bad).await), invalid(), "{}", &bad[..bad.len().min(200)]);
    }
    assert!(identify(&access, &good).await.is_ok());
}

#[tokio::test]
async fn a_known_token_is_not_let_in_in_another_form() {
    let access = access(config());
    let good = good_token(json!({}));
    assert!(identify(&access, &good).await.is_ok());
    let mut flipped = good.clone();
    let last = if flipped.pop() == Some('A') { 'B' } else { 'A' };
    flipped.push(last);
    assert!(identify(&access, &flipped).await.is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Nothing that can be in a header of a request lets anybody in or ends the process.
    #[test]
    fn no_text_is_a_token_by_chance(text in "[!-~]{0,200}", claims in "[ -~]{0,80}", header in "[ -~]{0,40}") {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let access = access(config());
        let made = format!("{}.{}.{}", base64(header), base64(&claims), base64("signature"));
        let signed = Issuer::shared(Algorithm::HS256).token_with(&json!({ "alg": "HS256" }), &claims);
        for token in [&text, &made, &signed] {
            prop_assert!(runtime.block_on(identify(&access, token)).is_err());
        }
    }
}
