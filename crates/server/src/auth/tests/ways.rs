//! Header, query, cookie; nobody; this machine only.

use http::header::HeaderValue;

use super::*;

async fn user(
    access: &Access,
    uri: &str,
    headers: &[(&str, &str)],
) -> Result<Option<String>, (u16, &'static str)> {
    let found = access.identify(&request(uri, headers), peer(), NOW).await;
    found
        .map(|identity| identity.user.map(|user| user.as_str().to_owned()))
        .map_err(|problem| (problem.status().as_u16(), problem.kind()))
}

fn of(user: &str) -> String {
    good_token(json!({ "sub": user }))
}

fn some(user: &str) -> Result<Option<String>, (u16, &'static str)> {
    Ok(Some(user.to_owned()))
}

#[tokio::test]
async fn the_first_credential_counts_whatever_the_others_are() {
    let access = access(config());
    let header = format!("Bearer {}", of("h"));
    let cookie = format!("tidings_token={}", of("c"));
    let query = format!("/events?token={}", of("q"));
    let page = ("sec-fetch-site", "same-origin");
    assert_eq!(
        user(&access, &query, &[("authorization", &header), ("cookie", &cookie), page]).await,
        some("h")
    );
    assert_eq!(user(&access, &query, &[("cookie", &cookie), page]).await, some("q"));
    assert_eq!(user(&access, "/publish", &[("cookie", &cookie), page]).await, some("c"));
    let stale = ("cookie", "tidings_token=stale");
    assert_eq!(user(&access, &query, &[stale, page]).await, some("q"));
    assert_eq!(user(&access, "/events", &[stale, page]).await, Err((401, "invalid_token")));
    // A bad one that counts is not passed over for a good one that doesn't.
    assert_eq!(user(&access, &query, &[("authorization", "Bearer bad")]).await, Err((401, "invalid_token")));
    assert_eq!(
        user(&access, "/events?token=bad", &[("cookie", &cookie), page]).await,
        Err((401, "invalid_token"))
    );
    assert_eq!(user(&access, &query, &[("authorization", "Basic dTpw")]).await, some("q"));
}

#[tokio::test]
async fn a_cookie_of_another_sites_making_does_not_count() {
    let origins = Origins::parse(["https://app.example"]).unwrap();
    let closed = access(AccessConfig { origins: origins.clone(), ..config() });
    let open = access(AccessConfig { origins, anonymous: Some(GrantTemplates::default()), ..config() });
    let token = format!("tidings_token={}", of("c"));
    let cookie = ("cookie", token.as_str());
    for headers in [&[("origin", "https://app.example")][..], &[("sec-fetch-site", "none")]] {
        assert_eq!(user(&closed, "/publish", &[&[cookie], headers].concat()).await, some("c"), "{headers:?}");
    }
    for headers in [
        &[][..],
        &[("origin", "https://evil.example")],
        &[("origin", "null")],
        &[("sec-fetch-site", "cross-site")],
        &[("sec-fetch-site", "same-site"), ("origin", "https://evil.app.example")],
    ] {
        for path in ["/publish", "/events", "/connections", "/history"] {
            let headers = [&[cookie], headers].concat();
            assert_eq!(user(&closed, path, &headers).await, Err((401, "unauthorized")), "{headers:?}");
            assert_eq!(user(&open, path, &headers).await, Ok(None), "{headers:?}");
        }
    }
    let problem = closed.identify(&request("/publish", &[cookie]), peer(), NOW).await.unwrap_err();
    assert!(problem.detail().contains("[cors] origins"), "{}", problem.detail());
}

#[tokio::test]
async fn nobody_gets_in_but_where_that_is_configured() {
    let found = access(config()).identify(&request("/events", &[]), peer(), NOW).await;
    assert_eq!(refusal(found), (401, "unauthorized", Some("Bearer".to_owned())));

    let open = access(AccessConfig { anonymous: Some(templates(&["public/**"], &["inbox"])), ..config() });
    let anonymous = open.identify(&request("/events?token=", &[]), peer(), NOW).await.unwrap();
    assert_eq!(anonymous.source(), Source::Anonymous);
    assert!(may_subscribe(&anonymous, "public/a") && may_subscribe(&anonymous, "$all"));
    assert!(!may_subscribe(&anonymous, "private") && may_publish(&anonymous, "inbox") && !anonymous.admin);
    let problem = anonymous.require_subscribe(&pattern("private").unwrap()).unwrap_err();
    assert_eq!((problem.status().as_u16(), problem.kind()), (401, "unauthorized"));
    assert_eq!(problem.headers()["www-authenticate"], HeaderValue::from_static("Bearer"));

    // Who has a token may do what anybody may; a bad token is not nobody.
    let known = identify(&open, &of("7")).await.unwrap();
    assert!(may_subscribe(&known, "public/a"));
    assert_eq!(refusal(identify(&open, "bad").await), invalid());
}

#[tokio::test]
async fn dev_is_for_this_machine_and_for_everything() {
    let dev = access(AccessConfig { dev: true, ..config() });
    let anybody = dev.identify(&request("/publish", &[]), peer(), NOW).await.unwrap();
    assert!(anybody.admin && may_subscribe(&anybody, "**") && may_publish(&anybody, "$all"));
    assert_eq!((anybody.user.clone(), anybody.expires), (None, None));

    let known = identify(&dev, &of("7")).await.unwrap();
    assert_eq!(known.user, Some("7".parse().unwrap()));
    assert!(known.expires.is_some() && known.admin && may_publish(&known, "$user/8"));
    assert_eq!(refusal(identify(&dev, "bad").await), invalid());
    let stale = [("cookie", "tidings_token=stale"), ("origin", "http://localhost:3000")];
    assert_eq!(user(&dev, "/events", &stale).await, Ok(None), "another program's cookie for localhost");

    let from = |peer: &str| peer.parse::<SocketAddr>().unwrap();
    let local = request("/events", &[]);
    assert_eq!(dev.identify(&local, from("10.0.0.7:1"), NOW).await.unwrap_err().status(), 403);
    assert_eq!(dev.guard(&local, from("10.0.0.7:1")).unwrap_err().status(), 403);
    assert!(dev.guard(&local, peer()).is_ok());
    for headers in
        [[("origin", "https://evil.example")], [("x-forwarded-for", "1.2.3.4")], [("via", "1.1 proxy")]]
    {
        assert_eq!(user(&dev, "/events", &headers).await.unwrap_err().0, 403, "{headers:?}");
    }
    let (foreign, ()) =
        Request::builder().uri("/events").header("host", "evil.example").body(()).unwrap().into_parts();
    assert_eq!(dev.identify(&foreign, peer(), NOW).await.unwrap_err().status(), 421);
    // Without --dev all of that is somebody else's business.
    let usual = access(config());
    assert!(usual.guard(&foreign, from("10.0.0.7:1")).is_ok());
}
