//! A homeserver as a process of its own, which tests talk to from outside, kill and start again.
//!
//! The process is whatever the executable in the environment variable `LAUNCHER` starts, by default
//! `tests/complement/launch`, which starts Chappe. The contract (`LAUNCHER NAME IP DIR`) is that of the Complement suite, so
//! the same test also runs against another server and so shows whether the test itself is right.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use tempfile::TempDir;

/// The server name of every launched server.
pub const SERVER_NAME: &str = "localhost";

/// How long a server may take until it answers. Synapse needs seconds.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A homeserver with a data directory and an address of its own; it ends, and its data is removed, with this value.
pub struct Server {
    binary: Option<PathBuf>,
    address: SocketAddr,
    data: TempDir,
    process: Child,
}

impl Server {
    /// Starts a new server and waits until it answers. `binary` overrides which `chappe` the launcher takes.
    pub fn start(binary: Option<&Path>) -> io::Result<Self> {
        let data = tempfile::Builder::new().prefix("launched.").tempdir()?;
        for folder in ["ca", "db", "appservice"] {
            fs::create_dir(data.path().join(folder))?;
        }
        make_authority(&data.path().join("ca"))?;
        let address = SocketAddr::from((own_address(), 8008));
        let process = launch(binary, address, data.path())?;
        let mut server = Self { binary: binary.map(Path::to_owned), address, data, process };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Where the client-server API listens, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL of the client-server API.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What the launcher was given: the database is in `db` below.
    pub fn directory(&self) -> &Path {
        self.data.path()
    }

    /// Ends the process as a power cut would: `kill -9`.
    pub fn kill(&mut self) -> io::Result<()> {
        self.process.kill()?;
        self.process.wait().map(drop)
    }

    /// Starts the killed server again and kills it `after` that, whether or not it is ready by then.
    pub fn kill_while_starting(&mut self, after: Duration) -> io::Result<()> {
        self.process = launch(self.binary.as_deref(), self.address, self.data.path())?;
        thread::sleep(after);
        self.kill()
    }

    /// Starts the killed server again, with the data that it has, and waits until it answers.
    pub fn restart(&mut self) -> io::Result<()> {
        self.process = launch(self.binary.as_deref(), self.address, self.data.path())?;
        self.wait_until_ready()
    }

    /// What the server has logged since it first started.
    pub fn log(&self) -> io::Result<String> {
        fs::read_to_string(self.data.path().join("log"))
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let started = Instant::now();
        while !is_ready(self.address) {
            if self.process.try_wait()?.is_some() || started.elapsed() > START_LIMIT {
                return Err(io::Error::other(format!("the server did not start:\n{}", self.log()?)));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.kill();
    }
}

/// Runs the launcher, which becomes the server; its output goes to the file `log`.
fn launch(binary: Option<&Path>, address: SocketAddr, data: &Path) -> io::Result<Child> {
    let launcher = env::var_os("LAUNCHER").map_or_else(own_launcher, |launcher| Ok(launcher.into()))?;
    let log = fs::File::options().create(true).append(true).open(data.join("log"))?;
    let mut command = Command::new(launcher);
    command.arg(SERVER_NAME).arg(address.ip().to_string()).arg(data);
    if let Some(binary) = binary {
        command.env("CHAPPE_BIN", binary);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

/// That of the checkout which the test is run in. It is looked for now, since what was compiled in one checkout may run in another.
fn own_launcher() -> io::Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(env::current_dir, |folder| Ok(folder.into()))?;
    let mut candidates = package.ancestors().map(|folder| folder.join("tests/complement/launch"));
    candidates.find(|launcher| launcher.exists()).ok_or_else(|| {
        let message =
            format!("tests/complement/launch is not above {}: name a launcher with LAUNCHER", package.display());
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// Creates the certificate authority that the launcher signs the server's certificate with.
fn make_authority(folder: &Path) -> io::Result<()> {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1"])
        .args(["-keyout", "ca.key", "-out", "ca.crt"])
        .current_dir(folder)
        .output()?;
    if made.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&made.stderr).into_owned()))
    }
}

/// A loopback address that no other test takes at this moment, in this process or another one.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 + NEXT.fetch_add(1, Ordering::Relaxed), high, low)
}

/// Whether the server at `address` answers the request that needs nothing but a running server.
fn is_ready(address: SocketAddr) -> bool {
    let answer = || -> io::Result<[u8; 12]> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET /_matrix/client/versions HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    };
    answer().is_ok_and(|status| status.ends_with(b" 200"))
}
