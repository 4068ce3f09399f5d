//! What users upload at present. Each upload has its file open for as long as its client takes, and what has come of it
//! is on the disk before it counts as a file of the user.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use super::{
    AskerKey,
    open_files::{OpenFiles, Turn},
};
use crate::error::Result;

/// How many run at a time, and how many of them of one user. Source: our choice, docs/security.md.
const MAX_RUNNING: usize = 512;
const MAX_OF_ONE: usize = 16;
/// How many files are open for them: each has its own open twice.
pub(super) const MAX_OPEN: usize = 2 * MAX_RUNNING;

/// The uploads that have begun.
pub struct UnderWay {
    running: OpenFiles,
    /// How much has come of all that one user uploads.
    bytes: Arc<Mutex<HashMap<OwnedUserId, u64>>>,
}

/// One of them. It counts until it is dropped.
pub struct Coming {
    user: OwnedUserId,
    bytes: u64,
    all: Arc<Mutex<HashMap<OwnedUserId, u64>>>,
    _turn: Turn,
}

impl Default for UnderWay {
    fn default() -> Self {
        Self { running: OpenFiles::new(MAX_RUNNING, MAX_OF_ONE), bytes: Arc::default() }
    }
}

impl UnderWay {
    /// Waits until `user` may upload one more; `M_LIMIT_EXCEEDED` if that takes long.
    pub async fn begin(&self, user: &UserId) -> Result<Coming> {
        let turn = self.running.turn_of(AskerKey::User(user.to_owned())).await?;
        Ok(Coming { user: user.to_owned(), bytes: 0, all: Arc::clone(&self.bytes), _turn: turn })
    }
}

impl Coming {
    /// Counts so many bytes more; how many there are of all that its user uploads.
    pub fn add(&mut self, bytes: u64) -> u64 {
        self.bytes += bytes;
        let mut all = self.all.lock();
        let of_user = all.entry(self.user.clone()).or_default();
        *of_user += bytes;
        *of_user
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(of_user) = all.get_mut(&self.user) {
            *of_user -= self.bytes;
            if *of_user == 0 {
                all.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn a_user_has_a_few_and_they_count_together_until_they_end() {
        let under_way = UnderWay::default();
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let mut first = under_way.begin(alice).await.unwrap();
        let mut others = Vec::new();
        for _ in 1..MAX_OF_ONE {
            others.push(under_way.begin(alice).await.unwrap());
        }
        let mut next = Box::pin(under_way.begin(alice));
        assert!(futures_util::poll!(&mut next).is_pending());
        let mut of_bob = under_way.begin(bob).await.unwrap();
        assert_eq!((first.add(3), others[0].add(4), of_bob.add(5), first.add(1)), (3, 7, 5, 8));
        drop(first);
        assert_eq!(others[0].add(1), 5);
        drop(next.await.unwrap());
        drop((others, of_bob));
        assert!(under_way.bytes.lock().is_empty());
    }
}
