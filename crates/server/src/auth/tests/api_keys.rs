//! API keys: made and revoked by the command while the server runs.

use std::fs;

use super::*;

fn later(milliseconds: u64) -> Timestamp {
    NOW.plus(Duration::from_millis(milliseconds))
}

async fn with_header(access: &Access, key: &Secret, now: Timestamp) -> Result<Identity, Problem> {
    access.identify(&request("/publish", &[("x-api-key", key.expose())]), peer(), now).await
}

#[tokio::test]
async fn keys_are_made_and_revoked_under_a_running_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    let access = access(AccessConfig { api_keys: Some(file.clone()), ..config() });
    assert_eq!(file.list().unwrap(), []);

    let (made, key) = file.create(Some("shop"), &templates(&[], &["orders/**"]), false, NOW).unwrap();
    assert!(key.expose().starts_with("tk_") && key.expose().starts_with(&made.id) && key.expose().len() > 50);
    for now in [NOW, later(1)] {
        let identity = identify_at(&access, key.expose(), now).await.unwrap();
        assert_eq!(
            (identity.user.clone(), identity.expires, identity.source()),
            (None, None, Source::ApiKey)
        );
        assert!(may_publish(&identity, "orders/1/2") && !may_publish(&identity, "news") && !identity.admin);
        assert!(!may_subscribe(&identity, "orders/1"));
    }
    // A second one is known at once, though the file was looked at this moment.
    let (second, second_key) = file.create(None, &GrantTemplates::default(), true, NOW).unwrap();
    assert!(with_header(&access, &second_key, later(2)).await.unwrap().admin);
    assert_eq!(file.list().unwrap(), [made.clone(), second.clone()]);

    // The first is refused a second later, the other stays.
    assert_eq!(file.revoke("shop").unwrap(), made);
    assert_eq!(refusal(with_header(&access, &key, later(1500)).await), invalid());
    assert!(with_header(&access, &second_key, later(1500)).await.is_ok());
    assert!(matches!(file.revoke("shop"), Err(ApiKeyError::NotFound(_))));
    file.revoke(&second.id).unwrap();
    assert_eq!(refusal(with_header(&access, &second_key, later(3000)).await), invalid());
}

#[tokio::test]
async fn what_is_no_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    let (made, key) = file.create(Some("shop"), &templates(&[], &["a"]), false, NOW).unwrap();
    let access = access(AccessConfig { api_keys: Some(file), ..config() });
    for bad in ["tk_", "tk_x", &made.id, &format!("{}x", key.expose()), &key.expose()[..50], "shop"] {
        assert_eq!(refusal(with_header(&access, &Secret::new(bad), NOW).await), invalid(), "{bad}");
        assert_eq!(refusal(identify(&access, bad).await), invalid(), "{bad}");
    }
    // In a query or cookie it would end in logs and histories.
    let query = format!("/publish?token={}", key.expose());
    assert_eq!(refusal(access.identify(&request(&query, &[]), peer(), NOW).await), invalid());
}

#[tokio::test]
async fn the_key_of_the_environment_may_do_everything() {
    let access = access(AccessConfig { api_key: Some(Secret::new("from the environment")), ..config() });
    for found in [
        with_header(&access, &Secret::new("from the environment"), NOW).await,
        identify(&access, "from the environment").await,
    ] {
        let identity = found.unwrap();
        assert!(identity.admin && may_publish(&identity, "$all") && may_subscribe(&identity, "**"));
    }
    assert_eq!(refusal(with_header(&access, &Secret::new("another"), NOW).await), invalid());
}

#[test]
fn the_file_has_hashes_only_and_only_for_the_owner() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let file = ApiKeyFile::in_directory(&data);
    let (_, key) = file.create(Some("shop"), &templates(&["a"], &["b"]), false, NOW).unwrap();
    let path = data.join(ApiKeyFile::FILE);
    let text = fs::read_to_string(&path).unwrap();
    // The random part may have a "_" of its own.
    let secret = key.expose().splitn(3, '_').last().unwrap();
    assert!(!text.contains(key.expose()) && !text.contains(&secret[..20]));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[test]
fn a_key_has_to_make_sense() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    let some = templates(&[], &["a"]);
    assert!(matches!(file.create(None, &GrantTemplates::default(), false, NOW), Err(ApiKeyError::NoGrant)));
    let user = templates(&["orders/{sub}"], &["a"]);
    assert!(matches!(file.create(None, &user, false, NOW), Err(ApiKeyError::NeedsUser(_))));
    for name in ["", "a\nb", &"x".repeat(129)] {
        assert!(matches!(file.create(Some(name), &some, false, NOW), Err(ApiKeyError::BadName)), "{name:?}");
    }
    file.create(Some("shop"), &some, false, NOW).unwrap();
    assert!(matches!(file.create(Some("shop"), &some, false, NOW), Err(ApiKeyError::NameTaken(_))));
}

#[test]
fn commands_at_once_lose_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| file.create(None, &templates(&[], &["a"]), false, NOW).unwrap());
        }
    });
    assert_eq!(file.list().unwrap().len(), 8);
}

#[tokio::test]
async fn a_damaged_file_stops_the_start_but_not_a_running_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = ApiKeyFile::in_directory(dir.path());
    let (_, key) = file.create(None, &templates(&[], &["a"]), false, NOW).unwrap();
    let access = access(AccessConfig { api_keys: Some(file.clone()), ..config() });
    for text in ["", "{", r#"{"version":2,"keys":[]}"#, r#"{"version":1,"keys":[{"id":"tk_1"}]}"#] {
        fs::write(dir.path().join(ApiKeyFile::FILE), text).unwrap();
        let mistakes = Access::new(AccessConfig { api_keys: Some(file.clone()), ..config() }).unwrap_err();
        assert!(matches!(mistakes[..], [BadAccess::ApiKeys(ApiKeyError::Damaged { .. })]), "{mistakes:?}");
        assert!(with_header(&access, &key, later(5000)).await.is_ok());
    }
    // Removed is not damaged: all keys are revoked.
    fs::remove_file(dir.path().join(ApiKeyFile::FILE)).unwrap();
    assert_eq!(refusal(with_header(&access, &key, later(10_000)).await), invalid());
}
