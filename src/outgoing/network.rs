//! The client over a network: reqwest with our resolver, our roots of trust and no proxies.

use std::{error::Error as _, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use reqwest::{Url, redirect};
use tracing::error;

use super::{
    Body, Failure, Limits,
    base::Base,
    resolver::{Denied, Resolver, Shared},
};
use crate::config::Config;

const MAX_REDIRECTS: usize = 3;
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const IDLE_CONNECTIONS_PER_HOST: usize = 4;

pub struct Network {
    denied: Denied,
    resolver: Arc<Resolver>,
    authorities: Option<std::path::PathBuf>,
    /// Made when first needed: reading the system's certificates takes a while.
    clients: Mutex<Option<Clients>>,
}

#[derive(Clone)]
struct Clients {
    direct: reqwest::Client,
    following: reqwest::Client,
}

impl Network {
    pub fn new(config: &Config) -> Self {
        let denied = Denied::new(config);
        Self {
            resolver: Arc::new(Resolver::new(denied.clone())),
            denied,
            authorities: config.certificate_authorities_file.clone(),
            clients: Mutex::new(None),
        }
    }

    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    pub async fn send(&self, request: http::Request<Bytes>, limits: Limits) -> Result<http::Response<Body>, Failure> {
        let request = reqwest::Request::try_from(request).map_err(failure_of)?;
        check(&self.denied, request.url())?;
        let clients = self.clients()?;
        let client = if limits.redirects { &clients.following } else { &clients.direct };
        let mut request = request;
        *request.timeout_mut() = Some(limits.time);
        let response = client.execute(request).await.map_err(failure_of)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes_stream().map_err(failure_of).boxed();
        let mut answer = http::Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    fn clients(&self) -> Result<Clients, Failure> {
        let mut clients = self.clients.lock();
        if let Some(clients) = &*clients {
            return Ok(clients.clone());
        }
        let made = self.make_clients().map_err(|error| {
            error!("requests to other servers can't be made: {error:#}");
            Failure::Unreachable("this server can't make requests".to_owned())
        })?;
        Ok(clients.insert(made).clone())
    }

    fn make_clients(&self) -> anyhow::Result<Clients> {
        let base = Base::load(self.authorities.as_deref())?;
        let builder = || {
            base.client()
                .dns_resolver(Shared(Arc::clone(&self.resolver)))
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST)
        };
        let denied = self.denied.clone();
        let follow =
            redirect::Policy::custom(move |attempt| match check_step(&denied, attempt.previous(), attempt.url()) {
                Ok(()) => attempt.follow(),
                Err(failure) => attempt.error(failure),
            });
        Ok(Clients {
            direct: builder().redirect(redirect::Policy::none()).build()?,
            following: builder().redirect(follow).build()?,
        })
    }
}

/// Whether a redirect may be followed to `next`.
fn check_step(denied: &Denied, previous: &[Url], next: &Url) -> Result<(), Failure> {
    if previous.len() > MAX_REDIRECTS {
        return Err(Failure::Unreachable("too many redirects".to_owned()));
    }
    let was_encrypted = previous.last().is_some_and(|url| url.scheme() == "https");
    if was_encrypted && next.scheme() != "https" {
        return Err(Failure::Unreachable("a redirect leads out of encryption".to_owned()));
    }
    check(denied, next)
}

/// A host that is written as an address is not resolved, so it is checked here. The URL's parser has made one address
/// of its many spellings.
fn check(denied: &Denied, url: &Url) -> Result<(), Failure> {
    let host = url.host_str().unwrap_or_default();
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    match literal.parse() {
        Ok(address) if denied.has(address) => Err(Failure::Denied(host.to_owned())),
        _ => Ok(()),
    }
}

/// What of reqwest's errors tells an administrator something.
fn failure_of(error: reqwest::Error) -> Failure {
    // Without the address: paths hold ids, queries hold tokens, and this is logged and kept.
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(ours) = cause.downcast_ref::<Failure>() {
            return ours.clone();
        }
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if error.is_timeout() { Failure::TimedOut } else { Failure::Unreachable(text) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    const LIMITS: Limits = Limits { time: Duration::from_secs(10), bytes: 100, redirects: true };

    fn network(allowlist: &[&str]) -> Network {
        let mut config = Config::for_tests("example.org");
        config.ip_range_allowlist = allowlist.iter().map(|text| text.parse().unwrap()).collect();
        Network::new(&config)
    }

    /// Answers every connection with `answer`; its port.
    async fn listen(answer: String) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        port
    }

    async fn get(network: &Network, url: &str) -> Result<http::Response<Body>, Failure> {
        network.send(http::Request::get(url).body(Bytes::new()).unwrap(), LIMITS).await
    }

    #[tokio::test]
    async fn private_addresses_are_not_connected_to_however_they_are_written() {
        let port = listen("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_owned()).await;
        for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "[::1]", "127.1"] {
            let failure = get(&network(&[]), &format!("http://{host}:{port}/")).await.err();
            assert!(matches!(failure, Some(Failure::Denied(_))), "{host}: {failure:?}");
        }
        for host in ["127.0.0.1", "localhost"] {
            assert_eq!(get(&network(&["127.0.0.0/8"]), &format!("http://{host}:{port}/")).await.unwrap().status(), 200);
        }
    }

    #[tokio::test]
    async fn a_redirect_to_a_private_address_is_not_followed() {
        let inside = listen("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi".to_owned()).await;
        let moved = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2:{inside}/\r\ncontent-length: 0\r\n\r\n");
        let port = listen(moved).await;
        let failure = get(&network(&["127.0.0.1"]), &format!("http://127.0.0.1:{port}/")).await.err();
        assert!(matches!(failure, Some(Failure::Denied(_))), "{failure:?}");
    }

    #[tokio::test]
    async fn a_failure_does_not_tell_the_address() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}/rooms/private?token=private");
        let failure = get(&network(&["127.0.0.1"]), &url).await.err().unwrap().to_string();
        assert!(failure.contains("error sending request") && !failure.contains("private"), "{failure}");
    }

    #[test]
    fn a_redirect_leads_into_encryption_and_not_out_of_it() {
        let network = network(&[]);
        let [open, encrypted] = ["http://a.test/", "https://a.test/"].map(|url| Url::parse(url).unwrap());
        let step = |from: &Url, to: &Url| check_step(&network.denied, std::slice::from_ref(from), to);
        for (from, to) in [(&open, &open), (&open, &encrypted), (&encrypted, &encrypted)] {
            step(from, to).unwrap();
        }
        let failure = step(&encrypted, &open).unwrap_err();
        assert!(failure.to_string().contains("out of encryption"), "{failure}");
    }

    #[tokio::test]
    async fn redirects_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let answer = format!("HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:{port}/\r\ncontent-length: 0\r\n\r\n");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let failure = get(&network(&["127.0.0.1"]), &format!("http://127.0.0.1:{port}/")).await.err();
        assert!(failure.is_some_and(|failure| failure.to_string().contains("redirects")));
    }
}
