//! Large answers, handed on while they are made.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc},
    time::timeout,
};

use super::{answer::Answer, request::Request, to_device};
use crate::{
    Server,
    error::{Error, Result},
    user::presence,
};

/// From how many bytes on a part of an answer is handed on.
pub const PIECE_BYTES: usize = 64 << 10;

/// How many pieces wait for the client, at most, as long as it takes them fast enough.
const MAX_WAITING: usize = 16;

/// How long one answer waits for its client in all. A slower one gets the rest from memory, so that it holds up neither
/// a thread nor a snapshot of the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// The pieces of an answer, in order.
pub struct Pieces {
    first: Option<Bytes>,
    rest: mpsc::UnboundedReceiver<Result<Bytes>>,
    room: Arc<Semaphore>,
}

impl Pieces {
    /// After an error the answer can't be finished.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        stream::unfold(self, async |mut pieces| Some((pieces.next().await?, pieces)))
    }

    async fn next(&mut self) -> Option<Result<Bytes>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        let piece = self.rest.recv().await;
        self.room.add_permits(1);
        piece
    }
}

/// Answers a request that is not kept waiting, [`Request::is_answered_at_once`].
pub async fn stream(server: &Arc<Server>, request: Request) -> Result<Pieces> {
    if let Some(since) = request.since {
        to_device::acknowledge(server, &request.user_id, &request.device_id, since.to_device).await?;
    }
    let _here = presence::sync(server, &request.user_id, &request.device_id, request.set_presence);
    pieces(server, move |server, hand_on| Answer::assemble(server, &request, hand_on)).await
}

/// Takes what is written so far, where that is much.
pub type HandOn<'h> = dyn FnMut(&mut Vec<u8>) -> Result<()> + 'h;

/// The pieces of the answer that `assemble` makes.
pub async fn pieces(
    server: &Arc<Server>,
    assemble: impl FnOnce(&Server, &mut HandOn<'_>) -> Result<Answer> + Send + 'static,
) -> Result<Pieces> {
    let (sender, mut rest) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(MAX_WAITING));
    let mut writer = Writer { server: Arc::clone(server), sender, room: Arc::clone(&room), patience: PATIENCE };
    tokio::task::spawn_blocking(move || {
        let last = writer.write(assemble);
        let _ = writer.sender.send(last); // if the client is gone, nobody needs it
    });
    let first = rest.recv().await.ok_or_else(|| Error::internal("an answer ended before it began"))??;
    Ok(Pieces { first: Some(first), rest, room })
}

struct Writer {
    server: Arc<Server>,
    sender: mpsc::UnboundedSender<Result<Bytes>>,
    room: Arc<Semaphore>,
    patience: Duration,
}

impl Writer {
    /// Makes the answer and hands on all of it but the last piece.
    fn write(&mut self, assemble: impl FnOnce(&Server, &mut HandOn<'_>) -> Result<Answer>) -> Result<Bytes> {
        let server = Arc::clone(&self.server);
        let answer = assemble(&server, &mut |out| self.hand_on(out))?;
        Handle::current().block_on(server.store.until_durable(answer.next.pos))?;
        Ok(answer.body.into())
    }

    fn hand_on(&mut self, out: &mut Vec<u8>) -> Result<()> {
        // At least as new as what the answer is made from, and durable after the first piece in most cases.
        let shown = self.server.store.snapshot().pos()?;
        Handle::current().block_on(self.server.store.until_durable(shown))?;
        self.wait_for_room();
        let piece = Bytes::from(std::mem::take(out));
        self.sender.send(Ok(piece)).map_err(|_| Error::internal("the client hung up"))
    }

    fn wait_for_room(&mut self) {
        let asked = Instant::now();
        if let Ok(Ok(permit)) = Handle::current().block_on(timeout(self.patience, self.room.acquire())) {
            permit.forget(); // the client's taking a piece gives it back
        }
        self.patience = self.patience.saturating_sub(asked.elapsed());
    }
}
