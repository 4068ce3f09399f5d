//! Whose turn it is to make the next part of an answer that takes long, or all of one that has a room's state in it and
//! no parts. The first part of any other answer is made at once, so that whoever asks for little does not wait for those
//! who ask for much.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    cores::cores,
    error::{Error, Result},
};

pub struct LongAnswers(Arc<Semaphore>);

impl Default for LongAnswers {
    /// One turn for each core: the others who need one wait.
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(cores())))
    }
}

impl LongAnswers {
    /// Waits for a turn; it ends when what is returned is dropped. Don't keep it while waiting for the client.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        Arc::clone(&self.0).acquire_owned().await.map_err(Error::internal)
    }
}
