//! Answers that may be large: what there is much of is handed on while the rest is made.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::answer::Answer;
use crate::{
    Server,
    error::{Error, Result},
};

/// How long a piece waits for its turn. It holds a thread meanwhile, which those whose turn it is may need.
const TURN_PATIENCE: Duration = Duration::from_millis(500);

/// From how many bytes on a part of an answer is handed on.
pub const PIECE_BYTES: usize = 64 << 10;

/// How many pieces wait for the client, at most, as long as it takes them fast enough.
const MAX_WAITING: usize = 16;

/// How long one answer waits for its client in all. A slower one gets the rest from memory, so that it holds up neither
/// a thread nor a snapshot of the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// What became of an answer when the first of its pieces was full, or before.
pub enum Made {
    Whole(Answer),
    Begun(Pieces),
}

/// The pieces of an answer, in order.
pub struct Pieces {
    server: Arc<Server>,
    first: Option<Bytes>,
    rest: mpsc::UnboundedReceiver<Result<Piece>>,
    room: Arc<Semaphore>,
}

enum Piece {
    /// Durable.
    Part(Bytes),
    /// What is left when everything else was handed on.
    End(Answer),
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
        let piece = self.rest.recv().await?;
        self.room.add_permits(1);
        match piece {
            Ok(Piece::Part(bytes)) => Some(Ok(bytes)),
            Ok(Piece::End(answer)) => Some(told(&self.server, answer).await),
            Err(error) => Some(Err(error)),
        }
    }
}

/// What a client is told, which must be durable.
pub enum Reply {
    Whole(Bytes),
    Begun(Pieces),
}

impl Made {
    pub async fn reply(self, server: &Server) -> Result<Reply> {
        match self {
            Self::Whole(answer) => told(server, answer).await.map(Reply::Whole),
            Self::Begun(pieces) => Ok(Reply::Begun(pieces)),
        }
    }
}

async fn told(server: &Server, answer: Answer) -> Result<Bytes> {
    server.store.until_durable(answer.next.pos).await?;
    Ok(answer.body.into())
}

/// Takes what is written so far, where that is much.
pub type HandOn<'h> = dyn FnMut(&mut Vec<u8>) -> Result<()> + 'h;

/// The answer that `assemble` makes. What it hands on is told, whatever comes after.
pub async fn make(
    server: &Arc<Server>,
    assemble: impl FnOnce(&Server, &mut HandOn<'_>) -> Result<Answer> + Send + 'static,
) -> Result<Made> {
    let (sender, mut rest) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(MAX_WAITING));
    let mut writer =
        Writer { server: Arc::clone(server), sender, room: Arc::clone(&room), patience: PATIENCE, turn: None };
    tokio::task::spawn_blocking(move || {
        let server = Arc::clone(&writer.server);
        let end = assemble(&server, &mut |out| writer.hand_on(out)).map(Piece::End);
        let _ = writer.sender.send(end); // if the client is gone, nobody needs it
    });
    match rest.recv().await.ok_or_else(|| Error::internal("an answer ended before it began"))?? {
        Piece::Part(first) => Ok(Made::Begun(Pieces { server: Arc::clone(server), first: Some(first), rest, room })),
        Piece::End(answer) => Ok(Made::Whole(answer)),
    }
}

struct Writer {
    server: Arc<Server>,
    sender: mpsc::UnboundedSender<Result<Piece>>,
    room: Arc<Semaphore>,
    patience: Duration,
    /// To make the next piece.
    turn: Option<OwnedSemaphorePermit>,
}

impl Writer {
    fn hand_on(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.turn = None;
        // At least as new as what the answer is made from, and durable after the first piece in most cases.
        let shown = self.server.store.snapshot().pos()?;
        let runtime = Handle::current();
        runtime.block_on(self.server.store.until_durable(shown))?;
        self.wait_for_room(&runtime);
        let piece = Bytes::from(std::mem::take(out));
        self.sender.send(Ok(Piece::Part(piece))).map_err(|_| Error::internal("the client hung up"))?;
        self.turn = runtime.block_on(timeout(TURN_PATIENCE, self.server.long_answers.turn())).ok().transpose()?;
        Ok(())
    }

    fn wait_for_room(&mut self, runtime: &Handle) {
        let asked = Instant::now();
        if let Ok(Ok(permit)) = runtime.block_on(timeout(self.patience, self.room.acquire())) {
            permit.forget(); // the client's taking a piece gives it back
        }
        self.patience = self.patience.saturating_sub(asked.elapsed());
    }
}
