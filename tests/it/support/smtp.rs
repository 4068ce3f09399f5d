//! A mail server in this process, which takes every letter.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// A letter as it came.
#[derive(Debug)]
pub struct Letter {
    pub from: String,
    pub to: String,
    pub headers: String,
    /// Decoded.
    pub text: String,
}

impl Letter {
    /// The first web address in the text.
    pub fn link(&self) -> &str {
        let start = self.text.find("http").unwrap_or_else(|| panic!("no link: {}", self.text));
        self.text[start..].split_whitespace().next().unwrap()
    }
}

#[derive(Clone)]
pub struct Smtp {
    pub address: SocketAddr,
    letters: Arc<Mutex<mpsc::UnboundedReceiver<Letter>>>,
}

impl Smtp {
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, letters) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, sender.clone()));
            }
        });
        Self { address, letters: Arc::new(Mutex::new(letters)) }
    }

    pub async fn next(&self) -> Letter {
        let next = async { self.letters.lock().await.recv().await };
        tokio::time::timeout(PATIENCE, next).await.expect("a letter should come").unwrap()
    }

    pub async fn is_quiet(&self) -> bool {
        self.letters.lock().await.try_recv().is_err()
    }
}

async fn talk(stream: TcpStream, letters: mpsc::UnboundedSender<Letter>) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 test\r\n").await.unwrap();
    let (mut from, mut to) = (String::new(), String::new());
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let command = line.trim_end().to_ascii_uppercase();
        let answer = if command.starts_with("MAIL FROM:") {
            from = between(&line);
            "250 ok"
        } else if command.starts_with("RCPT TO:") {
            to = between(&line);
            "250 ok"
        } else if command == "DATA" {
            stream.write_all(b"354 go on\r\n").await.unwrap();
            let letter = read_letter(&mut stream, &from, &to).await;
            let _ = letters.send(letter);
            "250 taken"
        } else if command == "QUIT" {
            let _ = stream.write_all(b"221 bye\r\n").await;
            return;
        } else {
            "250 test"
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
    }
}

fn between(line: &str) -> String {
    let start = line.find('<').unwrap() + 1;
    line[start..line.find('>').unwrap()].to_owned()
}

async fn read_letter(stream: &mut BufReader<TcpStream>, from: &str, to: &str) -> Letter {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        match line.trim_end_matches(['\r', '\n']) {
            "." => break,
            line => lines.push(line.strip_prefix('.').unwrap_or(line).to_owned()),
        }
    }
    let end = lines.iter().position(String::is_empty).unwrap();
    let (headers, body) = (lines[..end].join("\n"), lines[end + 1..].join("\n"));
    let encoding = headers.lines().find_map(|line| line.strip_prefix("Content-Transfer-Encoding: "));
    let text = match encoding {
        Some("quoted-printable") => quoted_printable(&body),
        Some("base64") => {
            use base64::Engine;
            let body: String = body.split_whitespace().collect();
            String::from_utf8(base64::engine::general_purpose::STANDARD.decode(body).unwrap()).unwrap()
        }
        _ => body,
    };
    Letter { from: from.to_owned(), to: to.to_owned(), headers, text }
}

fn quoted_printable(text: &str) -> String {
    let text = text.replace("=\n", "");
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        if first == b'=' && after.len() >= 2 {
            let hex = std::str::from_utf8(&after[..2]).unwrap();
            bytes.push(u8::from_str_radix(hex, 16).unwrap());
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).unwrap()
}
