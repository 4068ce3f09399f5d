//! Real sockets, real clients; some of them badly behaved.

use std::{net::Ipv4Addr, time::Instant};

use axum::{
    Extension,
    extract::rejection::BytesRejection,
    routing::{get, post},
};
use bytes::Bytes;
use http::{Request, StatusCode};
use rcgen::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::*;
use crate::config::Tls;

/// A server that tells at `/peer` who asks, answers `/hangs` never, and `/waits` at shutdown.
struct Running {
    addresses: Vec<SocketAddr>,
    certificates: Option<Arc<Certificates>>,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
}

impl Running {
    fn start(config: &Config) -> Self {
        Self::start_with(config, Patience::default())
    }

    fn start_with(config: &Config, patience: Patience) -> Self {
        let mut listeners = Listeners::bind(config, 100).unwrap();
        listeners.patience = patience;
        let shutdown = CancellationToken::new();
        let waits = shutdown.clone();
        let router = Router::new()
            .route("/peer", get(async |Extension(peer): Extension<Peer>| format!("{peer:?}")))
            .route("/upload", post(async |body: Result<Bytes, BytesRejection>| body.map(|_| "thanks")))
            .route("/hangs", get(async || std::future::pending::<StatusCode>().await))
            .route("/waits", get(async move || waits.cancelled().await));
        let addresses = listeners.tcp_addresses().unwrap();
        let certificates = listeners.certificates();
        let serving = tokio::spawn(listeners.serve(router, shutdown.clone()));
        Self { addresses, certificates, shutdown, serving }
    }

    /// How long the server takes to stop.
    async fn stop(self) -> Duration {
        let begun = Instant::now();
        self.shutdown.cancel();
        self.serving.await.unwrap();
        begun.elapsed()
    }
}

/// A configuration without TCP listeners, for a server whose answers may take a second to drain.
fn config() -> Config {
    let mut config = Config::for_tests("localhost");
    config.shutdown_timeout = Duration::from_secs(5);
    config
}

/// A `GET` over HTTP/1.1, after which the connection is closed.
fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// The answer to a `GET`, from its status to the end of its body.
async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    stream.write_all(request(path).as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.strip_prefix("HTTP/1.1 ").unwrap().to_owned()
}

/// Writes a new self-signed certificate for `localhost`, and gives it.
fn write_certificate(directory: &TempDir) -> (Tls, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certs, key) = (directory.path().join("cert.pem"), directory.path().join("key.pem"));
    fs::write(&certs, cert.pem()).unwrap();
    fs::write(&key, signing_key.serialize_pem()).unwrap();
    (Tls { certs, key, port: None }, cert.der().clone())
}

/// A TLS connection that trusts `certificate` only and offers the protocols `alpn`.
async fn connect_tls(
    address: SocketAddr,
    certificate: &CertificateDer<'static>,
    alpn: &[&str],
) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), stream).await
}

#[tokio::test]
async fn every_address_answers_and_tells_the_peer() {
    let mut config = config();
    config.address = vec![Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 0, 0, 2).into()];
    let server = Running::start(&config);
    assert_eq!(server.addresses.len(), 2);
    for address in &server.addresses {
        let stream = TcpStream::connect(address).await.unwrap();
        let own = stream.local_addr().unwrap();
        let answer = ask(stream, "/peer").await;
        assert!(answer.starts_with("200") && answer.ends_with(&format!("Tcp({own})")), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let mut config = config();
    let server = Running::start(&config);
    config.port = server.addresses[0].port();
    let error = Listeners::bind(&config, 100).err().unwrap().to_string();
    assert!(error.contains(&format!("127.0.0.1:{}", config.port)) && error.contains("`port`"), "{error}");
}

#[tokio::test]
async fn tls_serves_http_2_and_http_1() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, certificate) = write_certificate(&directory);
    let mut config = config();
    config.tls = Some(tls);
    let server = Running::start(&config);
    let address = server.addresses[0];

    let stream = connect_tls(address, &certificate, &["http/1.1"]).await.unwrap();
    assert!(ask(stream, "/peer").await.starts_with("200"));

    let stream = connect_tls(address, &certificate, &["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://localhost/peer").body(()).unwrap();
    let (response, _) = client.ready().await.unwrap().send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
    assert!(server.stop().await < Duration::from_secs(3), "an idle HTTP/2 connection does not hold up the end");
}

#[tokio::test]
async fn plain_and_encrypted_ports_live_side_by_side() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, certificate) = write_certificate(&directory);
    let mut config = config();
    config.tls = Some(Tls { port: Some(0), ..tls });
    let server = Running::start(&config);
    let stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    assert!(ask(stream, "/peer").await.starts_with("200"));
    let stream = connect_tls(server.addresses[1], &certificate, &[]).await.unwrap();
    assert!(ask(stream, "/peer").await.starts_with("200"));
}

#[tokio::test]
async fn a_silent_client_does_not_hold_up_others() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, certificate) = write_certificate(&directory);
    let mut config = config();
    config.tls = Some(tls);
    let server = Running::start(&config);
    let _silent = TcpStream::connect(server.addresses[0]).await.unwrap();
    let stream = connect_tls(server.addresses[0], &certificate, &[]).await.unwrap();
    assert!(ask(stream, "/peer").await.starts_with("200"));
    assert!(server.stop().await < Duration::from_secs(3), "nor the end");
}

#[tokio::test]
async fn a_renewed_certificate_is_used_after_a_reload_and_a_broken_one_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let (tls, old) = write_certificate(&directory);
    let mut config = config();
    config.tls = Some(tls.clone());
    let server = Running::start(&config);
    let certificates = server.certificates.clone().unwrap();
    let (_, new) = write_certificate(&directory);
    assert!(connect_tls(server.addresses[0], &old, &[]).await.is_ok());
    certificates.reload().unwrap();
    assert!(connect_tls(server.addresses[0], &new, &[]).await.is_ok());
    assert!(connect_tls(server.addresses[0], &old, &[]).await.is_err());
    fs::write(&tls.certs, "no certificate").unwrap();
    let error = certificates.reload().unwrap_err().to_string();
    assert!(error.contains("`tls.certs`"), "{error}");
    assert!(connect_tls(server.addresses[0], &new, &[]).await.is_ok());
}

#[tokio::test]
async fn the_unix_socket_has_its_permissions_and_replaces_a_stale_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chappe.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap()); // leaves its file, as a killed server does
    let mut config = config();
    config.address = Vec::new();
    config.unix_socket_path = Some(path.clone());
    let server = Running::start(&config);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let stream = UnixStream::connect(&path).await.unwrap();
    assert!(ask(stream, "/peer").await.ends_with("Unix"));
    let error = format!("{:#}", anyhow::Error::from(Listeners::bind(&config, 100).err().unwrap()));
    assert!(error.contains("another server is listening"), "{error}");
    server.stop().await;
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    assert!(Listeners::bind(&config, 100).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn requests_under_way_are_answered_before_the_end() {
    let server = Running::start(&config());
    let mut waiting = TcpStream::connect(server.addresses[0]).await.unwrap();
    waiting.write_all(request("/waits").as_bytes()).await.unwrap();
    // A second request on the same listener is answered, so the first has long been accepted.
    ask(TcpStream::connect(server.addresses[0]).await.unwrap(), "/peer").await;
    assert!(server.stop().await < Duration::from_secs(3));
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_hanging_request_is_cut_off_at_the_time_out() {
    let mut config = config();
    config.shutdown_timeout = Duration::from_millis(300);
    let server = Running::start(&config);
    let mut stream = TcpStream::connect(server.addresses[0]).await.unwrap();
    stream.write_all(request("/hangs").as_bytes()).await.unwrap();
    ask(TcpStream::connect(server.addresses[0]).await.unwrap(), "/peer").await;
    let took = server.stop().await;
    assert!((300..2_000).contains(&took.as_millis()), "{took:?}");
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "the connection is closed");
}

/// Sends `beginning` and gives what comes back until the server closes the connection.
async fn until_closed(address: SocketAddr, beginning: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(beginning.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _reset = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it is closed");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_client_that_goes_silent_is_sent_away() {
    let short = Duration::from_millis(100);
    let long = Duration::from_secs(60);
    let patience = Patience { first_request: short, request_head: long, idle: short, body: short, ping: long };
    let address = Running::start_with(&config(), patience).addresses[0];
    assert_eq!(until_closed(address, "").await, "");
    assert_eq!(until_closed(address, "GET /peer HTTP/1.1\r\nhost:").await, "");
    let idle = until_closed(address, "GET /peer HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
    let upload = "POST /upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n12345";
    let upload = until_closed(address, upload).await;
    assert!(upload.starts_with("HTTP/1.1 400") && !upload.contains("thanks"), "{upload}");
    let head = Patience { first_request: long, request_head: short, ..patience };
    let address = Running::start_with(&config(), head).addresses[0];
    assert!(!until_closed(address, "GET /peer HTTP/1.1\r\nhost:").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_is_bounded() {
    let address = Running::start(&config()).addresses[0];
    let long = format!("/peer?{}", "x".repeat(connection::BUFFER / 2));
    assert!(ask(TcpStream::connect(address).await.unwrap(), &long).await.starts_with("200"));
    // No more than the server reads: else its answer could be lost with the connection.
    let begun = "GET /peer HTTP/1.1\r\nx: ";
    let begun = format!("{begun}{}", "x".repeat(connection::BUFFER - begun.len()));
    let answer = until_closed(address, &begun).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let listeners = Listeners::bind(&config(), 1).unwrap();
    let address = listeners.tcp_addresses().unwrap()[0];
    tokio::spawn(listeners.serve(Router::new().route("/", get(async || "yes")), CancellationToken::new()));
    let first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(request("/").as_bytes()).await.unwrap();
    assert_eq!(ask_ready(&mut second).await, None, "the first client has the only place");
    drop(first);
    let mut answer = Vec::new();
    second.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

/// What arrives within a moment.
async fn ask_ready(stream: &mut TcpStream) -> Option<usize> {
    timeout(Duration::from_millis(200), stream.read(&mut [0; 64])).await.ok().and_then(Result::ok)
}
