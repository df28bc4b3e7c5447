//! Streams for a connection that is not the workers' to have: one that a program of its own serves with axum.
//!
//! The stream is an ordinary one on a worker, with all that belongs to it; only its socket is one end of a pair. The
//! other end is the body of an answer. So there is no second path: heartbeats, a token's end, slow readers, drains and
//! statistics are the same, for the price of a second descriptor and a copy.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, DATE, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use crate::{App, Problem};

/// How much is read at once.
const PIECE: usize = 16 << 10;
/// The longest head that a worker writes: fixed headers and those of CORS.
const LONGEST_HEAD: usize = 8 << 10;
/// Headers that belong to one connection (RFC 9110, 7.6.1), or that are written to every answer later.
const NOT_RELAYED: [HeaderName; 5] = [CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, VARY];

/// Answers a subscribe request on whatever connection it came.
///
/// # Errors
/// 503 when the workers can't be started, or there is no descriptor left.
pub(crate) async fn relay(app: &Arc<App>, parts: Parts, peer: SocketAddr) -> Result<Response<Body>, Problem> {
    try_relay(app, parts, peer).await.map_err(|error| {
        tracing::error!(%error, "a stream can't be relayed");
        let detail = "the server can't hold another stream just now; try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "No place for another stream now", detail)
            .header(RETRY_AFTER, HeaderValue::from_static("3"))
    })
}

async fn try_relay(app: &Arc<App>, mut parts: Parts, peer: SocketAddr) -> io::Result<Response<Body>> {
    app.start_workers()?;
    let Some(workers) = app.workers() else { return Err(io::ErrorKind::NotConnected.into()) };
    // Whoever serves the connection frames the body; the worker writes it to the end.
    parts.version = Version::HTTP_10;
    match super::open(app, workers, &parts, peer).await {
        Err(answer) => read_head(BytesMut::from(&answer[..]))?
            .map(|(head, rest)| head.map(|()| Body::from(rest.freeze())))
            .ok_or_else(|| io::ErrorKind::InvalidData.into()),
        Ok(admission) => {
            let (theirs, ours) = UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            theirs.set_nonblocking(true)?;
            let mut socket = tokio::net::UnixStream::from_std(ours)?;
            admission.hand_over(TcpStream::from(OwnedFd::from(theirs)));
            let mut read = BytesMut::with_capacity(PIECE);
            loop {
                if socket.read_buf(&mut read).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                // The first events may have come with it, so that only a head without an end is too long.
                if let Some((head, rest)) = read_head(read.clone())? {
                    return Ok(head.map(|()| Body::new(Relay { rest: rest.freeze(), socket })));
                }
                if read.len() > LONGEST_HEAD {
                    return Err(io::ErrorKind::InvalidData.into());
                }
            }
        }
    }
}

/// The head of an answer and what was read behind it, once it is complete.
fn read_head(mut bytes: BytesMut) -> io::Result<Option<(Response<()>, BytesMut)>> {
    let bad = |error: httparse::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(&bytes).map_err(bad)? else { return Ok(None) };
    let mut response = Response::new(());
    *response.status_mut() = head.code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_default();
    *response.headers_mut() = relayed(head.headers);
    bytes.advance(length);
    Ok(Some((response, bytes)))
}

fn relayed(headers: &[httparse::Header<'_>]) -> HeaderMap {
    let parse = |header: &httparse::Header<'_>| {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(header.value).ok()?;
        let cors = name.as_str().starts_with("access-control-");
        (!cors && !NOT_RELAYED.contains(&name)).then_some((name, value))
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers.iter().filter_map(parse) {
        map.append(name, value);
    }
    map
}

/// What a worker writes, as a body. Dropped, the worker sees that the client is gone.
struct Relay {
    /// What came together with the head.
    rest: Bytes,
    socket: tokio::net::UnixStream,
}

impl http_body::Body for Relay {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.rest)))));
        }
        let mut piece = [0; PIECE];
        let mut buffer = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut buffer))?;
        match buffer.filled() {
            [] => Poll::Ready(None),
            bytes => Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(bytes))))),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
