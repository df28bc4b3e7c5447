//! What is read of a request, before and after hyper.

use tidings_server::hot::Requests;

use super::{Benchmark, Once};

pub(super) const ALL: &[Benchmark] = &[
    read("request: the head of a publish", || head(PUBLISH)),
    read("request: the head of a browser's stream", || head(STREAM)),
    read("request: an event of 200 bytes", || body(event(), 1)),
    read("request: 64 events of 200 bytes", || body(format!("[{}]", vec![event(); 64].join(",")), 64)),
];

const PUBLISH: &str = "POST /publish HTTP/1.1\r\nHost: localhost:8080\r\nAuthorization: Bearer 0123456789abcdef0123456789abcdef\r\n\
     Content-Type: application/json\r\nContent-Length: 248\r\n\r\n";

const STREAM: &str = "GET /events?channel=orders%2F1234&channel=news HTTP/1.1\r\nHost: events.example.com\r\n\
     Connection: keep-alive\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\
     User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
     Origin: https://shop.example.com\r\nReferer: https://shop.example.com/\r\nSec-Fetch-Site: same-site\r\n\
     Sec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
     Accept-Language: en-US,en;q=0.5\r\nCookie: session=0123456789abcdef\r\n\r\n";

const fn read(name: &'static str, prepare: fn() -> Once) -> Benchmark {
    Benchmark { name, warm_up: 10, rounds: 1000, prepare }
}

fn head(head: &'static str) -> Once {
    let requests = Requests::default();
    Box::new(move |meter| {
        let read = meter.count(1, || requests.head(head.as_bytes()));
        assert!(read.is_some_and(|route| route.is_some()), "the head is good");
    })
}

fn body(body: String, events: u64) -> Once {
    let requests = Requests::default();
    Box::new(move |meter| {
        let read = meter.count(events, || requests.publication(body.as_bytes()));
        assert!(read.is_some_and(|publication| publication.is_some()), "the body is good");
    })
}

fn event() -> String {
    let data = r#"{"id":1234567,"state":"paid","lines":[{"sku":"A-1","count":2,"price":19.90}],"note":"#;
    let note = "x".repeat(198 - data.len());
    format!(r#"{{"channel":"orders/1234","event":"order.paid","data":{data}"{note}"}}}}"#)
}
