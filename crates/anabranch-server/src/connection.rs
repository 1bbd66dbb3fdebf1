//! Sockets: accepting them, and what one of them may take.
//!
//! Memory per connection is bounded: headers by [`HEADER_BYTES_MAX`], bodies by what their handlers
//! read at a time. Time is bounded in both directions: the header must arrive in time (which also
//! ends idle connections), a body that stands still in either direction ends the connection.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_http::timeout::TimeoutBody;

use crate::config::Limits;
use crate::metrics;

/// All headers of a request together are no longer; nor is what is read ahead of a body.
const HEADER_BYTES_MAX: usize = 64 * 1024;
/// No request has more headers.
const HEADERS_MAX: usize = 100;
/// After a failure to accept, for lack of file descriptors for example.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(100);

/// Accepts connections until `stop`, then lets those that are open finish what they are at.
pub(crate) async fn serve<H, F>(
    listener: TcpListener,
    limits: &Limits,
    stop: impl Future<Output = ()>,
    handler: H,
) where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let (stopping, open) = (CancellationToken::new(), TaskTracker::new());
    let free = Arc::new(Semaphore::new(limits.connections));
    let mut stop = std::pin::pin!(stop);
    loop {
        let next = async {
            let place = Arc::clone(&free).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut stop => break,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE_AFTER_FAILURE).await;
                continue;
            }
        };
        let connection = connect(stream, limits, handler.clone(), stopping.clone());
        open.spawn(async move {
            let (_place, _counted) = (place, metrics::Connection::open());
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }
    // Nobody new is let in while the others finish.
    drop(listener);
    stopping.cancel();
    open.close();
    if tokio::time::timeout(limits.grace, open.wait()).await.is_err() {
        tracing::warn!(grace = ?limits.grace, "requests under way were cut off");
    }
}

type Io = TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>;

/// Answers the requests of a connection until it ends, becomes a WebSocket, or, once `stopping`, is at
/// none.
fn connect<H, F>(
    stream: TcpStream,
    limits: &Limits,
    handler: H,
    stopping: CancellationToken,
) -> impl Future<Output = Result<(), hyper::Error>> + Send + use<H, F>
where
    H: Fn(Request<Body>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    // Small answers must not wait for one another; a socket without the option works as well.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(limits.stall));
    let io: Io = TokioIo::new(Box::pin(stream));
    let stall = limits.stall;
    let service = service_fn(move |request: Request<Incoming>| {
        let request = request.map(|body| Body::new(TimeoutBody::new(stall, body)));
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(io, service)
        .with_upgrades();
    async move {
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}
