//! Answers for other servers: of any size, handed on while they are made, and made only of what is durable.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use tokio::{runtime::Handle, sync::mpsc, time::timeout};

use crate::{
    Server,
    error::{Error, Result},
    event::StoredEvent,
    room::View,
    store::{EventNid, Snapshot},
};

/// From how many bytes on a piece is handed on.
const PIECE_BYTES: usize = 256 << 10;

/// How many pieces wait for the network at most.
const MAX_WAITING: usize = 4;

/// How long a peer may take for one piece, and for a whole answer. One that is slower is hung up on: it holds a thread
/// and a snapshot of the database.
const PATIENCE: Duration = Duration::from_secs(30);
const WHOLE_PATIENCE: Duration = Duration::from_secs(300);

/// How many answers of unbounded size are made at a time, for all servers and for one of them.
const MAX_AT_ONCE: usize = 16;
const MAX_AT_ONCE_FOR_ONE: usize = 3;

/// After how long a server that asks for too much at a time may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How many events are read at once.
const BATCH: usize = 64;

/// For whom large answers are being made, and how many for each.
#[derive(Debug, Default)]
pub struct Answering(Arc<Mutex<HashMap<OwnedServerName, usize>>>);

/// One of the answers that are being made, until it is dropped.
pub(super) struct Turn {
    answering: Arc<Mutex<HashMap<OwnedServerName, usize>>>,
    origin: OwnedServerName,
}

impl Answering {
    pub(super) fn begin(&self, origin: &ServerName) -> Result<Turn> {
        let mut answering = self.0.lock();
        let all: usize = answering.values().sum();
        let for_one = answering.entry(origin.to_owned()).or_default();
        if all >= MAX_AT_ONCE || *for_one >= MAX_AT_ONCE_FOR_ONE {
            answering.retain(|_, count| *count > 0);
            return Err(Error::limit_exceeded(RETRY_AFTER));
        }
        *for_one += 1;
        Ok(Turn { answering: Arc::clone(&self.0), origin: origin.to_owned() })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut answering = self.answering.lock();
        if let Some(count) = answering.get_mut(&self.origin) {
            *count -= 1;
        }
        answering.retain(|_, count| *count > 0);
    }
}

/// The answer of `work` on one snapshot, once everything in that snapshot is durable.
pub async fn read<R: Send + 'static>(
    server: &Arc<Server>,
    work: impl FnOnce(&Server, &Snapshot<'_>) -> Result<R> + Send + 'static,
) -> Result<R> {
    let (answer, shown) = server
        .blocking(move |server| {
            let snapshot = server.store.snapshot();
            Ok((work(server, &snapshot)?, snapshot.pos()?))
        })
        .await?;
    server.store.until_durable(shown).await?;
    Ok(answer)
}

/// The pieces of an answer, in order.
#[derive(Debug)]
pub struct Pieces {
    first: Option<Bytes>,
    rest: mpsc::Receiver<Result<Bytes>>,
}

impl Pieces {
    /// `None` at the end. After an error the answer can't be finished.
    pub async fn next(&mut self) -> Option<Result<Bytes>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.rest.recv().await,
        }
    }
}

/// An answer for `origin` that `work` writes, on one snapshot. What it refuses before the first piece is full is the
/// answer.
///
/// Errors: `M_LIMIT_EXCEEDED` if that server is being answered too much at a time.
pub async fn stream(
    server: &Arc<Server>,
    origin: &ServerName,
    work: impl FnOnce(&Server, &Snapshot<'_>, &mut Output<'_>) -> Result<()> + Send + 'static,
) -> Result<Pieces> {
    stream_in(server, server.federation.answering.begin(origin)?, work).await
}

/// As [`stream`], in a turn that was begun before.
pub(super) async fn stream_in(
    server: &Arc<Server>,
    turn: Turn,
    work: impl FnOnce(&Server, &Snapshot<'_>, &mut Output<'_>) -> Result<()> + Send + 'static,
) -> Result<Pieces> {
    let (sender, mut rest) = mpsc::channel(MAX_WAITING);
    let server = Arc::clone(server);
    tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let made = write(&server, &sender, work);
        if let Err(error) = made {
            let _ = sender.blocking_send(Err(error)); // if the peer is gone, nobody needs it
        }
    });
    let first = rest.recv().await.ok_or_else(|| Error::internal("an answer ended before it began"))??;
    Ok(Pieces { first: Some(first), rest })
}

fn write(
    server: &Server,
    sender: &mpsc::Sender<Result<Bytes>>,
    work: impl FnOnce(&Server, &Snapshot<'_>, &mut Output<'_>) -> Result<()>,
) -> Result<()> {
    let snapshot = server.store.snapshot();
    let shown = snapshot.pos()?;
    Handle::current().block_on(server.store.until_durable(shown))?;
    let mut output = Output { bytes: Vec::new(), sender, started: Instant::now() };
    work(server, &snapshot, &mut output)?;
    output.hand_on()
}

/// Where an answer is written to.
pub struct Output<'s> {
    bytes: Vec<u8>,
    sender: &'s mpsc::Sender<Result<Bytes>>,
    started: Instant,
}

impl Output<'_> {
    pub fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= PIECE_BYTES { self.hand_on() } else { Ok(()) }
    }

    /// A JSON array of `items`, each in the form that `write` gives it.
    pub fn array<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Vec<u8>, T) -> Result<()>,
    ) -> Result<()> {
        self.put(b"[")?;
        let mut is_first = true;
        for item in items {
            if !std::mem::take(&mut is_first) {
                self.bytes.push(b',');
            }
            write(&mut self.bytes, item)?;
            self.put(b"")?;
        }
        self.put(b"]")
    }

    /// A JSON array of events in the form that `show` gives them.
    pub fn events(
        &mut self,
        view: &View<'_>,
        events: &[EventNid],
        mut show: impl FnMut(&StoredEvent) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let batches = events.chunks(BATCH).map(|batch| view.events(batch));
        let events = batches.flat_map(|batch| match batch {
            Ok(events) => events.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        });
        self.array(events, |out, event| {
            out.extend(show(&event?)?);
            Ok(())
        })
    }

    fn hand_on(&mut self) -> Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.bytes));
        let patience = PATIENCE.min(WHOLE_PATIENCE.saturating_sub(self.started.elapsed()));
        let sent = Handle::current().block_on(timeout(patience, self.sender.send(Ok(piece))));
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Error::internal("a server hung up, or was too slow")),
        }
    }
}
