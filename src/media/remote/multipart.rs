//! The answers in which servers send each other files: `multipart/mixed`, with a part of JSON and one of content.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use memchr::memmem;
use ruma::http_headers::ContentDisposition;

use crate::outgoing::{Body, Failure};

/// Everything before the content must fit into this many bytes.
const MAX_HEAD: usize = 64 << 10;

/// The part with the content.
pub struct Part {
    pub content_type: Option<String>,
    pub file_name: Option<String>,
    /// Where the content is, if it is not here.
    pub location: Option<String>,
    pub content: Body,
}

/// The boundary that a `Content-Type` names; `None` if it is none of `multipart/mixed`.
pub fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let is_boundary = |parameter: &&str| parameter.trim_start().to_ascii_lowercase().starts_with("boundary=");
    let value = parameters.split(';').find(is_boundary)?.split_once('=')?.1.trim();
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (1..=70).contains(&value.len()).then(|| value.to_owned())
}

/// Reads up to the content, which then comes as a stream.
pub async fn read(body: Body, boundary: &str) -> Result<Part, Failure> {
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    // The first delimiter may stand at the very beginning, without a line before it.
    let mut reader = Reader { body, buffer: BytesMut::from("\r\n"), read: 0 };
    reader.skip_past(&delimiter).await?;
    reader.skip_past(b"\n").await?; // the rest of the line
    reader.skip_past(&delimiter).await?; // the metadata, of which the specification defines nothing yet
    reader.skip_past(b"\r\n").await?;
    let (mut content_type, mut file_name, mut location) = (None, None, None);
    loop {
        let line = reader.skip_past(b"\r\n").await?;
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(&line);
        let Some((name, value)) = line.split_once(':') else { return Err(malformed()) };
        let value = value.trim().to_owned();
        match name.trim().to_ascii_lowercase().as_str() {
            "content-type" => content_type = Some(value),
            "content-disposition" => file_name = file_name_of(value.as_bytes()),
            "location" => location = Some(value),
            _ => {}
        }
    }
    let Reader { body, buffer, .. } = reader;
    Ok(Part { content_type, file_name, location, content: content(body, buffer, delimiter) })
}

/// The file name in a `Content-Disposition`.
pub fn file_name_of(header: &[u8]) -> Option<String> {
    ContentDisposition::try_from(header).ok()?.filename
}

struct Reader {
    body: Body,
    buffer: BytesMut,
    read: usize,
}

impl Reader {
    /// Takes everything up to and with `mark` off the body; what came before it.
    async fn skip_past(&mut self, mark: &[u8]) -> Result<Bytes, Failure> {
        loop {
            if let Some(at) = memmem::find(&self.buffer, mark) {
                let before = self.buffer.split_to(at).freeze();
                self.buffer.advance(mark.len());
                return Ok(before);
            }
            if self.read > MAX_HEAD {
                return Err(malformed());
            }
            let more = self.body.try_next().await?.ok_or_else(malformed)?;
            self.read += more.len();
            self.buffer.extend_from_slice(&more);
        }
    }
}

/// What comes before the next delimiter. A body that ends without one is an error: the file is not whole.
fn content(body: Body, buffer: BytesMut, delimiter: Vec<u8>) -> Body {
    let start = Some((body, buffer, delimiter));
    stream::unfold(start, |state| async move {
        let (mut body, mut buffer, delimiter) = state?;
        loop {
            if let Some(at) = memmem::find(&buffer, &delimiter) {
                return Some((Ok(buffer.split_to(at).freeze()), None));
            }
            // A delimiter may have begun in the last bytes.
            let certain = buffer.len().saturating_sub(delimiter.len() - 1);
            if certain > 0 {
                return Some((Ok(buffer.split_to(certain).freeze()), Some((body, buffer, delimiter))));
            }
            match body.next().await {
                Some(Ok(more)) => buffer.extend_from_slice(&more),
                Some(Err(failure)) => return Some((Err(failure), None)),
                None => return Some((Err(malformed()), None)),
            }
        }
    })
    .boxed()
}

fn malformed() -> Failure {
    Failure::Unreachable("the answer is no whole file in the form of multipart/mixed".to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::outgoing;

    fn body(bytes: &[u8], step: usize) -> Body {
        let pieces: Vec<_> = bytes.chunks(step).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        stream::iter(pieces).boxed()
    }

    const WHOLE: &[u8] = b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Type: text/plain\r\n\
        Content-Disposition: attachment; filename=a.txt\r\n\r\nhe\r\n--\r\n-llo\r\n--b--";

    #[tokio::test]
    async fn a_file_is_read_however_it_is_cut_into_pieces() {
        for start in [&b""[..], b"\r\n", b"preamble\r\n"] {
            let whole = [start, WHOLE].concat();
            for step in 1..whole.len() {
                let part = read(body(&whole, step), "b").await.unwrap();
                assert_eq!(part.content_type.as_deref(), Some("text/plain"));
                assert_eq!(part.file_name.as_deref(), Some("a.txt"));
                assert_eq!(outgoing::read(part.content).await.unwrap(), "he\r\n--\r\n-llo");
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_ends_early_is_an_error() {
        for length in 0..WHOLE.len() - 2 {
            if let Ok(part) = read(body(&WHOLE[..length], 7), "b").await {
                outgoing::read(part.content).await.unwrap_err();
            }
        }
    }

    #[tokio::test]
    async fn a_part_may_say_where_the_content_is() {
        let moved = b"--b\r\n\r\n{}\r\n--b\r\nLocation: https://cdn.example/x\r\n\r\n\r\n--b--";
        let part = read(body(moved, 100), "b").await.unwrap();
        assert_eq!(part.location.as_deref(), Some("https://cdn.example/x"));
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_is_read_no_further() {
        const HEADS: [(&[u8], &[u8]); 5] = [
            (b"", b"preamble\r\n"),
            (b"--b", b"x"),
            (b"--b\r\n", b"metadata"),
            (b"--b\r\n\r\n{}\r\n--b\r\n", b"X-Header: x\r\n"),
            (b"--b\r\n\r\n{}\r\n--b\r\nContent-Type: ", b"x"),
        ];
        for (start, more) in HEADS {
            let taken = Arc::new(AtomicUsize::new(0));
            let (counter, piece) = (Arc::clone(&taken), Bytes::from(more.repeat(1_000)));
            let pieces = stream::repeat_with(move || {
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(piece.clone())
            });
            let whole = stream::iter([Ok(Bytes::from_static(start))]).chain(pieces.take(1_000)).boxed();
            assert!(read(whole, "b").await.is_err());
            let read_bytes = taken.load(Ordering::Relaxed) * more.len() * 1_000;
            assert!(read_bytes <= MAX_HEAD + more.len() * 1_000, "{read_bytes} bytes of {start:?}");
        }
    }

    #[test]
    fn boundaries_are_found() {
        assert_eq!(boundary("multipart/mixed; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("Multipart/Mixed;x=y; Boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("multipart/mixed"), None);
        assert_eq!(boundary("text/plain; boundary=abc"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes: Vec<u8>, step in 1_usize..50) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(async { outgoing::read(read(body(&bytes, step), "b").await?.content).await });
        }
    }
}
