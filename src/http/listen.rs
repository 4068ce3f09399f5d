//! The sockets on which the server is reached: TCP, TLS over TCP, and a Unix socket.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::Router;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{either::Either, sync::CancellationToken};
use tracing::{info, warn};

use super::{
    connection::{self, Patience},
    peer::Peer,
    tls::{Certificates, TlsError},
};
use crate::config::{Config, SocketMode};

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: i32 = 1024;
/// Connections of who asks for figures.
const SCRAPERS: usize = 16;
/// Pause after an error of `accept` that more attempts would only repeat, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Bound sockets, on which nothing is served yet.
pub struct Listeners {
    listeners: Vec<Listener>,
    certificates: Option<Arc<Certificates>>,
    shutdown_timeout: Duration,
    patience: Patience,
    /// Bounds the connections, so that clients cannot use up the file descriptors that the database needs.
    places: Arc<Semaphore>,
}

struct Listener {
    socket: Socket,
    certificates: Option<Arc<Certificates>>,
}

/// When serving ends, and how long it may then take.
struct End {
    shutdown: CancellationToken,
    drain: Duration,
}

enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("cannot listen on {address}, which `address` and `port` or `tls.port` name")]
    Tcp { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {address}, which `metrics.listen` names")]
    Metrics { address: SocketAddr, source: io::Error },
    #[error("cannot listen on {}, which `unix_socket_path` names", path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Listeners {
    /// Binds everything that the configuration names, for at most `max_connections` connections at a time.
    /// Must be called inside a tokio runtime.
    pub fn bind(config: &Config, max_connections: usize) -> Result<Self, ListenError> {
        let certificates = config.tls.clone().map(Certificates::load).transpose()?.map(Arc::new);
        let mut listeners = Vec::new();
        for address in &config.address {
            let separate = *address == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                && config.address.contains(&IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let mut bind = |port, certificates: Option<Arc<Certificates>>| {
                let address = SocketAddr::new(*address, port);
                let socket = bind_tcp(address, separate).map_err(|source| ListenError::Tcp { address, source })?;
                listeners.push(Listener { socket: Socket::Tcp(socket), certificates });
                Ok::<_, ListenError>(())
            };
            match config.tls.as_ref().map(|tls| tls.port) {
                None => bind(config.port, None)?,
                Some(None) => bind(config.port, certificates.clone())?,
                Some(Some(encrypted)) => {
                    bind(config.port, None)?;
                    bind(encrypted, certificates.clone())?;
                }
            }
        }
        if let Some(path) = &config.unix_socket_path {
            let socket = bind_unix(path, config.unix_socket_perms)
                .map_err(|source| ListenError::Unix { path: path.clone(), source })?;
            listeners.push(Listener { socket, certificates: None });
        }
        let places = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let patience = Patience::default();
        Ok(Self { listeners, certificates, shutdown_timeout: config.shutdown_timeout, patience, places })
    }

    /// Binds the listener for figures; `None` if there is to be none. Must be called inside a tokio runtime.
    pub fn bind_metrics(config: &Config) -> Result<Option<Self>, ListenError> {
        let Some(address) = config.metrics.listen else { return Ok(None) };
        let socket = bind_tcp(address, false).map_err(|source| ListenError::Metrics { address, source })?;
        Ok(Some(Self {
            listeners: vec![Listener { socket: Socket::Tcp(socket), certificates: None }],
            certificates: None,
            shutdown_timeout: config.shutdown_timeout,
            patience: Patience::default(),
            places: Arc::new(Semaphore::new(SCRAPERS)),
        }))
    }

    /// The bound TCP addresses with their true ports, in the order of the configuration; for each address the plain
    /// listener before the encrypted one.
    pub fn tcp_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let tcp = self.listeners.iter().filter_map(|listener| match &listener.socket {
            Socket::Tcp(socket) => Some(socket.local_addr()),
            Socket::Unix { .. } => None,
        });
        tcp.collect()
    }

    /// The certificate in use, to be read again when its files were renewed.
    pub fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }

    /// Serves `router` until `shutdown` is cancelled, then waits for the requests under way, for at most the
    /// configured `shutdown_timeout`. Handlers that wait for news must themselves end on `shutdown`.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) {
        let mut accepting = JoinSet::new();
        for listener in self.listeners {
            info!(at = %listener.describe(), "listening");
            let end = End { shutdown: shutdown.clone(), drain: self.shutdown_timeout };
            accepting.spawn(listener.run(router.clone(), self.places.clone(), self.patience, end));
        }
        while accepting.join_next().await.is_some() {}
    }
}

impl Listener {
    fn describe(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        match &self.socket {
            Socket::Tcp(socket) => socket.local_addr().map(|at| format!("{scheme}://{at}")).unwrap_or_default(),
            Socket::Unix { _file: SocketFile(path), .. } => format!("unix:{}", path.display()),
        }
    }

    /// Accepts connections until `shutdown`, each served by a task of its own, so that none holds up the next.
    async fn run(self, router: Router, places: Arc<Semaphore>, patience: Patience, end: End) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = end.shutdown.cancelled() => break,
                Some(_ended) = connections.join_next() => {}
                accepted = self.accept(&places) => match accepted {
                    Ok((stream, peer, place)) => {
                        let tls = self.certificates.as_ref().map(|certificates| certificates.current());
                        let served = connection::serve(stream, peer, tls, router.clone(), patience, end.shutdown.clone());
                        connections.spawn(async move {
                            served.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        warn!(at = %self.describe(), %error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
        drop(self); // refuse new connections while the old ones end
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(end.drain, all).await.is_err() {
            warn!(connections = connections.len(), "requests did not end within shutdown_timeout and are cut off");
        }
    }

    /// The next connection, once there is a place for it. Dropping this future loses no connection.
    async fn accept(
        &self,
        places: &Arc<Semaphore>,
    ) -> io::Result<(Either<TcpStream, UnixStream>, Peer, OwnedSemaphorePermit)> {
        let place = Arc::clone(places).acquire_owned().await.expect("nothing closes this semaphore");
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?; // answers are written whole: do not wait for more
                Ok((Either::Left(stream), Peer::Tcp(peer), place))
            }
            Socket::Unix { listener, .. } => Ok((Either::Right(listener.accept().await?.0), Peer::Unix, place)),
        }
    }
}

/// `separate`: an IPv6 socket leaves IPv4 to the IPv4 socket on the same port.
fn bind_tcp(address: SocketAddr, separate: bool) -> io::Result<TcpListener> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if separate {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?; // a restarted server need not wait for the connections of the old one
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn bind_unix(path: &Path, mode: SocketMode) -> io::Result<Socket> {
    remove_stale_socket(path)?;
    let listener = UnixListener::bind(path)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(mode.bits()))?;
    Ok(Socket::Unix { listener, _file: file })
}

/// Removes the socket file of a server that was killed. A file that is no socket, or a socket that is answered, stays.
fn remove_stale_socket(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => Err(io::Error::other("there is a file that is no socket")),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            Err(io::Error::other("another server is listening there"))
        }
        Ok(_) => fs::remove_file(path),
    }
}

/// Removes the socket's file when the server ends.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            warn!(path = %self.0.display(), %error, "cannot remove the Unix socket");
        }
    }
}

#[cfg(test)]
mod tests;
