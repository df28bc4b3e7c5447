//! Encoder against parser, and parser against a plain reading of the standard, over generated input.

use std::str;

use proptest::prelude::*;
use serde_json::{Value, json};
use tidings_wire::{
    Channel, Control, Cursor, CursorKey, Data, EncodedEvent, Epoch, Event, EventType, Framing, GapReason,
    HEARTBEAT_CHUNK, HEARTBEAT_RAW, Limits, Message, Parser, Position, Sequence, Targets, encode_control,
    encode_envelope,
};

proptest! {
    /// No event can break out of its block: whatever it says, it is one message, and the next one is untouched.
    #[test]
    fn events_come_back_as_they_were_said(events in prop::collection::vec(an_event(), 1..6), cuts in cuts(), framing in a_framing()) {
        let mut stream = beginning(framing);
        let mut expected = Vec::new();
        for (number, event) in events.iter().enumerate() {
            let id = cursor(number as u64);
            let encoded = EncodedEvent::new(event, &id);
            match framing {
                Framing::Chunked => stream.extend_from_slice(encoded.chunk()),
                Framing::Raw => stream.extend_from_slice(encoded.payload()),
            }
            stream.extend_from_slice(heartbeat(framing));
            expected.push(Message {
                event: event.event.as_str().to_owned(),
                data: with_line_feeds(event.data.as_str()),
                id: id.to_string(),
            });
        }
        prop_assert_eq!(parse(&unframed(stream, framing), &cuts), expected);
    }

    /// Cut anywhere, a stream gives the first of its events, and the id is that of the last event that was given: a
    /// client that comes back with it misses nothing and gets nothing twice.
    #[test]
    fn a_stream_that_is_cut_off_loses_no_id(events in prop::collection::vec(an_event(), 1..4), at in any::<prop::sample::Index>()) {
        let mut stream = beginning(Framing::Raw);
        for (number, event) in events.iter().enumerate() {
            stream.extend_from_slice(EncodedEvent::new(event, &cursor(number as u64)).payload());
        }
        let mut parser = Parser::new(Limits::default());
        let mut input = &stream[..at.index(stream.len() + 1)];
        let mut count = 0;
        while let Some(message) = parser.next_message(&mut input).unwrap() {
            prop_assert_eq!(message.id, cursor(count).to_string());
            count += 1;
        }
        let expected = count.checked_sub(1).map(|last| cursor(last).to_string()).unwrap_or_default();
        prop_assert_eq!(parser.last_event_id(), expected);
    }

    #[test]
    fn an_envelope_is_json_that_says_what_the_event_said(event in an_event(), channel in a_channel(), time: u64, framing in a_framing(), cuts in cuts()) {
        let mut stream = beginning(framing);
        encode_envelope(&mut stream, framing, &event, &channel, time, &cursor(1));
        let messages = parse(&unframed(stream, framing), &cuts);
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!(&messages[0].event, "message");
        prop_assert_eq!(&messages[0].id, &cursor(1).to_string());
        prop_assert!(!messages[0].data.contains('\n'));
        let data = match &event.data {
            Data::Text(text) => json!(text.as_ref()),
            Data::Json(json) => serde_json::from_str::<Value>(json).unwrap(),
            Data::Nothing => Value::Null,
        };
        prop_assert_eq!(
            serde_json::from_str::<Value>(&messages[0].data).unwrap(),
            json!({"id": cursor(1).as_str(), "channel": channel.as_str(), "event": event.event.as_str(), "data": data, "time": time})
        );
    }

    #[test]
    fn control_events_come_back(which in 0..9_usize, reason in 0..4_usize, from: Option<u64>, retry: Option<u32>, framing in a_framing(), cuts in cuts()) {
        let reason = [GapReason::Expired, GapReason::Unknown, GapReason::Epoch, GapReason::Limit][reason];
        let (from, to) = (from.map(cursor), cursor(2));
        let control = [
            Control::Open(r#"{"connection":"0"}"#),
            Control::Gap { reason, from: from.as_ref(), to: &to },
            Control::Position,
            Control::Ping,
            Control::End,
            Control::Expired,
            Control::Kicked,
            Control::Overloaded,
            Control::Drain,
        ][which];
        let mut stream = beginning(framing);
        encode_control(&mut stream, framing, &control, retry, &cursor(1));
        let messages = parse(&unframed(stream, framing), &cuts);
        prop_assert_eq!(messages.len(), 1);
        prop_assert_eq!(&messages[0].event, control.event_type());
        prop_assert!(messages[0].event.parse::<EventType>().is_err(), "no publisher may use it");
        prop_assert_eq!(&messages[0].id, &cursor(1).to_string());
        let expected = match control {
            Control::Open(_) => json!({"connection": "0"}),
            Control::Gap { .. } => {
                json!({"reason": reason.as_str(), "from": from.as_ref().map(Cursor::as_str), "to": to.as_str()})
            }
            _ => json!({}),
        };
        prop_assert_eq!(serde_json::from_str::<Value>(&messages[0].data).unwrap(), expected);
    }

    #[test]
    fn the_parser_reads_anything_as_the_standard_says(stream in a_stream(), cuts in cuts()) {
        prop_assert_eq!(parse(&stream, &cuts), plainly(&stream));
    }

    #[test]
    fn the_parser_takes_any_bytes(stream in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
        prop_assert_eq!(parse(&stream, &cuts), plainly(&stream));
    }
}

/// The standard, 9.2.6, done in the plainest way: all of the stream at once, line after line.
fn plainly(stream: &[u8]) -> Vec<Message> {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = with_line_feeds(text);
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop(); // what is not ended is dropped
    let (mut messages, mut event, mut data, mut id) = (Vec::new(), "", Vec::new(), "");
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                messages.push(Message {
                    event: if event.is_empty() { "message" } else { event }.to_owned(),
                    data: data.join("\n"),
                    id: id.to_owned(),
                });
            }
            (event, data) = ("", Vec::new());
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match name {
            "event" => event = value,
            "data" => data.push(value),
            "id" if !value.contains('\0') => id = value,
            _ => {}
        }
    }
    messages
}

fn parse(stream: &[u8], cuts: &[prop::sample::Index]) -> Vec<Message> {
    let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    cuts.sort_unstable();
    let mut parser = Parser::new(Limits::default());
    let mut messages = Vec::new();
    let mut from = 0;
    for to in cuts.into_iter().chain([stream.len()]) {
        let mut piece = &stream[from..to];
        while let Some(message) = parser.next_message(&mut piece).unwrap() {
            messages.push(message);
        }
        from = to;
    }
    messages
}

fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

fn cursor(sequence: u64) -> Cursor {
    CursorKey::new([7; 16]).seal(Position { epoch: Epoch(1), sequence: Sequence(sequence) })
}

fn heartbeat(framing: Framing) -> &'static [u8] {
    match framing {
        Framing::Chunked => HEARTBEAT_CHUNK,
        Framing::Raw => HEARTBEAT_RAW,
    }
}

/// What a response begins with before its first block.
fn beginning(framing: Framing) -> Vec<u8> {
    match framing {
        Framing::Chunked => b"4\r\n:ok\n\r\n".to_vec(),
        Framing::Raw => b":ok\n".to_vec(),
    }
}

/// The body of a chunked response, by RFC 9112, 7.1.3, as strictly as it can be read.
fn unframed(stream: Vec<u8>, framing: Framing) -> Vec<u8> {
    if framing == Framing::Raw {
        return stream;
    }
    let mut body = Vec::new();
    let mut rest = &stream[..];
    while !rest.is_empty() {
        let end = rest.iter().position(|&b| b == b'\r').unwrap();
        let length = usize::from_str_radix(str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        rest = rest[end..].strip_prefix(b"\r\n").unwrap();
        body.extend_from_slice(&rest[..length]);
        rest = rest[length..].strip_prefix(b"\r\n").unwrap();
    }
    body
}

fn a_framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::Chunked), Just(Framing::Raw)]
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..8)
}

/// Pieces that mean something to a parser, so that most streams have events in them.
fn a_stream() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n"]).prop_map(|s| s.as_bytes().to_vec()),
        4 => prop::sample::select(vec!["data", "data:", "data: ", "id:", "id: 1", "event:", "event: x", "retry: 1", ":", " "])
            .prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::sample::select(vec!["\u{feff}", "\0", "é", "🎈"]).prop_map(|s| s.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

fn a_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~\r\n\0\t\u{feff}\u{85}\u{2028}]{0,40}",
        "((data|id|event|retry)?:? ?[a-z]?(\r|\n|\r\n)){0,8}",
    ]
}

fn a_channel() -> impl Strategy<Value = Channel> {
    prop_oneof!["[a-z\"\\\\ ü]{1,10}", "[a-z]{1,5}/[a-z]{1,5}"].prop_map(|name| name.parse().unwrap())
}

fn a_json() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i64>().prop_map(|n| json!(n)),
        Just(json!(null)),
        a_text().prop_map(|s| json!({"k": [s]}))
    ]
    .prop_map(|value| value.to_string())
}

fn an_event() -> impl Strategy<Value = Event> {
    let event_type = prop_oneof![Just("message".to_owned()), "[^\r\n\0]{1,20}"]
        .prop_filter_map("it is the hub's own", |name| name.parse::<EventType>().ok());
    let data = prop_oneof![
        3 => a_text().prop_map(|text| Data::Text(text.into())),
        1 => a_json().prop_map(|json| Data::Json(json.into())),
    ];
    (event_type, data, any::<Option<u32>>()).prop_map(|(event_type, data, retry)| {
        let channel: Channel = "a".parse().unwrap();
        let mut event = Event::new(Targets::from(channel), data);
        event.event = event_type;
        event.retry = retry;
        event
    })
}
