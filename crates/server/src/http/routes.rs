//! What there is at which path.

use http::Method;

/// What is done for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    Publish,
    /// A poll, or a stream that is relayed from a worker; on a listener of ours a stream goes there by itself.
    Stream,
    History,
    Purge,
    Channels,
    Connections,
    Connection,
    Disconnect,
    DisconnectUser,
    Subscriptions,
    /// The same in a plainer form.
    Subscribe,
    Presence,
    Users,
    Acknowledge,
    Queues,
    FlushQueues,
    Stats,
    Metrics,
    Healthz,
    Readyz,
    Description,
    Page,
    /// In the specification, not built yet: what to say.
    Later(&'static str),
}

/// A path and what its methods do.
#[derive(Debug)]
pub(super) struct Route {
    /// As axum writes it.
    pub(super) path: &'static str,
    /// Whether it is to be had on the public address when there is an internal one.
    pub(super) public: bool,
    methods: &'static [(Method, Endpoint)],
}

impl Route {
    /// What a method does; HEAD does what GET does.
    pub(super) fn endpoint(&self, method: &Method) -> Option<Endpoint> {
        let wanted = if method == Method::HEAD { &Method::GET } else { method };
        self.methods.iter().find(|(method, _)| method == wanted).map(|(_, endpoint)| *endpoint)
    }

    /// The methods there are, as the header `Allow` lists them.
    pub(super) fn allow(&self) -> String {
        let mut allowed = Vec::with_capacity(4);
        for (method, _) in self.methods {
            allowed.push(method.as_str());
            if method == Method::GET {
                allowed.push("HEAD");
            }
        }
        allowed.push("OPTIONS");
        allowed.join(", ")
    }

    /// Methods that are answered with more than "not yet".
    #[cfg(test)]
    pub(super) fn built(&self) -> impl Iterator<Item = &Method> {
        self.methods
            .iter()
            .filter(|(_, endpoint)| !matches!(endpoint, Endpoint::Later(_)))
            .map(|(method, _)| method)
    }
}

const fn public(path: &'static str, methods: &'static [(Method, Endpoint)]) -> Route {
    Route { path, public: true, methods }
}

const fn internal(path: &'static str, methods: &'static [(Method, Endpoint)]) -> Route {
    Route { path, public: false, methods }
}

use Endpoint::Later;

/// The one that is asked for the most.
pub(super) static PUBLISH: Route = internal("/publish", &[(Method::POST, Endpoint::Publish)]);

/// Streams, and polls.
pub(super) static EVENTS: Route = public("/events", &[(Method::GET, Endpoint::Stream)]);

/// Every other path of the server.
static OTHERS: &[Route] = &[
    public("/history", &[(Method::GET, Endpoint::History), (Method::DELETE, Endpoint::Purge)]),
    internal("/channels", &[(Method::GET, Endpoint::Channels)]),
    internal(
        "/connections",
        &[(Method::GET, Endpoint::Connections), (Method::DELETE, Endpoint::DisconnectUser)],
    ),
    internal(
        "/connections/{id}",
        &[(Method::GET, Endpoint::Connection), (Method::DELETE, Endpoint::Disconnect)],
    ),
    internal(
        "/connections/{id}/token",
        &[(Method::PUT, Later("a token can't be renewed on a live stream yet"))],
    ),
    internal("/stats", &[(Method::GET, Endpoint::Stats)]),
    internal("/metrics", &[(Method::GET, Endpoint::Metrics)]),
    public("/healthz", &[(Method::GET, Endpoint::Healthz)]),
    public("/readyz", &[(Method::GET, Endpoint::Readyz)]),
    internal("/openapi.json", &[(Method::GET, Endpoint::Description)]),
    internal("/", &[(Method::GET, Endpoint::Page)]),
    internal("/console/", &[(Method::GET, Later("there is no console yet"))]),
    public("/tidings.js", &[(Method::GET, Later("the client is not built into the server yet"))]),
    public("/presence", &[(Method::GET, Endpoint::Presence)]),
    internal("/users", &[(Method::GET, Endpoint::Users)]),
    public(
        "/subscriptions",
        &[(Method::POST, Endpoint::Subscriptions), (Method::DELETE, Endpoint::Subscriptions)],
    ),
    public("/subscribe", &[(Method::POST, Endpoint::Subscribe), (Method::DELETE, Endpoint::Subscribe)]),
    public("/tickets", &[(Method::POST, Later("there are no tickets yet"))]),
    internal("/acks", &[(Method::POST, Endpoint::Acknowledge)]),
    internal("/queues", &[(Method::GET, Endpoint::Queues), (Method::DELETE, Endpoint::FlushQueues)]),
    internal("/explain", &[(Method::GET, Later("refusals can't be explained yet"))]),
];

/// Every path of the server.
pub(super) fn routes() -> impl Iterator<Item = &'static Route> {
    [&PUBLISH, &EVENTS].into_iter().chain(OTHERS)
}
