//! The parser against `spec/conformance`, each stream whole, byte by byte, and cut in two at every place.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tidings_wire::{Limits, Message, Parser};

struct Case {
    name: String,
    stream: Vec<u8>,
    expected: Outcome,
}

#[derive(Debug, PartialEq)]
struct Outcome {
    messages: Vec<Message>,
    last_event_id: String,
    retry: Option<u64>,
}

#[test]
fn every_case_gives_its_events_however_it_is_cut() {
    let cases = cases();
    assert!(cases.len() > 80, "the folder has only {} cases", cases.len());
    for case in &cases {
        let check = |pieces: &[&[u8]], how: &str| {
            assert_eq!(outcome(pieces), case.expected, "{}, {how}", case.name);
        };
        check(&[&case.stream], "whole");
        check(&case.stream.chunks(1).collect::<Vec<_>>(), "byte by byte");
        for at in 0..=case.stream.len() {
            let (first, second) = case.stream.split_at(at);
            check(&[first, second], &format!("cut at {at}"));
            check(&[first, b"", second], &format!("cut at {at}, with nothing in between"));
        }
    }
}

fn outcome(pieces: &[&[u8]]) -> Outcome {
    let mut parser = Parser::new(Limits::default());
    let mut messages = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        while let Some(message) = parser.next_message(&mut rest).expect("no case is near the limits") {
            messages.push(message);
        }
        assert!(rest.is_empty());
    }
    Outcome { messages, last_event_id: parser.last_event_id().to_owned(), retry: parser.retry() }
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/conformance");
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("it can be listed").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("it can be read");
            let file: Vec<Value> =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            cases.extend(file.iter().map(|value| case(&name, value)));
        }
    }
    cases
}

fn case(file: &str, value: &Value) -> Case {
    let fields = value.as_object().expect("a case is an object");
    let known = ["name", "stream", "stream_base64", "events", "last_event_id", "retry"];
    let name = format!("{file}: {}", text(value, "name").expect("a case has a name"));
    for field in fields.keys() {
        assert!(known.contains(&field.as_str()), "{name}: {field:?} is no field of a case");
    }
    let stream = match (text(value, "stream"), text(value, "stream_base64")) {
        (Some(stream), None) => stream.into_bytes(),
        (None, Some(stream)) => STANDARD.decode(stream).expect("it is base64"),
        _ => panic!("{name}: a case has either \"stream\" or \"stream_base64\""),
    };
    let events = value["events"].as_array().unwrap_or_else(|| panic!("{name}: \"events\" is no array"));
    let expected = Outcome {
        messages: events.iter().map(|event| message(&name, event)).collect(),
        last_event_id: text(value, "last_event_id").unwrap_or_default(),
        retry: value.get("retry").map(|retry| retry.as_u64().expect("\"retry\" is a number")),
    };
    Case { name, stream, expected }
}

fn message(name: &str, event: &Value) -> Message {
    for field in event.as_object().expect("an event is an object").keys() {
        assert!(["event", "data", "id"].contains(&field.as_str()), "{name}: {field:?}");
    }
    Message {
        event: text(event, "event").unwrap_or_else(|| "message".to_owned()),
        data: text(event, "data").unwrap_or_else(|| panic!("{name}: an event has data")),
        id: text(event, "id").unwrap_or_default(),
    }
}

fn text(value: &Value, field: &str) -> Option<String> {
    value.get(field).map(|text| text.as_str().expect("it is a string").to_owned())
}
