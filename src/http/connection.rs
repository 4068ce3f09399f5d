//! One connection: its handshake, its requests, and its end, whether the client behaves or not.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, response::Response};
use bytes::Bytes;
use http::Request;
use hyper::{
    body::{Frame, Incoming, SizeHint},
    server::conn::{http1, http2},
    service::Service,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower_http::timeout::TimeoutBody;
use tracing::debug;

use super::peer::Peer;

/// How long a client may be silent before we give up on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// For its TLS handshake, and then until its first request has begun.
    pub first_request: Duration,
    /// For the head of a request; hyper counts the pause since the last request in.
    pub request_head: Duration,
    /// Between requests.
    pub idle: Duration,
    /// While it sends the body of a request.
    pub body: Duration,
    /// After an HTTP/2 ping, which asks whether it is still there; and between the pings.
    pub ping: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_request: Duration::from_secs(15),
            request_head: Duration::from_secs(90),
            // More than the 60 seconds for which nginx keeps its end open: a proxy that sends a request into a
            // connection that we just closed would report an error to its client.
            idle: Duration::from_secs(75),
            body: Duration::from_secs(30),
            ping: Duration::from_secs(30),
        }
    }
}

/// The largest head of a request over HTTP/1, and how much of a body is read or written at a time. Bytes. For heads over
/// HTTP/2 hyper has 16 KiB by itself.
pub(super) const BUFFER: usize = 64 << 10;

/// How long after its last request a connection that was told to end may take to send what is buffered.
const FLUSH: Duration = Duration::from_secs(1);

/// Serves one accepted connection until the client leaves, has been silent for too long, or `shutdown` begins and
/// its requests have ended.
///
/// What a kind of connection needs is on the heap, so that a plain one does not take the memory of the largest kind for as long
/// as it is open.
pub(super) async fn serve(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: Peer,
    tls: Option<Arc<ServerConfig>>,
    router: Router,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let service = Counted { router, peer, body_patience: patience.body, requests: Arc::default() };
    let Some(tls) = tls else {
        return Box::pin(serve_http1(stream, service, patience, shutdown)).await;
    };
    let handshake = Box::pin(timeout(patience.first_request, TlsAcceptor::from(tls).accept(stream)));
    match shutdown.run_until_cancelled(handshake).await {
        Some(Ok(Ok(stream))) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            Box::pin(serve_http2(stream, service, patience, shutdown)).await;
        }
        Some(Ok(Ok(stream))) => Box::pin(serve_http1(stream, service, patience, shutdown)).await,
        Some(Ok(Err(error))) => debug!(?peer, %error, "TLS handshake failed"),
        Some(Err(_)) => debug!(?peer, "TLS handshake took too long"),
        None => {}
    }
}

async fn serve_http1(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: Counted,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let activity = service.requests.subscribe();
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience.request_head).max_buf_size(BUFFER);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    drive(connection, http1::Connection::graceful_shutdown, activity, patience, shutdown).await;
}

async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    service: Counted,
    patience: Patience,
    shutdown: CancellationToken,
) {
    let activity = service.requests.subscribe();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(patience.ping).keep_alive_timeout(patience.ping);
    builder.max_concurrent_streams(128);
    let connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    drive(connection, http2::Connection::graceful_shutdown, activity, patience, shutdown).await;
}

/// Runs `connection`; once it is silent or the server shuts down, lets it end by itself, and ends it when no request
/// is under way.
async fn drive<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    close: fn(Pin<&mut C>),
    mut activity: watch::Receiver<Requests>,
    patience: Patience,
    shutdown: CancellationToken,
) {
    tokio::select! {
        result = connection.as_mut() => return log_end(result),
        () = silence(&mut activity, patience) => {}
        () = shutdown.cancelled() => {}
    }
    close(connection.as_mut());
    tokio::select! {
        result = connection => log_end(result),
        () = none_for(FLUSH, &mut activity) => {}
    }
}

fn log_end(result: hyper::Result<()>) {
    if let Err(error) = result {
        debug!(%error, "connection ended");
    }
}

/// Ends when the connection has had its chance: no first request in time, or none for a long while.
async fn silence(activity: &mut watch::Receiver<Requests>, patience: Patience) {
    let first = activity.wait_for(|requests| requests.begun > 0);
    if matches!(timeout(patience.first_request, first).await, Ok(Ok(_))) {
        none_for(patience.idle, activity).await;
    }
}

/// Ends once no request has been under way for as long as `pause`.
async fn none_for(pause: Duration, activity: &mut watch::Receiver<Requests>) {
    // An error means that hyper has dropped the service, after the last request.
    while activity.wait_for(|requests| requests.begun == requests.ended).await.is_ok() {
        if !matches!(timeout(pause, activity.changed()).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// The requests of one connection so far.
#[derive(Default)]
struct Requests {
    begun: u64,
    /// Answered, and the answer's body handed over; or given up.
    ended: u64,
}

/// The router as hyper wants it; it tells each request who the peer is, and keeps count.
struct Counted {
    router: Router,
    peer: Peer,
    body_patience: Duration,
    requests: Arc<watch::Sender<Requests>>,
}

impl Service<Request<Incoming>> for Counted {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let under_way = UnderWay::begin(&self.requests);
        let mut request = request.map(|body| Body::new(TimeoutBody::new(self.body_patience, body)));
        request.extensions_mut().insert(self.peer);
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move { Ok(answer.await?.map(|body| Body::new(CountedBody::new(body, under_way)))) })
    }
}

/// Counts a request as begun, and when dropped as ended.
struct UnderWay(Arc<watch::Sender<Requests>>);

impl UnderWay {
    fn begin(requests: &Arc<watch::Sender<Requests>>) -> Self {
        requests.send_modify(|requests| requests.begun += 1);
        Self(Arc::clone(requests))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|requests| requests.ended += 1);
    }
}

/// The body of an answer, whose request ends with it. So hyper is never given more at once than it is to keep: of a body in
/// one piece it would take all, and the request would count as ended while the client had read nothing yet.
struct CountedBody {
    body: Body,
    /// What was not handed over yet of the last piece.
    rest: Bytes,
    _under_way: UnderWay,
}

impl CountedBody {
    fn new(body: Body, under_way: UnderWay) -> Self {
        Self { body, rest: Bytes::new(), _under_way: under_way }
    }
}

impl hyper::body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(BUFFER);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::body::Body as _;

    use super::*;

    #[tokio::test]
    async fn an_answer_in_one_piece_is_handed_over_in_several() {
        let whole = Bytes::from(vec![b'x'; 2 * BUFFER + 1]);
        let mut body = CountedBody::new(Body::from(whole), UnderWay::begin(&Arc::default()));
        for left in [2 * BUFFER + 1, BUFFER + 1, 1] {
            assert!(!body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(left as u64));
            let frame = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap().len(), left.min(BUFFER));
        }
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await.is_none());
    }
}
