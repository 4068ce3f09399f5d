//! A kept-alive HTTP/1.1 connection of one user: what it returns without an error was answered to the last byte.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// How long an answer may take. A server that is killed closes its connections, which is noticed at once.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

pub struct Connection {
    stream: BufReader<TcpStream>,
    token: String,
}

impl Connection {
    /// Connects for requests with the access token `token`; an empty one is not sent.
    pub fn open(address: SocketAddr, token: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Self { stream: BufReader::new(stream), token: token.to_owned() })
    }

    /// The body of the answer to a request that has to succeed.
    ///
    /// An error says that the server went away and that nobody knows whether it did what it was asked. Any other answer than
    /// 200 is a finding: it panics.
    pub fn request(&mut self, method: &str, path: &str, body: &Value) -> io::Result<Value> {
        let (status, answer) = self.exchange(method, path, body)?;
        assert_eq!(status, 200, "{method} {path} {body}: {answer}");
        Ok(answer)
    }

    pub fn get(&mut self, path: &str) -> io::Result<Value> {
        self.request("GET", path, &Value::Null)
    }

    /// Status and body of the answer, whatever it is.
    pub fn exchange(&mut self, method: &str, path: &str, body: &Value) -> io::Result<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let authorization =
            if self.token.is_empty() { String::new() } else { format!("Authorization: Bearer {}\r\n", self.token) };
        let request = format!(
            "{method} /_matrix/client/v3/{path} HTTP/1.1\r\nHost: localhost\r\n{authorization}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
        let body = self.body()?;
        Ok((status, serde_json::from_slice(&body)?))
    }

    /// Reads the headers and then the body, whose length they tell.
    fn body(&mut self) -> io::Result<Vec<u8>> {
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                Some(("content-length", value)) => length = value.parse().map_err(|_| malformed())?,
                Some(("transfer-encoding", "chunked")) => chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        if !chunked {
            return self.bytes(length);
        }
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).map_err(|_| malformed())?;
            body.extend(self.bytes(size)?);
            self.line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn bytes(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next line, without its end.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let ended = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(ended.to_owned())
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not HTTP/1.1")
}
