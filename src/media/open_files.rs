//! Files that are open because somebody downloads them: each for as long as its reader takes. There are only so many, so
//! that the database finds some when it needs them.

use std::{
    fs::File,
    io::{self, SeekFrom},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncSeekExt, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Asker, AskerKey, under_way};
use crate::{
    error::{Error, Result},
    federation::turns::Turns,
};

/// How many are open at a time, those of uploads too. Source: our choice, docs/security.md.
pub const MAX_OPEN: usize = 4_096;
/// How many are downloaded at a time, and how many of them by one who asks.
const MAX_DOWNLOADS: usize = MAX_OPEN - under_way::MAX_OPEN;
const MAX_OF_ONE: usize = 64;
/// How long a request waits for its turn: as long as those before it may for a thumbnail.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who has files open.
pub struct OpenFiles {
    all: Arc<Semaphore>,
    of_one: Turns<AskerKey>,
}

/// Allows one file to be open. Given back when it is dropped.
pub struct Turn {
    _of_one: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self::new(MAX_DOWNLOADS, MAX_OF_ONE)
    }
}

impl OpenFiles {
    pub(super) fn new(max: usize, max_of_one: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(max)), of_one: Turns::new(max_of_one) }
    }

    /// Waits until a file may be opened for `asker`; `M_LIMIT_EXCEEDED` if that takes long.
    pub async fn turn(&self, asker: Asker<'_>) -> Result<Turn> {
        self.turn_of(asker.key()).await
    }

    pub(super) async fn turn_of(&self, asker: AskerKey) -> Result<Turn> {
        let turn = async {
            let of_one = self.of_one.take(asker).await;
            let of_all = Arc::clone(&self.all).acquire_owned().await.map_err(Error::internal)?;
            Ok::<_, Error>(Turn { _of_one: of_one, _of_all: of_all })
        };
        timeout(PATIENCE, turn).await.map_err(|_| Error::limit_exceeded(PATIENCE))?
    }
}

/// A file that is being downloaded.
pub struct Reading {
    file: tokio::fs::File,
    _turn: Turn,
}

impl Reading {
    /// From the byte `first` on.
    pub async fn begin(file: File, first: u64, turn: Turn) -> io::Result<Self> {
        let mut file = tokio::fs::File::from_std(file);
        if first > 0 {
            file.seek(SeekFrom::Start(first)).await?;
        }
        Ok(Self { file, _turn: turn })
    }
}

impl AsyncRead for Reading {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn one_who_reads_nothing_keeps_no_others_from_their_files() {
        let open_files = OpenFiles::default();
        let (slow, other) = (Asker::Server(server_name!("slow.example")), Asker::Server(server_name!("b.example")));
        let mut turns = Vec::new();
        for _ in 0..MAX_OF_ONE {
            turns.push(open_files.turn(slow).await.unwrap());
        }
        let mut next = Box::pin(open_files.turn(slow));
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(open_files.turn(other).await.unwrap());
        let mut reading = Reading::begin(tempfile::tempfile().unwrap(), 0, turns.remove(0)).await.unwrap();
        assert_eq!(reading.read(&mut [0]).await.unwrap(), 0);
        assert!(futures_util::poll!(&mut next).is_pending(), "as long as the file is open");
        drop(reading);
        drop(next.await.unwrap());
    }
}
