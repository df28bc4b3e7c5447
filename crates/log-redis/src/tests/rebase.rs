//! New bases: what they need, and what becomes of them when they are disturbed.

use super::server::Proxy;
use super::*;
use crate::rebase::rebase;

/// The keys of bases that are being written.
fn drafts(server: &Server) -> Vec<String> {
    server.command("KEYS tidings:{hub}:base:*")
}

#[test]
fn a_base_of_which_the_beginning_expired_is_not_put_in_place() {
    let server = Server::start(&[]);
    let proxy = Proxy::before(&server);
    let paused = RedisLogConfig { url: proxy.url().parse().unwrap(), ..config(&server, "hub") };
    let (paused, other) = (RedisLog::open(paused).unwrap(), open(&server));
    for word in ["early", "early", "early", "late"] {
        append(&other, &word.repeat(40_000));
    }
    until("the records", || paused.head() == other.head());
    // As if the process were suspended in the middle, for longer than what is not finished lasts.
    proxy.hold_at(b"late");
    std::thread::scope(|scope| {
        let written = scope.spawn(|| rebase(&paused.shared));
        until("the middle", || proxy.is_holding());
        let [draft] = &drafts(&server)[..] else { panic!("one base is being written") };
        let _: i64 = server.command(&format!("DEL {draft}"));
        proxy.release();
        assert!(written.join().unwrap().is_err());
    });
    assert!(drafts(&server).is_empty(), "nothing of it is left");
    let kept = all(&other);
    assert_eq!(all(&open(&server)), kept);
    rebase(&paused.shared).unwrap();
    assert_eq!(all(&open(&server)), kept);
}
