//! Every mistake with its place, precedence, unknown names.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

fn sources(file: &str, environment: &[(&str, &str)]) -> Sources {
    Sources {
        file: Some((PathBuf::from("tidings.toml"), file.to_owned())),
        environment: environment
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        flags: Flags::default(),
    }
}

fn config(file: &str) -> Config {
    Config::check(sources(file, &[])).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// The mistakes of a file, one a line.
fn mistakes(sources: Sources) -> Vec<String> {
    match Config::check(sources) {
        Ok(config) => panic!("no mistake in\n{}", config.effective()),
        Err(Mistakes(mistakes)) => mistakes.iter().map(ToString::to_string).collect(),
    }
}

#[test]
fn nothing_said_is_the_default() {
    let config = Config::check(Sources::default()).unwrap();
    assert_eq!(
        config.server,
        ServerConfig { position_after: config.server.position_after, ..ServerConfig::default() }
    );
    assert_eq!(config.data_dir, PathBuf::from("data"));
    assert_eq!((config.log, config.sync), (LogKind::Disk, Sync::Always));
    assert_eq!(config.retention.default.age, Some(Duration::from_secs(7 * 86_400)));
    assert_eq!(config.retention.total.bytes, Some(4 << 30));
    let users = config.retention.caps(&tidings::wire::Channel::user(&"ada".parse().unwrap()));
    assert_eq!((users.count, users.age), (Some(1_000), Some(Duration::from_secs(7 * 86_400))));
}

#[test]
fn a_file_sets_everything() {
    let config = config(
        r#"
        listen = "0.0.0.0:80"
        internal_listen = "127.0.0.1:4601"
        base_path = "/push/"
        data_dir = "/var/lib/tidings"
        log = "memory"
        sync = "100ms"
        heartbeat = "20s"
        retry = "500ms"
        drain = "1m"
        workers = 3
        [limits]
        connections = 10
        per_user = 2
        per_address = 5
        lifetime = "2h"
        data = "64KiB"
        [timeouts]
        progress = "3s"
        [cors]
        origins = ["https://app.example"]
        [[retention]]
        channels = "audit/**"
        age = "30d"
        count = 100000
        bytes = "1GiB"
        [[retention]]
        channels = "short/*"
        age = "8s"
        state_only = true
        [[retention]]
        count = 7
        [retention_total]
        bytes = "10MB"
        "#,
    );
    assert_eq!(config.server.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.server.internal_listen.map(|a| a.to_string()).as_deref(), Some("127.0.0.1:4601"));
    assert_eq!(config.server.base_path.as_str(), "/push");
    assert_eq!(config.data_dir, PathBuf::from("/var/lib/tidings"));
    assert_eq!((config.log, config.sync), (LogKind::Memory, Sync::Every(Duration::from_millis(100))));
    assert_eq!(config.server.heartbeat, Duration::from_secs(20));
    assert_eq!(config.server.retry, Duration::from_millis(500));
    assert_eq!(config.server.drain, Duration::from_secs(60));
    assert_eq!(config.server.workers.get(), 3);
    assert_eq!(config.server.position_after, Duration::from_secs(2), "a quarter of the shortest age");
    assert_eq!(config.server.timeouts.progress, Duration::from_secs(3));
    let limits = &config.server.limits;
    assert_eq!((limits.connections, limits.per_user, limits.per_address), (10, 2, 5));
    assert_eq!((limits.lifetime, limits.data), (Duration::from_secs(7200), 65_536));
    let retention = &config.retention;
    assert_eq!(retention.total.bytes, Some(10_000_000));
    let caps = |channel: &str| retention.caps(&channel.parse().unwrap());
    let audit = Caps {
        age: Some(Duration::from_secs(2_592_000)),
        count: Some(100_000),
        bytes: Some(1 << 30),
        state_only: false,
    };
    assert_eq!(caps("audit/a/b"), audit);
    let short = Caps { age: Some(Duration::from_secs(8)), state_only: true, ..Caps::default() };
    assert_eq!(caps("short/a"), short);
    assert_eq!(caps("other"), Caps { count: Some(7), ..Caps::default() });
    assert_eq!(retention.caps(&tidings::wire::Channel::all()).count, Some(7), "the default is for all");
}

#[test]
fn users_have_a_default_unless_there_is_a_rule_for_them() {
    let users = |text: &str| {
        let retention = config(text).retention;
        retention.caps(&tidings::wire::Channel::user(&"ada".parse().unwrap())).count
    };
    assert_eq!(users("[[retention]]\nchannels = \"audit/**\"\ncount = 3\n"), Some(1_000));
    assert_eq!(users("[[retention]]\nchannels = \"$user/*\"\ncount = 3\n"), Some(3));
    assert_eq!(users("[[retention]]\nchannels = \"$user/**\"\nage = \"1h\"\n"), None);
    assert_eq!(users("[[retention]]\nage = \"1h\"\n"), None, "all others are users too");
    assert_eq!(users("[[retention]]\nchannels = \"$user/7\"\ncount = 3\n"), Some(1_000), "one of them");
}

#[test]
fn the_last_retention_is_only_the_default_when_it_names_all_channels() {
    let week = Some(Duration::from_secs(7 * 86_400));
    let one = config("[[retention]]\nchannels = \"audit/**\"\ncount = 3\n").retention;
    assert_eq!(one.caps(&"audit/a".parse().unwrap()).count, Some(3));
    assert_eq!(one.default.age, week);
    let all = config("[[retention]]\nchannels = \"**\"\ncount = 3\n").retention;
    assert_eq!(all.caps(&tidings::wire::Channel::all()).count, Some(3));
    assert!(!one.default.state_only && !one.total.state_only);
    let total = mistakes(sources("[retention_total]\nstate_only = true\n", &[])).join("\n");
    assert!(total.starts_with("tidings.toml:2: ") && total.contains("state_only"), "{total}");
    let word = mistakes(sources("[[retention]]\nstate_only = \"yes\"\n", &[])).join("\n");
    assert!(word.starts_with("tidings.toml:2: ") && word.contains("retention.state_only"), "{word}");
    assert_eq!(
        mistakes(sources("[[retention]]\ncount = 1\n[[retention]]\ncount = 2\n", &[])),
        ["tidings.toml:1: a [[retention]] without channels is the default for all, so it must be the last"]
    );
}

#[test]
fn a_flag_beats_the_environment_which_beats_the_file() {
    let file = "listen = \"127.0.0.1:1\"\nheartbeat = \"11s\"\nretry = \"1s\"\n[limits]\nper_user = 1\n";
    let environment = [
        ("TIDINGS_LISTEN", "127.0.0.1:2"),
        ("TIDINGS_HEARTBEAT", "12s"),
        ("TIDINGS_LIMITS__PER_USER", "2"),
        ("TIDINGS_CORS__ORIGINS", "https://a.example, https://b.example"),
        ("TIDINGS_RETENTION", "[{ channels = 'a/**', age = '1h' }]"),
    ];
    let mut flags = Flags::default();
    flags.add("listen", "--listen", Some("127.0.0.1:3"));
    flags.add("retry", "--retry", None);
    let sources = Sources { flags, ..sources(file, &environment) };
    let config = Config::check(sources).unwrap();
    assert_eq!(config.server.listen.port(), 3);
    assert_eq!(config.server.heartbeat, Duration::from_secs(12));
    assert_eq!(config.server.retry, Duration::from_secs(1));
    assert_eq!(config.server.limits.per_user, 2);
    let rules: Vec<&str> = config.retention.rules.iter().map(|(pattern, _)| pattern.as_str()).collect();
    assert_eq!(rules, ["a/**", "$user/*"], "what is said, and then the default for users");
    let shown = config.effective();
    for line in [
        "listen = \"127.0.0.1:3\"                            # --listen",
        "heartbeat = \"12s\"                                 # TIDINGS_HEARTBEAT",
        "retry = \"1s\"                                      # tidings.toml:3",
        "per_user = 2                                      # TIDINGS_LIMITS__PER_USER",
        "per_address = 1000                                # default",
    ] {
        assert!(shown.contains(line), "{line}\nin\n{shown}");
    }
}

#[test]
fn what_check_prints_means_the_same() {
    let first = config(
        "base_path = \"/a\"\n[cors]\norigins = [\"https://a.example\"]\n[[retention]]\nchannels = \"a\\\\b/*\"\nage = \"1h\"\n[[retention]]\ncount = 5\n",
    );
    let second = config(&first.effective());
    assert_eq!(first.server, second.server);
    assert_eq!(first.retention, second.retention);
    assert_eq!(first.auth.access.origins, second.auth.access.origins);
}

#[test]
fn all_mistakes_are_reported_together_with_their_lines() {
    let file = r#"lisen = "127.0.0.1:1"
heartbeat = 15
drain = "soon"
workers = 0
dev = "yes"
log = "disc"
internal_listen = "http://localhost:1"
[limits]
per_user = -1
data = "1 megabyte"
conections = 5
[redis]
url = "http://127.0.0.1"
[[webhook]]
url = "x"
[[retention]]
channels = "a//b"
"#;
    let found = mistakes(sources(file, &[("TIDINGS_LIMITS__LIFETIME", "1 day"), ("TIDINGS_RETYR", "1s")]));
    for expected in [
        "tidings.toml:1: lisen is not a setting, did you mean listen?",
        "tidings.toml:2: heartbeat: write the unit, like \"15s\"",
        "tidings.toml:3: drain: \"soon\" is not a duration: write a number with its unit, like 100ms, 15s, 5m, 1h or 30d",
        "tidings.toml:4: workers: 0 lies outside of 1 to 1024",
        "tidings.toml:5: dev: expected true or false, found a text",
        "tidings.toml:6: log: \"disc\" is none of memory, disk, redis",
        "tidings.toml:7: internal_listen: \"http://localhost:1\" is not an address: write HOST:PORT, like 127.0.0.1:4600, localhost:4600 or [::1]:4600 (0.0.0.0:4600 for all)",
        "tidings.toml:9: limits.per_user: -1 is less than nothing",
        "tidings.toml:10: limits.data: \"1 megabyte\" is not a size: write a number with its unit, like 64KiB, 1MiB or 1GB",
        "tidings.toml:11: limits.conections is not a setting, did you mean limits.connections?",
        "tidings.toml:13: redis.url: it can't be used: write redis://HOST:PORT, rediss://USER:PASSWORD@HOST:PORT/DB (TLS), redis+unix:///PATH or redis+sentinel://HOST:PORT,HOST:PORT/SERVICE",
        "tidings.toml:14: webhook is not in this version yet",
        "tidings.toml:17: retention.channels: \"a//b\" can't be used: it has an empty level (a slash at an end, or two in a row)",
        "TIDINGS_LIMITS__LIFETIME: \"1 day\" is not a duration: write a number with its unit, like 100ms, 15s, 5m, 1h or 30d",
        "TIDINGS_RETYR: retyr is not a setting, did you mean retry?",
    ] {
        assert!(found.iter().any(|mistake| mistake == expected), "{expected}\nnot in {found:#?}");
    }
    assert_eq!(found.len(), 15, "{found:#?}");
}

#[test]
fn what_is_no_toml_has_its_line_too() {
    let found = mistakes(sources("listen = \"127.0.0.1:1\"\nheartbeat = 15s\n", &[]));
    assert!(found[0].starts_with("tidings.toml:2: "), "{found:?}");
    let found = mistakes(sources("retry = \"1s\"\nretry = \"2s\"\n", &[]));
    assert!(found.iter().any(|mistake| mistake.contains("duplicate")), "{found:?}");
    let found = mistakes(sources("workers = 99999999999999999999\n", &[]));
    assert!(found.iter().any(|mistake| mistake.contains("too large")), "{found:?}");
}

#[test]
fn names_that_others_put_into_the_environment_are_left_alone() {
    let environment = [
        ("TIDINGS_PORT", "tcp://10.0.0.1:4600"),
        ("TIDINGS_SERVICE_HOST", "10.0.0.1"),
        ("TIDINGS_BIN", "/usr/bin/tidings"),
        ("TIDINGS_TOKEN", "x"),
        ("OTHER_LISTEN", "x"),
    ];
    Config::check(sources("", &environment)).unwrap();
    let unknown = [("TIDINGS_LIMITS__USERS", "1"), ("TIDINGS_NOTHING__AT_ALL", "1")];
    let found = mistakes(sources("", &unknown));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|mistake| mistake.starts_with("TIDINGS_LIMITS__USERS: limits.users is not a setting"))
    );
    assert!(
        found.iter().any(|mistake| mistake.starts_with("TIDINGS_NOTHING__AT_ALL: nothing is not a setting"))
    );
}

#[test]
fn access_is_read() {
    let file = r#"
[[auth.key]]
alg = "HS256"
secret = "a-secret-of-thirty-two-characters"
issuer = "me"
audience = "you"
[[auth.key]]
alg = "EdDSA"
file = "/etc/key.pem"
audience = ["a", "b"]
[auth]
claim = "rights"
grants = { subscribe = ["news", "orders/{sub}/*"], publish = [] }
anonymous = { subscribe = ["public/**"] }
[cors]
origins = ["https://app.example"]
"#;
    let environment =
        [("TIDINGS_JWT_SECRET", "another-secret-of-many-characters"), ("TIDINGS_API_KEY", "canary-key")];
    let config = Config::check(sources(file, &environment)).unwrap();
    let access = &config.auth.access;
    assert_eq!(access.keys.len(), 3);
    assert_eq!(
        config.auth.key_origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["TIDINGS_JWT_SECRET", "tidings.toml:2", "tidings.toml:7",]
    );
    assert_eq!(access.keys[1].issuer.as_deref(), Some("me"));
    assert_eq!(access.keys[1].audience, ["you"]);
    assert_eq!(access.keys[2].audience, ["a", "b"]);
    assert_eq!(access.claim, "rights");
    assert_eq!(access.grants.subscribe.len(), 2);
    assert_eq!(access.anonymous.as_ref().map(|grants| grants.subscribe.len()), Some(1));
    let shown = config.effective();
    for secret in ["a-secret-of", "another-secret", "canary-key"] {
        assert!(!shown.contains(secret), "{shown}");
        assert!(!format!("{config:?}").contains(secret));
    }
    assert!(Config::check(Sources::default()).unwrap().auth.access.anonymous.is_none());
}

#[test]
fn what_check_prints_is_a_configuration() {
    let files = [
        "",
        "[auth.anonymous]\nsubscribe = [\"public/**\"]\n",
        r#"
listen = "127.0.0.1:80"
internal_listen = "127.0.0.1:4601"
base_path = "/push"
data_dir = "/var/lib/ti \"dings"
log = "memory"
sync = "100ms"
log_level = "warn,tidings=debug"
log_format = "json"
[limits]
per_user = 2
data = "2MiB"
[timeouts]
head = "5s"
[replay]
bytes = "1MiB"
age = "1h"
[[retention]]
channels = "audit/**"
age = "30d"
[[retention]]
count = 7
[retention_total]
bytes = "1GiB"
[[auth.key]]
alg = "HS256"
secret = "a-secret-of-thirty-two-characters"
kid = "one"
issuer = "me"
audience = "you"
[[auth.key]]
alg = "EdDSA"
file = "/etc/key.pem"
[[auth.key]]
jwks_url = "https://id.example/keys"
[auth]
claim = "rights"
leeway = "5s"
endless_services = true
cookie = "mine"
grants = { subscribe = ["news", "orders/{sub}/*"], publish = ["a"], presence = ["b"] }
anonymous = { subscribe = ["public/**"], publish = [], presence = [] }
[cors]
origins = ["https://app.example"]
"#,
    ];
    let settings = |shown: &str| -> Vec<String> {
        let settings = shown.lines().map(|line| line.split("  # ").next().unwrap_or(line).trim_end());
        settings.map(str::to_owned).collect()
    };
    for file in files {
        let shown = config(file).effective();
        let again = shown.replace("(hidden)", "a-secret-of-thirty-two-characters");
        let again = Config::check(sources(&again, &[])).unwrap_or_else(|bad| panic!("{bad}\n{shown}"));
        assert_eq!(settings(&again.effective()), settings(&shown));
    }
}

#[test]
fn mistakes_are_in_the_order_of_their_lines() {
    let found = mistakes(sources("[auth]\nclam = 1\n[limits]\nper_user = 0\n[cors]\norigin = 1\n", &[]));
    let places: Vec<&str> = found.iter().map(|mistake| &mistake[..14]).collect();
    assert_eq!(places, ["tidings.toml:2", "tidings.toml:4", "tidings.toml:6"]);
}

#[test]
fn a_log_on_redis_has_to_be_found() {
    let found = mistakes(sources("log = \"redis\"\n", &[]));
    assert_eq!(found, ["tidings.toml:1: log is redis, but not where Redis is: set redis.url"]);
    let found = mistakes(sources("[redis]\nurl = \"redis://127.0.0.1\"\nack = \"aof\"\n", &[]));
    assert_eq!(
        found,
        ["tidings.toml:3: redis.ack is about the log, which is not in Redis: set log = \"redis\""]
    );
    let found = mistakes(sources("[redis]\nauthority = \"ca.pem\"\n", &[]));
    assert!(found[0].starts_with("tidings.toml:2: redis.authority says"), "{found:?}");
    let sentinels = "log = \"redis\"\n[redis]\nurl = \"redis+sentinel://:canary@a,b/main\"\n";
    let found = config(&format!("{sentinels}ack = \"wait 2\"\nname = \"shop\"\nauthority = \"ca.pem\"\n"));
    let url = found.redis.url.as_ref().unwrap();
    assert_eq!((url.log.to_string().contains("canary"), found.log), (false, LogKind::Redis));
    assert_eq!((found.redis.ack.to_string(), &found.redis.name[..]), ("wait 2".to_owned(), "shop"));
    assert!(!found.effective().contains("canary"), "{}", found.effective());
    let found = mistakes(sources(&format!("{sentinels}ack = \"wait 0\"\n"), &[]));
    assert!(
        found[0].contains("redis.ack: \"wait 0\" can't be used: write master, aof, or wait"),
        "{found:?}"
    );
    assert_eq!(
        config("log = \"redis\"\n[redis]\nurl = \"redis://h\"\n").retention.total.bytes,
        Some(256 << 20)
    );
}

#[test]
fn mistakes_in_access_have_their_lines() {
    let file = r#"[[auth.key]]
alg = "none"
secret = "canary-secret"
[[auth.key]]
alg = "HS256"
[[auth.key]]
secret = "canary-secret"
file = "x"
[[auth.key]]
alg = "HS256"
secrte = "canary-secret"
[auth]
grants = { subscribe = ["a-{sub}"] }
[auth.anonymous]
pubish = []
[cors]
origins = ["app.example"]
"#;
    let found = mistakes(sources(file, &[]));
    for expected in [
        "tidings.toml:2: auth.key.alg: \"none\" is none of HS256",
        "tidings.toml:4: a key needs one of secret, file, jwks_file and jwks_url",
        "tidings.toml:6: a key has only one of secret, file, jwks_file and jwks_url",
        "tidings.toml:11: auth.key.secrte is not a setting, did you mean auth.key.secret?",
        "tidings.toml:13: auth.grants.subscribe: \"a-{sub}\" can't be granted: braces",
        "tidings.toml:15: auth.anonymous.pubish is not a setting, did you mean auth.anonymous.publish?",
        "tidings.toml:17: cors.origins: \"app.example\" can't be used: ",
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(expected)), "{expected}\nnot in {found:#?}");
    }
    assert!(!found.join("").contains("canary"), "{found:#?}");
}

#[test]
fn dev_is_for_loopback_only() {
    for listen in ["0.0.0.0:4600", "192.168.0.1:4600", "[::]:4600"] {
        let found = mistakes(sources(&format!("listen = \"{listen}\"\ndev = true\n"), &[]));
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("tidings.toml:2: dev lets anybody do anything"), "{found:?}");
    }
    for listen in ["127.0.0.1:4600", "127.0.0.2:0", "[::1]:4600"] {
        assert!(config(&format!("listen = \"{listen}\"\ndev = true\n")).server.dev);
    }
    let found = mistakes(sources("internal_listen = \"0.0.0.0:1\"\n", &[("TIDINGS_DEV", "true")]));
    assert!(
        found[0].starts_with("TIDINGS_DEV: dev lets anybody do anything, so internal_listen"),
        "{found:?}"
    );
}

#[test]
fn settings_that_contradict_each_other_are_mistakes() {
    let found = mistakes(sources("[limits]\ndata = \"2MiB\"\nbody = \"1MiB\"\n", &[]));
    assert_eq!(
        found,
        ["tidings.toml:3: limits.body is less than limits.data: no event of that size could be sent"]
    );
    let found = mistakes(sources("listen = \"127.0.0.1:5\"\ninternal_listen = \"127.0.0.1:5\"\n", &[]));
    assert_eq!(found, ["tidings.toml:2: internal_listen is the same address as listen"]);
}

#[test]
fn no_input_makes_the_reader_fall() {
    for file in [
        "[",
        "[[",
        "a.b.c = {",
        "\u{0}",
        "x = \"\\u0000\"",
        "auth = 5",
        "limits = []",
        "retention = {}",
        "[[limits]]",
    ] {
        assert!(!mistakes(sources(file, &[])).is_empty(), "{file}");
    }
    for value in ["[", "{", "[1,", "{a=1}", "[[[[]]]]"] {
        assert!(!mistakes(sources("", &[("TIDINGS_LIMITS__PER_USER", value)])).is_empty(), "{value}");
    }
}

#[test]
fn every_setting_is_in_the_documentation() {
    let documentation = include_str!("../../../../docs/configuration.md");
    let names = |section: &str| -> Vec<&'static str> {
        let unknown = format!("{section}\nno_such_setting = 1\n");
        let found = mistakes(sources(&unknown, &[])).join("\n");
        let known = found.split("known here: ").nth(1).unwrap().lines().next().unwrap().to_owned();
        known.leak().split(", ").collect()
    };
    let sections = [
        "",
        "[limits]",
        "[timeouts]",
        "[replay]",
        "[auth]",
        "[auth.grants]",
        "[[auth.key]]\nalg = \"HS256\"\nsecret = \"x\"",
        "[cors]",
        "[[retention]]",
        "[retention_total]",
        "[redis]",
    ];
    for section in sections {
        for name in names(section) {
            let ways = [
                format!("`{name}`"),
                format!("{name} = "),
                format!(".{name}`"),
                format!("[{name}]"),
                format!(".{name}]"),
            ];
            let described = ways.iter().any(|way| documentation.contains(way));
            assert!(described, "{name} of {section:?} is not in docs/configuration.md");
        }
    }
}

#[test]
fn a_name_is_listened_on_by_its_address() {
    let named =
        config("listen = \"localhost:4600\"\ninternal_listen = \"localhost:4601\"\ndev = true\n").server;
    let listens = [Some(named.listen), named.internal_listen].map(Option::unwrap);
    assert_eq!(
        listens.map(|address| (address.ip().is_loopback(), address.port())),
        [(true, 4600), (true, 4601)]
    );
    // Longer than any name may be, so that nobody is asked.
    let nobody = "x".repeat(64);
    for (listen, what) in [
        (&*format!("{nobody}:1"), "has no address here"),
        ("localhost", "write HOST:PORT"),
        ("localhost:http", "write HOST:PORT"),
        ("localhost:65536", "write HOST:PORT"),
        (":4600", "write HOST:PORT"),
        ("::1:4600", "write HOST:PORT"),
        ("a b:1", "write HOST:PORT"),
    ] {
        let found = mistakes(sources(&format!("listen = \"{listen}\"\n"), &[]));
        assert!(found.len() == 1 && found[0].contains(what), "{listen}: {found:?}");
    }
}

#[test]
fn a_mistake_names_its_setting_once() {
    let mut all =
        sources("heartbeat = \"soon\"\n", &[("TIDINGS_LIMITS__PER_USER", "0"), ("RUST_LOG", "a=b=c")]);
    all.flags.add("drain", "--drain", Some("5"));
    let found = mistakes(all);
    for begins in [
        "tidings.toml:1: heartbeat: \"soon\" is not",
        "--drain: \"5\" is not",
        "TIDINGS_LIMITS__PER_USER: 0 lies outside of 1 to",
        "RUST_LOG: log_level: \"a=b=c\" is neither",
    ] {
        assert!(found.iter().any(|mistake| mistake.starts_with(begins)), "{begins}\nnot in {found:#?}");
    }
}

#[test]
fn every_rule_of_retention_is_shown() {
    let users = "[[retention]]\nchannels = \"$user/*\"";
    for (file, there) in [
        ("", true),
        ("[[retention]]\nchannels = \"audit/**\"\ncount = 3\n", true),
        ("[[retention]]\nage = \"1h\"\n", false),
        ("[[retention]]\nchannels = \"$user/**\"\nage = \"1h\"\n", false),
    ] {
        let config = config(file);
        let shown = config.effective();
        assert_eq!(shown.contains(users), there, "{shown}");
        assert_eq!(self::config(&shown).retention, config.retention, "{shown}");
    }
}
