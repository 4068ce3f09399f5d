//! `chappe serve` in a process of its own, over a database that a bench has built.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

pub struct Served {
    process: Child,
    pub address: SocketAddr,
}

impl Served {
    /// Starts it and waits for its first answer. `configuration`: further lines of the file, the first of them of `[global]`.
    pub fn start(database: &Path, configuration: &str) -> Self {
        let address = free_address();
        let file = database.join("bench.toml");
        let text = format!(
            "[global]\nserver_name = \"bench\"\ndatabase_path = {database:?}\naddress = \"{}\"\nport = {}\nlog = \"error\"\n{configuration}",
            address.ip(),
            address.port()
        );
        fs::write(&file, text).expect("a file can be written");
        let process = Command::new(env!("CARGO_BIN_EXE_chappe"))
            .args(["serve", "--config"])
            .arg(file)
            .stdin(Stdio::null())
            .spawn()
            .expect("the server can be started");
        let mut served = Self { process, address };
        while !answers(address) {
            assert!(served.process.try_wait().expect("it is our process").is_none(), "the server has ended");
            thread::sleep(Duration::from_millis(1));
        }
        served
    }

    /// Ends it as an administrator does; how long that took.
    pub fn stop(mut self) -> Duration {
        let start = Instant::now();
        kill_process(Pid::from_child(&self.process), Signal::TERM).expect("it runs");
        assert!(self.process.wait().expect("it is our process").success(), "the server failed at its end");
        start.elapsed()
    }

    /// The bytes that are resident: at present, and the most since the start.
    pub fn resident(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).expect("the server runs");
        let bytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux tells it");
            let kibibytes: u64 = line.trim_end_matches("kB").trim().parse().expect("it is a number");
            kibibytes << 10
        };
        (bytes("VmRSS:"), bytes("VmHWM:"))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Fails only if the process has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("there is a free port")
}

fn answers(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET /_matrix/client/versions HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).map(|()| answer == *b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}
