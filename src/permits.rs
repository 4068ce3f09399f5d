//! Permits for what costs much: only so many run at a time, and of those who wait, only so many are of one user.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// Who may do it now.
pub struct Permits {
    running: Semaphore,
    max_of_user: usize,
    of_users: Mutex<HashMap<OwnedUserId, usize>>,
}

/// Given back when it is dropped.
pub struct Permit<'p> {
    _running: Option<SemaphorePermit<'p>>,
    permits: &'p Permits,
    user: OwnedUserId,
}

impl Permits {
    /// `max_of_user`: how many of one user run and wait at a time.
    pub fn new(max_running: usize, max_of_user: usize) -> Self {
        Self { running: Semaphore::new(max_running), max_of_user, of_users: Mutex::default() }
    }

    /// Waits until it is `user`'s turn; `M_LIMIT_EXCEEDED` if he has too many already.
    pub async fn acquire(&self, user: &UserId) -> Result<Permit<'_>> {
        {
            let mut of_users = self.of_users.lock();
            let count = of_users.entry(user.to_owned()).or_default();
            if *count >= self.max_of_user {
                return Err(Error::limit_exceeded(Duration::from_secs(1)));
            }
            *count += 1;
        }
        // From here on the count goes down whatever happens.
        let mut permit = Permit { _running: None, permits: self, user: user.to_owned() };
        permit._running = Some(self.running.acquire().await.map_err(Error::internal)?);
        Ok(permit)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut of_users = self.permits.of_users.lock();
        if let Some(count) = of_users.get_mut(&self.user) {
            *count -= 1;
            if *count == 0 {
                of_users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ruma::user_id;

    use super::*;

    #[tokio::test]
    async fn a_user_has_a_few_and_gets_them_back() {
        let permits = Permits::new(2, 8);
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let running = [permits.acquire(alice).await.unwrap(), permits.acquire(alice).await.unwrap()];
        let mut waiting: Vec<_> = (2..8).map(|_| Box::pin(permits.acquire(alice))).collect();
        for waiting in &mut waiting {
            assert!(futures_util::poll!(waiting).is_pending());
        }
        assert!(permits.acquire(alice).await.is_err());
        drop(waiting);
        let mut of_bob = Box::pin(permits.acquire(bob));
        assert!(futures_util::poll!(&mut of_bob).is_pending());
        drop(running);
        drop(of_bob.await.unwrap());
        assert!(permits.of_users.lock().is_empty());
    }
}
