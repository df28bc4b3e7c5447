//! Accepts connections and follows each to its end, or until it is a stream and a worker's.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use hyper::body::Incoming;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;

use crate::direct::Direct;
use crate::guard::{BodyProgress, Guard, Verdict};
use crate::http::{Side, router};
use crate::log_limit::LogLimit;
use crate::route::Routes;
use crate::stream::head;
use crate::{App, TimeoutsConfig, stream};

/// What the kernel may hold of one connection that its client has not read: it doubles this for its own bookkeeping,
/// so a client that stopped reading costs 256 KiB, not the 4 MiB that Linux would grow to.
const SEND_BUFFER: usize = 128 << 10;
/// When a silent peer is asked whether it is there, and how often after that: a dead one to which nothing is sent is
/// found after 45 s.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(30);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// How long bytes may stay without the peer's word for them. A stream is sent something every 15 s, so that a peer which
/// vanished is found within 45 s.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// How many connections may wait to be accepted: all the clients of a node that has just come back. The system's own
/// limit (`net.core.somaxconn`) may be lower; whoever finds no place tries again after a second.
const BACKLOG: i32 = 4096;
/// How long accepting pauses when there are no descriptors or no memory left: long enough not to spin, short enough
/// that nobody notices once there are some again.
const BACK_OFF: Duration = Duration::from_millis(50);
/// How often it is logged that nothing can be accepted.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// After an answer that ends a connection, how long and how much is still read: closing with bytes unread resets the
/// connection, and the client may lose the answer (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1 << 20;

/// Serves streams on the fast path and everything else with an axum router.
#[derive(Clone)]
pub struct Server {
    app: Arc<App>,
    router: Router,
    routes: Routes,
    timeouts: Arc<TimeoutsConfig>,
}

impl Server {
    /// A server whose streams are at `GET /events` below the base path; the router gets all other requests, with the
    /// client's address as [`ConnectInfo<SocketAddr>`].
    ///
    /// # Errors
    /// When the workers can't be started.
    pub fn new(app: Arc<App>, router: Router) -> io::Result<Server> {
        app.start_workers()?;
        let routes = Routes::new(&app.config.base_path, &app.config.limits, false);
        let timeouts = Arc::new(app.config.timeouts.clone());
        Ok(Server { app, router, routes, timeouts })
    }

    /// A server with nothing but the routes of one side, which answers small publishes with less work than a router of
    /// whatever else can.
    ///
    /// # Errors
    /// When the workers can't be started.
    pub fn of_side(app: Arc<App>, side: Side) -> io::Result<Server> {
        let publish = side != Side::Public;
        let routes = Routes::new(&app.config.base_path, &app.config.limits, publish);
        Ok(Server { routes, ..Server::new(app.clone(), router(app, side))? })
    }

    /// Accepts connections until the server has drained.
    ///
    /// # Errors
    /// When the listener can't be set up.
    pub async fn serve(&self, listener: TcpListener) -> io::Result<()> {
        let options = SockRef::from(&listener);
        options.listen(BACKLOG)?;
        // On Linux, what is accepted inherits these, unless it was waiting already.
        set_up(&options)?;
        let send_buffer = options.send_buffer_size()?;
        let drain = self.app.drain.clone();
        let mut over = pin!(drain.over());
        let refused = LogLimit::new(LOG_EVERY);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut over => return Ok(()),
            };
            match accepted {
                Ok((socket, peer)) => {
                    let options = SockRef::from(&socket);
                    let inherited = options.send_buffer_size().is_ok_and(|size| size == send_buffer);
                    if !inherited && set_up(&options).is_err() {
                        continue;
                    }
                    tokio::spawn(self.clone().connection(socket, peer));
                }
                Err(error) if is_the_connections(&error) => {}
                Err(error) => {
                    if let Some(suppressed) = refused.pass() {
                        tracing::warn!(%error, suppressed, "no connection can be accepted just now");
                    }
                    tokio::time::sleep(BACK_OFF).await;
                }
            }
        }
    }

    /// A connection from its first byte to its last, or until it is a worker's.
    async fn connection(self, socket: TcpStream, peer: SocketAddr) {
        let open = self.app.drain.connection();
        let mut guard =
            Guard::new(socket, self.routes.clone(), self.timeouts.clone(), self.app.drain.clone());
        let mut poll = None;
        let verdict = loop {
            let direct = Direct::new(&self.app, &mut guard, peer).run(poll.take()).await;
            if direct.is_some() {
                break direct;
            }
            // Boxed, so that a connection that begins as a stream needs no memory for hyper.
            match Box::pin(self.through_hyper(guard, peer)).await {
                Some(back) => guard = back,
                None => return,
            }
            match guard.take_verdict() {
                Some(Verdict::Poll(parts)) => poll = Some(parts),
                verdict => break verdict,
            }
        };
        let socket = guard.into_inner();
        match verdict {
            // Publishes and polls have been answered before.
            Some(Verdict::Over | Verdict::Publish(..) | Verdict::Poll(_)) => {}
            Some(Verdict::Stream(parts)) => {
                let Some(workers) = self.app.workers() else { return };
                match stream::open(&self.app, workers, &parts, peer).await {
                    Ok(admission) => {
                        drop(open);
                        // An error says that the socket is gone, and with it who would be told.
                        if let Ok(socket) = socket.into_std() {
                            admission.hand_over(socket);
                        }
                    }
                    Err(answer) => send_last(socket, &answer).await,
                }
            }
            Some(Verdict::Refuse(problem)) => {
                tracing::debug!(%peer, status = problem.status().as_u16(), reason = problem.detail(), "refused");
                send_last(socket, &head::last(&problem.response(&self.app.request_id()))).await;
            }
            // hyper has answered and wants no more: `Connection: close`, or a body that nobody read.
            Some(Verdict::Answered) | None => send_last(socket, &[]).await,
        }
    }

    /// Lets hyper serve requests until the guard says otherwise. `None` when the connection broke.
    async fn through_hyper(&self, guard: Guard<TcpStream>, peer: SocketAddr) -> Option<Guard<TcpStream>> {
        let service = Http { server: self, peer, body: guard.body() };
        let mut connection = pin!(
            hyper::server::conn::http1::Builder::new()
                // The guard has limits of its own, and its end of file means "answer, then give the socket back".
                .half_close(true)
                .header_read_timeout(None)
                .max_headers(self.app.config.limits.headers)
                .serve_connection(guard, service)
                .without_shutdown()
        );
        let drain = &self.app.drain;
        let served = tokio::select! {
            served = &mut connection => served,
            () = drain.begun() => connection.await,
        };
        match served {
            Ok(parts) => Some(parts.io),
            Err(error) => {
                tracing::debug!(%peer, %error, "connection broke");
                None
            }
        }
    }
}

/// The router as hyper calls it.
struct Http<'a> {
    server: &'a Server,
    peer: SocketAddr,
    body: BodyProgress,
}

impl hyper::service::Service<Request<Incoming>> for Http<'_> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = self.server.router.clone().call(request);
        let body = self.body.clone();
        let app = self.server.app.clone();
        Box::pin(async move {
            let mut response = answer.await?;
            if let Some(problem) = body.problem() {
                response = problem.response(&app.request_id());
            }
            if app.drain.is_begun() || body.is_unread() {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

fn set_up(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_send_buffer_size(SEND_BUFFER)?;
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_TRIES))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(())
}

/// Whether only the one connection failed that was to be accepted, and the next may be tried at once.
fn is_the_connections(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Sends the last bytes of a connection so that the client can read them, then closes it.
async fn send_last(mut socket: TcpStream, bytes: &[u8]) {
    let closed = async {
        socket.write_all(bytes).await?;
        socket.shutdown().await?;
        let mut scratch = [0; 4096];
        let mut left = LINGER_BYTES;
        while left > 0 {
            match socket.read(&mut scratch).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        io::Result::Ok(())
    };
    // Whoever does not read within this time does not want to.
    let _ = tokio::time::timeout(LINGER, closed).await;
}
