//! Commands without a server: exit codes, what is said, completions.

mod harness;

use harness::{run, stderr, stdout_of, tidings};

#[test]
fn mistakes_in_a_configuration_are_listed_with_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    std::fs::write(&file, "lisen = \"127.0.0.1:1\"\nheartbeat = 15\n[limits]\nper_user = 5\n").unwrap();
    for command in [&["check"][..], &["serve"], &["token", "--sub", "a"], &["key", "list"]] {
        let output = run(tidings().args(command).arg("--config").arg(&file).env("TIDINGS_RETRY", "soon"));
        assert_eq!(output.status.code(), Some(2), "{command:?}");
        let said = stderr(&output);
        let at = file.display();
        for mistake in [
            format!("{at}:1: lisen is not a setting, did you mean listen?"),
            format!("{at}:2: heartbeat: write the unit, like \"15s\""),
            "TIDINGS_RETRY: \"soon\" is not a duration".to_owned(),
        ] {
            assert!(said.contains(&mistake), "{mistake}\nnot in\n{said}");
        }
        assert!(said.contains("3 mistakes"), "{said}");
    }
}

#[test]
fn check_prints_what_comes_out_and_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tidings.toml");
    std::fs::write(
        &file,
        "heartbeat = \"20s\"\n[[auth.key]]\nalg = \"HS256\"\nsecret = \"canary-secret-of-thirty-two-bytes\"\n",
    )
    .unwrap();
    let shown =
        stdout_of(tidings().arg("check").arg("--config").arg(&file).env("TIDINGS_LIMITS__PER_USER", "5"));
    for line in ["heartbeat = \"20s\"", "per_user = 5", "secret = \"(hidden)\"", "# TIDINGS_LIMITS__PER_USER"]
    {
        assert!(shown.contains(line), "{line}\nnot in\n{shown}");
    }
    assert!(!shown.contains("canary"), "{shown}");
    // Rules of which nothing was said are rules too.
    let users = "[[retention]]\nchannels = \"$user/*\"";
    assert!(shown.contains(users) && shown.contains("count = 1000"), "{shown}");
    let by_environment = stdout_of(tidings().arg("check").env("TIDINGS_CONFIG", &file));
    assert!(by_environment.contains("heartbeat = \"20s\""));

    std::fs::write(&file, "[[auth.key]]\nalg = \"RS256\"\nfile = \"/nowhere/key.pem\"\n").unwrap();
    let output = run(tidings().arg("check").arg("--config").arg(&file));
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("tidings.toml:1: [[auth.key]] 1: can't read /nowhere/key.pem"),
        "{}",
        stderr(&output)
    );
    let output = run(tidings().args(["check", "--config", "/nowhere/tidings.toml"]));
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_log_on_redis_needs_a_redis() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(tidings().args(["serve", "--log", "redis"]).current_dir(dir.path()));
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("set redis.url"), "{}", stderr(&output));
    // Nobody listens at port 1.
    let away =
        ["serve", "--listen", "127.0.0.1:0", "--log", "redis", "--redis", "redis://:canary@127.0.0.1:1"];
    let output = run(tidings().args(away).current_dir(dir.path()));
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("can't be opened: Redis is out of reach"), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn exit_codes_tell_usage_from_failure() {
    let dir = tempfile::tempdir().unwrap();
    let code = |arguments: &[&str]| run(tidings().args(arguments).current_dir(dir.path())).status.code();
    for usage in [
        &[][..],
        &["nonsense"],
        &["serve", "--nonsense"],
        &["publish"],
        &["publish", "a", "b", "c"],
        &["publish", "a", "x", "--stdin"],
        &["publish", "a", "{", "--json"],
        &["publish", "a", "x", "--ttl", "long"],
        &["publish", "a", "x", "--url", "nowhere"],
        &["publish", "a", "x", "--tag", "a"],
        &["publish", "a", "--end", "--stdin"],
        &["publish", "a", "x", "--end", "--ephemeral"],
        &["subscribe", "--history", "5000"],
        &["subscribe", "--history", "5", "--earliest"],
        &["subscribe", "a", "--history", "newest"],
        &["subscribe", "--presence"],
        &["subscribe", "a", "--presence", "--only"],
        &["history"],
        &["history", "a", "--limit", "0"],
        &["history", "a", "--order", "up"],
        &["token"],
        &["token", "--sub", "a", "--ttl", "0s"],
        &["token", "--sub", "a", "--subscribe", "a//b"],
        &["key", "create"],
    ] {
        assert_eq!(code(usage), Some(2), "{usage:?}");
    }
    // Port 9 is nobody's on this machine.
    assert_eq!(code(&["publish", "a", "x", "--url", "http://127.0.0.1:9"]), Some(1));
    assert_eq!(code(&["key", "revoke", "nobody"]), Some(1));
    // One id in 64 begins so.
    for flag in ["--after", "--until"] {
        assert_eq!(code(&["history", "a", flag, "-x", "--url", "http://127.0.0.1:9"]), Some(1));
    }
    for fine in [&["--help"][..], &["--version"], &["serve", "--help"], &["check"]] {
        assert_eq!(code(fine), Some(0), "{fine:?}");
    }
}

#[test]
fn help_teaches_by_examples_and_says_the_exit_codes() {
    for command in ["serve", "publish", "subscribe", "history", "token", "key", "check"] {
        let help = stdout_of(tidings().args([command, "--help"]));
        assert!(help.contains("Exit codes: 0 done, 1 failed, 2 wrong usage"), "{help}");
        assert!(command == "key" || help.contains(&format!("tidings {command}")), "{help}");
    }
}

#[test]
fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout_of(tidings().args(["completions", shell]));
        for word in ["subscribe", "internal-listen", "last-event-id"] {
            assert!(script.contains(word), "{shell} {word}");
        }
    }
}

#[test]
fn a_token_is_made_where_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let token = stdout_of(tidings().args(["token", "--sub", "ada"]).current_dir(dir.path()));
    assert_eq!(token.split('.').count(), 3, "{token}");
    assert!(dir.path().join("data/secrets.json").exists());
}

#[test]
fn a_token_of_a_new_secret_is_said_to_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let make = || run(tidings().args(["token", "--sub", "ada"]).current_dir(dir.path()));
    let first = stderr(&make());
    assert!(first.contains("a new secret in data") && first.contains("--data-dir"), "{first}");
    assert_eq!(stderr(&make()), "");
}

#[test]
fn every_command_says_one_line_for_an_option() {
    for command in ["publish", "subscribe", "history", "token", "serve", "bench", "check"] {
        let help = stdout_of(tidings().args([command, "--help"]));
        assert!(!help.contains("Possible values:"), "{help}");
    }
}

#[test]
fn an_empty_event_is_sent_on_purpose_only() {
    // Nobody listens there: what is refused is refused before.
    let publish = |arguments: &[&str]| {
        let mut command = tidings();
        command.args(["publish", "--url", "http://127.0.0.1:1", "a"]).args(arguments);
        run(command.stdin(std::process::Stdio::null()))
    };
    let refused = publish(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("tidings publish orders/7 ''"), "{}", stderr(&refused));
    assert_eq!(publish(&[""]).status.code(), Some(1), "it is tried");
}
