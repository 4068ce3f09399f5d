//! Requests that leave this machine: to other servers, push gateways, and pages to be previewed. All of them go through the
//! one [`Client`], which connects only where it may, and reads only so much. Those to application services have their own
//! (`appservice/call.rs`), as these may be in any network.

pub mod base;
mod network;
mod resolver;
mod services;

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};

use self::network::Network;
pub use self::resolver::Denied;
use crate::config::Config;

/// The body of an answer, as it comes.
pub type Body = BoxStream<'static, Result<Bytes, Failure>>;

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0} is in a network to which this server does not connect")]
    Denied(String),
    #[error("there was no answer in time")]
    TimedOut,
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// Nobody is asked to compress: a few kilobytes could become gigabytes.
    #[error("the answer is compressed")]
    Compressed,
    #[error("{0}")]
    Unreachable(String),
}

/// What one request may cost.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For everything, from the look-up of the name to the last byte of the answer.
    pub time: Duration,
    /// Of the answer's body.
    pub bytes: usize,
    /// Whether to go where the answer points, a few times, as long as it stays encrypted.
    pub redirects: bool,
}

/// What carries requests in place of a network: tests join servers in one process with it.
pub trait Transport: Send + Sync + 'static {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Failure>>;
}

/// The one client for everything that goes out.
pub struct Client(Way);

enum Way {
    Network(Box<Network>),
    Instead(Arc<dyn Transport>),
}

impl Client {
    pub fn new(config: &Config) -> Self {
        Self(Way::Network(Box::new(Network::new(config))))
    }

    pub fn with_transport(transport: Arc<dyn Transport>) -> Self {
        Self(Way::Instead(transport))
    }

    /// Sends a request whose URI is absolute. A status that means failure is an answer like others. The body ends with
    /// an error where it would be larger than `limits` has it.
    pub async fn send(&self, request: http::Request<Bytes>, limits: Limits) -> Result<http::Response<Body>, Failure> {
        let response = match &self.0 {
            Way::Network(network) => network.send(request, limits).await?,
            Way::Instead(transport) => transport.send(request).await?,
        };
        let mut encodings = response.headers().get_all(http::header::CONTENT_ENCODING).iter();
        if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Failure::Compressed);
        }
        Ok(response.map(|body| limited(body, limits.bytes)))
    }

    /// Whether `_service._tcp` records say where `host` is; `None` if there is no network.
    pub(crate) async fn has_service(&self, host: &str) -> Option<bool> {
        match &self.0 {
            Way::Network(network) => Some(network.resolver().has_services(host).await),
            Way::Instead(_) => None,
        }
    }

    /// Whether requests go over a network at all.
    pub(crate) fn has_network(&self) -> bool {
        matches!(self.0, Way::Network(_))
    }
}

/// Reads a body to its end.
pub async fn read(mut body: Body) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(piece) = body.try_next().await? {
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}

/// The body, with an error in place of what comes after `max` bytes.
fn limited(body: Body, max: usize) -> Body {
    let start = Some((body, max));
    stream::unfold(start, move |left| async move {
        let (mut body, left) = left?;
        match body.next().await? {
            Ok(piece) => match left.checked_sub(piece.len()) {
                Some(left) => Some((Ok(piece), Some((body, left)))),
                None => Some((Err(Failure::TooLarge(max)), None)),
            },
            Err(failure) => Some((Err(failure), None)),
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(pieces: &'static [&'static str]) -> Body {
        stream::iter(pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes())))).boxed()
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_its_limit() {
        assert_eq!(read(limited(body(&["ab", "cd"]), 4)).await.unwrap(), "abcd");
        assert!(matches!(read(limited(body(&["ab", "cde"]), 4)).await, Err(Failure::TooLarge(4))));
    }
}
