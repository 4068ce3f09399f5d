use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// How many searches of one user may run and wait at a time.
const MAX_OF_USER: usize = 8;

/// How many searches run at a time: they read much, and everybody else reads the same disk.
const MAX_RUNNING: usize = 2;

/// Who may search now.
pub struct Permits {
    running: Semaphore,
    of_users: Mutex<HashMap<OwnedUserId, usize>>,
}

impl Default for Permits {
    fn default() -> Self {
        Self { running: Semaphore::new(MAX_RUNNING), of_users: Mutex::default() }
    }
}

/// Given back when it is dropped.
pub struct Permit<'p> {
    _running: Option<SemaphorePermit<'p>>,
    permits: &'p Permits,
    user: OwnedUserId,
}

impl Permits {
    /// Waits until it is `user`'s turn; `M_LIMIT_EXCEEDED` if he has too many searches already.
    pub async fn acquire(&self, user: &UserId) -> Result<Permit<'_>> {
        {
            let mut of_users = self.of_users.lock();
            let count = of_users.entry(user.to_owned()).or_default();
            if *count >= MAX_OF_USER {
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
    async fn a_user_has_a_few_searches_and_gets_them_back() {
        let permits = Permits::default();
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let running = [permits.acquire(alice).await.unwrap(), permits.acquire(alice).await.unwrap()];
        let mut waiting: Vec<_> = (2..MAX_OF_USER).map(|_| Box::pin(permits.acquire(alice))).collect();
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
