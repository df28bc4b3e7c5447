//! What a subscriber sends.

use super::message::Wire;
use crate::target::{Place, Transport};

/// The request's head. `cursors` are the values for the wire's cursors, as far as there are any.
pub(super) fn head(wire: &Wire, transport: Transport, cursors: &[Option<String>]) -> Vec<u8> {
    let mut path = wire.path.clone();
    let mut headers = String::new();
    for (cursor, value) in wire.cursor.iter().zip(cursors) {
        match (&cursor.into, value) {
            (Place::Header(name), Some(value)) => headers.push_str(&format!("{name}: {value}\r\n")),
            (Place::Query(name), Some(value)) => {
                path.push(if path.contains('?') { '&' } else { '?' });
                path.push_str(&format!("{name}={value}"));
            }
            _ => {}
        }
    }
    for (name, value) in &wire.headers {
        headers.push_str(&format!("{name}: {value}\r\n"));
    }
    let wanted = match transport {
        Transport::Sse => "Accept: text/event-stream\r\n",
        Transport::LongPolling => "Accept: */*\r\n",
        // RFC 6455, 4.1; the key is the standard's own example, as nobody here has to be kept from replaying it.
        Transport::Websocket => {
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        }
    };
    format!("GET {path} HTTP/1.1\r\nHost: {}\r\n{wanted}{headers}\r\n", wire.host).into_bytes()
}

/// A text message of a WebSocket's client: a final frame, masked (with zeros, which is allowed and changes nothing).
pub(super) fn text_frame(text: &str) -> Vec<u8> {
    let mut frame = vec![0x81];
    match text.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(text.as_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::{head, text_frame};
    use crate::agent::message::Wire;
    use crate::target::{Cursor, Place, Transport};

    #[test]
    fn cursors_go_where_they_belong() {
        let cursor = vec![
            Cursor { from: Place::Header("ETag".into()), into: Place::Header("If-None-Match".into()) },
            Cursor { from: Place::Json("last".into()), into: Place::Query("after".into()) },
        ];
        let wire = Wire {
            count: 1,
            channels: vec![0],
            host: "localhost:1".into(),
            path: "/sub".into(),
            headers: vec![("X".into(), "y".into())],
            hello: None,
            cursor,
        };
        let first = String::from_utf8(head(&wire, Transport::LongPolling, &[None, None])).unwrap();
        assert!(
            first.starts_with("GET /sub HTTP/1.1\r\nHost: localhost:1\r\n")
                && first.ends_with("X: y\r\n\r\n")
        );
        let cursors = [Some("7".to_owned()), Some("abc".to_owned())];
        let next = String::from_utf8(head(&wire, Transport::LongPolling, &cursors)).unwrap();
        assert!(next.starts_with("GET /sub?after=abc HTTP/1.1\r\n") && next.contains("If-None-Match: 7\r\n"));
    }

    #[test]
    fn a_frame_is_masked_with_nothing() {
        assert_eq!(text_frame("hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(text_frame(&"x".repeat(300))[..4], [0x81, 0xfe, 1, 44]);
    }
}
