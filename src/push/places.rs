//! How many requests to push gateways are under way, and whose. Gateways that answer at once have places of their own:
//! those that do not, which anybody with an account may name, would soon have all.

use std::{pin::pin, time::Duration};

use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::{
    error::{Error, Result},
    federation::turns::Turns,
};

/// Requests that are under way at a time: to gateways that answer at once, and to others. Source: our choice,
/// docs/security.md.
const AT_A_TIME: usize = 64;
const SLOW_AT_A_TIME: usize = 32;

/// How many of either are for one user, and how many of the others go to one gateway. Source: our choice.
const OF_USER: usize = 4;
const OF_GATEWAY: usize = 4;

/// What is at once. Source: our choice.
const PROMPT: Duration = Duration::from_secs(5);

/// How many gateways that answer at once are remembered.
const REMEMBERED: usize = 1_000;

/// Where requests wait for those before them.
pub struct Places {
    /// The gateways that answered at once when they were asked last.
    known: Cache<String, ()>,
    prompt: Lane,
    /// For gateways that are slow, fail, or were never asked.
    slow: Lane,
}

struct Lane {
    of_user: Turns<OwnedUserId>,
    of_gateway: Turns<String>,
    all: Semaphore,
}

/// Allows one request. Given back when it is dropped.
struct Place<'p> {
    is_prompt: bool,
    _of_user: OwnedSemaphorePermit,
    _of_gateway: OwnedSemaphorePermit,
    _of_all: SemaphorePermit<'p>,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            known: Cache::new(REMEMBERED),
            prompt: Lane::new(AT_A_TIME, AT_A_TIME), // all users may have the same one
            slow: Lane::new(SLOW_AT_A_TIME, OF_GATEWAY),
        }
    }
}

impl Lane {
    fn new(at_a_time: usize, of_gateway: usize) -> Self {
        Self { of_user: Turns::new(OF_USER), of_gateway: Turns::new(of_gateway), all: Semaphore::new(at_a_time) }
    }
}

impl Places {
    /// Makes a request for `user` when there is a place for it; the inner error says why the gateway was not told.
    pub async fn run<R>(
        &self,
        user: &UserId,
        gateway: &str,
        request: impl Future<Output = std::result::Result<R, String>>,
    ) -> Result<std::result::Result<R, String>> {
        let mut place = self.take(user, gateway).await?;
        let mut request = pin!(request);
        if let Ok(answer) = timeout(PROMPT, &mut request).await {
            if answer.is_ok() {
                self.known.insert(gateway.to_owned(), ());
            }
            return Ok(answer);
        }
        if !self.linger(gateway, &mut place) {
            return Ok(Err("it takes long, as too many others do".to_owned()));
        }
        Ok(request.await)
    }

    async fn take(&self, user: &UserId, gateway: &str) -> Result<Place<'_>> {
        loop {
            let is_prompt = self.is_prompt(gateway);
            let lane = if is_prompt { &self.prompt } else { &self.slow };
            let place = Place {
                is_prompt,
                _of_user: lane.of_user.take(user.to_owned()).await,
                _of_gateway: lane.of_gateway.take(gateway.to_owned()).await,
                _of_all: lane.all.acquire().await.map_err(Error::internal)?,
            };
            if self.is_prompt(gateway) == is_prompt {
                return Ok(place);
            }
        }
    }

    fn is_prompt(&self, gateway: &str) -> bool {
        self.known.get(gateway).is_some()
    }

    /// Leaves a place among those who answer at once to others; `false` if there is no other one for what takes longer.
    fn linger<'p>(&'p self, gateway: &str, place: &mut Place<'p>) -> bool {
        self.known.remove(gateway);
        if place.is_prompt {
            let Ok(slow) = self.slow.all.try_acquire() else { return false };
            place._of_all = slow;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures_util::FutureExt;
    use ruma::user_id;

    use super::*;

    type Told = std::result::Result<(), String>;

    const GOOD: &str = "https://good.example";

    /// Whether a gateway that answers is told without a wait.
    fn is_told(places: &Places, user: &UserId, gateway: &str) -> bool {
        let told = places.run(user, gateway, ready(Told::Ok(()))).now_or_never();
        told.is_some_and(|told| told.unwrap().is_ok())
    }

    #[tokio::test]
    async fn gateways_that_never_answer_hold_up_each_other_only() {
        let (alice, bob) = (user_id!("@alice:x"), user_id!("@bob:x"));
        let places = Places::default();
        let many: Vec<_> =
            (0..100).map(|n| (UserId::parse(format!("@{n}:x")).unwrap(), format!("https://{n}.example"))).collect();
        let mut hanging = Vec::new();
        for number in 0..100 {
            let user = if number % 2 == 0 { alice } else { bob };
            let mut request = Box::pin(places.run(user, "https://dead.example", pending::<Told>()));
            assert!(futures_util::poll!(&mut request).is_pending());
            hanging.push(request);
            tokio::task::yield_now().await;
        }
        assert!(is_told(&places, user_id!("@carol:x"), GOOD), "though it was never asked before");
        assert!(is_told(&places, alice, GOOD), "and her own one that answers");

        for (user, gateway) in &many {
            let mut request = Box::pin(places.run(user, gateway, pending::<Told>()));
            assert!(futures_util::poll!(&mut request).is_pending());
            hanging.push(request);
            tokio::task::yield_now().await;
        }
        assert_eq!(places.slow.all.available_permits(), 0);
        assert!(is_told(&places, bob, GOOD), "however many accounts and gateways there are");
    }

    #[tokio::test]
    async fn who_takes_long_leaves_his_place_to_those_who_answer_at_once() {
        let alice = user_id!("@alice:x");
        let places = Places::default();
        assert!(is_told(&places, alice, GOOD));
        let (mut first, mut second) =
            (places.take(alice, GOOD).await.unwrap(), places.take(alice, GOOD).await.unwrap());
        assert_eq!(places.prompt.all.available_permits(), AT_A_TIME - 2);
        assert!(places.linger(GOOD, &mut first));
        assert_eq!(places.prompt.all.available_permits(), AT_A_TIME - 1);
        assert_eq!(places.slow.all.available_permits(), SLOW_AT_A_TIME - 1);
        let left = u32::try_from(SLOW_AT_A_TIME - 1).unwrap();
        let others = places.slow.all.try_acquire_many(left).unwrap();
        assert!(!places.linger(GOOD, &mut second), "it is given up");
        drop((first, second, others));
        assert!(!places.take(alice, GOOD).await.unwrap().is_prompt, "it is not known for that any more");
        assert!(is_told(&places, alice, GOOD));
        assert!(places.take(alice, GOOD).await.unwrap().is_prompt);
    }
}
