use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use tidings_hub::{Bus, NodeId};

use super::{Server, open};
use crate::RedisBus;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn join(bus: &RedisBus, node: u64) -> Receiver<String> {
    let (heard, words) = channel();
    let ear = move |words: &[u8]| {
        // Nobody listens at the end of a test.
        let _ = heard.send(String::from_utf8(words.to_vec()).unwrap());
    };
    bus.join(NodeId::new(node), std::sync::Arc::new(ear));
    words
}

/// Says something again and again until it is heard: what is said to who does not listen yet is lost.
fn reached(from: &RedisBus, to: u64, words: &Receiver<String>, call: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        from.say(Some(NodeId::new(to)), call.as_bytes().to_vec());
        if let Ok(heard) = words.recv_timeout(Duration::from_millis(100)) {
            assert_eq!(heard, call);
            break;
        }
        assert!(Instant::now() < end, "{call} is not heard");
    }
    // And all that was said of it, so that nothing of it comes later.
    from.say(Some(NodeId::new(to)), b"enough".to_vec());
    while words.recv_timeout(PATIENCE).unwrap() != "enough" {}
}

#[test]
fn nodes_hear_each_other_in_order_and_again_after_an_outage() {
    let mut server = Server::start(&[]);
    let (one, two) = (open(&server), open(&server));
    let (line, other) = (one.bus(), two.bus());
    let (first, second) = (join(&line, 1), join(&other, 2));
    reached(&line, 2, &second, "are you there?");
    reached(&other, 1, &first, "and you?");
    for number in 0..1000 {
        line.say((number % 2 == 0).then_some(NodeId::new(2)), number.to_string().into_bytes());
    }
    let heard: Vec<String> = (0..1000).map(|_| second.recv_timeout(PATIENCE).unwrap()).collect();
    let said: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    assert_eq!(heard, said);
    let own: Vec<String> = (0..500).map(|_| first.recv_timeout(PATIENCE).unwrap()).collect();
    let all: Vec<String> = said.into_iter().skip(1).step_by(2).collect();
    assert_eq!(own, all, "what is said to all, and nothing that is for the other one");
    server.kill();
    line.say(None, b"to nobody".to_vec());
    server.restart();
    let end = Instant::now() + PATIENCE;
    loop {
        line.say(None, b"again".to_vec());
        match second.recv_timeout(Duration::from_millis(200)) {
            Ok(heard) if heard == "again" => break,
            _ => assert!(Instant::now() < end, "the line stays dead"),
        }
    }
}
