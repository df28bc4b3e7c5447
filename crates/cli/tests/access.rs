//! Tokens and keys by the command line, and that they are never seen.

mod harness;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use harness::{PATIENCE, Running, Server, run, stderr, stdout_of, tidings};

#[test]
fn a_token_made_before_the_first_start_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let token = stdout_of(
        tidings().args(["token", "--sub", "ada", "--subscribe", "orders/{sub}/*", "--data-dir"]).arg(&data),
    );
    let server = Server::start(&data, &[]);
    let later = server.token(&["--publish", "orders/**", "--publish", "$user/*"]);

    let refused = run(server.client("publish").args(["orders/ada/1", "x"]));
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("TIDINGS_TOKEN"), "{}", stderr(&refused));
    let refused = run(server.client("publish").args(["orders/ada/1", "x"]).env("TIDINGS_TOKEN", &token));
    assert_eq!(refused.status.code(), Some(1), "it may only subscribe");
    let refused = run(server.client("subscribe").args(["orders/bob/*"]).env("TIDINGS_TOKEN", &token));
    assert_eq!(refused.status.code(), Some(1), "another's");
    // Of another data directory: it is said where good ones come from.
    let elsewhere = dir.path().join("elsewhere");
    let foreign = stdout_of(tidings().args(["token", "--sub", "ada", "--data-dir"]).arg(&elsewhere));
    let refused = run(server.client("subscribe").args(["orders/ada/1", "--token", &foreign]));
    let said = stderr(&refused);
    assert_eq!(refused.status.code(), Some(1));
    for what in ["401 invalid_token", "another secret", "`tidings token`", "--data-dir"] {
        assert!(said.contains(what), "{said}");
    }

    let subscriber =
        Running::start(server.client("subscribe").arg("orders/ada/*").env("TIDINGS_TOKEN", &token));
    subscriber.wait_for("as ada");
    stdout_of(server.client("publish").args(["orders/ada/1", "paid", "--token", &later]));
    assert_eq!(subscriber.line(), "orders/ada/1  paid");
    stdout_of(server.client("publish").args([
        "--user",
        "ada",
        "--event",
        "mail",
        "you have mail",
        "--token",
        &later,
    ]));
    assert_eq!(subscriber.line(), "$user/ada  mail  you have mail");
    server.stop();
}

#[test]
fn keys_are_made_listed_and_revoked_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), &[]);
    let key = |arguments: &[&str]| {
        let mut command = tidings();
        command.arg("key").args(arguments).arg("--data-dir").arg(dir.path());
        command
    };
    let made = stdout_of(&mut key(&["create", "--name", "shop", "--publish", "orders/**"]));
    assert!(made.starts_with("tk_"), "{made}");
    let listed = stdout_of(&mut key(&["list"]));
    assert!(
        listed.contains("shop") && listed.contains("publish orders/**") && !listed.contains(&made),
        "{listed}"
    );
    assert!(stdout_of(&mut key(&["list", "--json"])).contains("\"publish\":[\"orders/**\"]"));

    stdout_of(server.client("publish").args(["orders/1", "x"]).env("TIDINGS_API_KEY", &made));
    let elsewhere = run(server.client("publish").args(["news", "x"]).env("TIDINGS_API_KEY", &made));
    assert_eq!(elsewhere.status.code(), Some(1));
    assert_eq!(
        run(&mut key(&["create", "--name", "shop", "--admin"])).status.code(),
        Some(1),
        "the name is taken"
    );
    assert_eq!(run(&mut key(&["create"])).status.code(), Some(2), "it may do nothing");

    assert!(run(&mut key(&["revoke", "shop"])).status.success());
    assert_eq!(run(&mut key(&["revoke", "shop"])).status.code(), Some(1));
    let end = Instant::now() + PATIENCE;
    while run(server.client("publish").args(["orders/1", "x"]).env("TIDINGS_API_KEY", &made)).status.success()
    {
        assert!(Instant::now() < end, "a revoked key is still good");
    }
}

#[test]
fn configured_keys_sign_and_verify() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    std::fs::write(
        &file,
        "[[auth.key]]\nalg = \"HS512\"\nsecret = \"a-secret-of-thirty-two-characters\"\nissuer = \"me\"\n\
         [auth]\nclaim = \"rights\"\ngrants = { subscribe = [\"news\"] }\nanonymous = { subscribe = [\"public/**\"] }\n",
    )
    .unwrap();
    let data = dir.path().join("data");
    let file = file.to_str().unwrap();
    let server = Server::start(&data, &["--config", file]);
    let token = server.token(&["--config", file, "--sub", "ada", "--publish", "public/*"]);
    let own = server.token(&["--sub", "ada", "--publish", "public/*"]);
    stdout_of(server.client("publish").args(["public/a", "hello", "--token", &token]));
    let refused = run(server.client("publish").args(["public/a", "hello", "--token", &own]));
    assert_eq!(refused.status.code(), Some(1), "with a key configured the server's own secret is none");
    let read = stdout_of(server.client("subscribe").args(["public/**", "--earliest", "--count", "1"]));
    assert_eq!(read, "public/a  hello", "anybody may");
    let subscriber = Running::start(server.client("subscribe").args(["news", "--token", &token]));
    subscriber.wait_for("as ada");
}

#[test]
fn the_secret_of_the_environment_signs_and_verifies() {
    let dir = tempfile::tempdir().unwrap();
    let environment = [
        ("TIDINGS_JWT_SECRET", "canary-secret-of-thirty-two-bytes"),
        ("TIDINGS_API_KEY", "canary-key-of-the-back-end"),
    ];
    let server = Server::start_with(dir.path(), &[], &environment);
    let token = stdout_of(
        tidings()
            .args(["token", "--publish", "a", "--data-dir"])
            .arg(dir.path())
            .env(environment[0].0, environment[0].1),
    );
    stdout_of(server.client("publish").args(["a", "x", "--token", &token]));
    stdout_of(server.client("publish").args(["--broadcast", "x"]).env("TIDINGS_API_KEY", environment[1].1));
    assert!(!server.stop().contains("canary"));
}

#[test]
fn no_credential_is_ever_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start_with(dir.path(), &[], &[("RUST_LOG", "trace")]);
    let good = server.token(&["--sub", "ada", "--subscribe", "a", "--publish", "a", "--admin"]);
    let key = stdout_of(tidings().args(["key", "create", "--admin", "--data-dir"]).arg(dir.path()));
    let bad = "canary.canary.canary";
    for credential in [&good, bad, &key, "tk_canary0_canary"] {
        for head in [
            format!("GET /events?channel=a&token={credential} HTTP/1.1"),
            format!("GET /events?channel=a&access_token={credential} HTTP/1.1"),
            format!("GET /events?channel=a HTTP/1.1\r\nAuthorization: Bearer {credential}"),
            format!("GET /events?channel=a HTTP/1.1\r\nX-API-Key: {credential}"),
            format!(
                "GET /events?channel=a HTTP/1.1\r\nCookie: tidings_token={credential}\r\nSec-Fetch-Site: same-origin"
            ),
            format!("GET /history?channel=a&token={credential} HTTP/1.1"),
            format!("GET /stats?token={credential} HTTP/1.1"),
            format!("GET /nothing/{credential}?token={credential} HTTP/1.1"),
            format!("GET /events?token={credential}&channel=//&last_event_id={credential} HTTP/1.1"),
            format!("DELETE /connections?user=x&token={credential} HTTP/1.1"),
        ] {
            server.request(&head);
        }
        // Heads that are none, and one that never ends.
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let _ = write!(
            socket,
            "GET /events?token={credential} HTTP/9\r\nAuthorization: Bearer {credential}\r\n\r\n"
        );
        let mut socket = TcpStream::connect(server.address()).unwrap();
        let _ = write!(
            socket,
            "GET /events?token={credential} HTTP/1.1\r\nAuthorization: Bearer {credential}\r\n"
        );
    }
    let written = server.stop();
    // A path is no place for a token, and is logged.
    let in_paths = written.lines().filter(|line| !line.contains("/nothing/"));
    for line in in_paths {
        for credential in ["canary", &good, key.rsplit('_').next().unwrap()] {
            assert!(!line.contains(credential), "{line}");
        }
    }
    assert!(written.contains("TRACE") || written.contains("DEBUG"), "nothing was logged at all");
}
