//! A part of the memory that many share: what does not fit is refused, so that the process never outgrows its machine.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// In these pieces it is handed out.
const PIECE: usize = 1 << 10;

pub struct SharedMemory {
    free: Arc<Semaphore>,
    pieces: usize,
}

/// What somebody holds of it; given back when it is dropped.
#[derive(Debug)]
pub struct Held(Option<OwnedSemaphorePermit>);

impl SharedMemory {
    pub fn new(bytes: usize) -> Self {
        let pieces = bytes.div_ceil(PIECE).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(pieces)), pieces }
    }

    /// How many bytes are held at present.
    pub fn held_bytes(&self) -> u64 {
        (self.pieces - self.free.available_permits().min(self.pieces)) as u64 * PIECE as u64
    }

    /// Makes `held` `bytes` large, if it is smaller; `false` if there is not so much left. It never waits: those who hold a
    /// part may want more themselves.
    #[must_use]
    pub fn grow(&self, held: &mut Held, bytes: usize) -> bool {
        let has = held.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(PIECE).saturating_sub(has);
        let Ok(more) = u32::try_from(more) else { return false };
        if more == 0 {
            return true;
        }
        let Ok(taken) = Arc::clone(&self.free).try_acquire_many_owned(more) else { return false };
        match &mut held.0 {
            Some(all) => all.merge(taken),
            None => held.0 = Some(taken),
        }
        true
    }
}

impl Held {
    pub fn nothing() -> Self {
        Self(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_comes_back_and_no_more_than_all_is_given() {
        let memory = SharedMemory::new(10 << 10);
        let (mut first, mut second) = (Held::nothing(), Held::nothing());
        assert!(memory.grow(&mut first, 1) && memory.grow(&mut first, 6 << 10));
        assert!(memory.grow(&mut second, 4 << 10));
        assert_eq!(memory.held_bytes(), 10 << 10);
        assert!(!memory.grow(&mut second, (4 << 10) + 1) && memory.grow(&mut second, 5));
        drop(first);
        assert!(memory.grow(&mut second, 10 << 10));
        drop(second);
        assert_eq!(memory.held_bytes(), 0);
    }
}
