//! Threads for short work that finds in memory what it needs, in most cases: as many as there are cores. When a message wakes
//! hundreds who wait for it, their answers are made by threads that run anyway, rather than by one that is woken for each.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{
    cores::cores,
    error::{Error, Result},
};

type Job = Box<dyn FnOnce() + Send>;

/// The threads; they end when this is dropped and what waited is done.
pub struct Quick(Arc<Queue>);

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    is_closed: bool,
}

impl Quick {
    pub fn start() -> std::io::Result<Self> {
        let quick = Self(Arc::default());
        for _ in 0..cores() {
            let queue = Arc::clone(&quick.0);
            thread::Builder::new().name("quick".to_owned()).spawn(move || queue.work())?;
        }
        Ok(quick)
    }

    /// What `work` answers. It is done even if nobody waits for that any more.
    pub async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move || {
            // Whoever asked may be gone.
            let _ = done.send(work());
        });
        self.0.waiting.lock().jobs.push_back(job);
        self.0.news.notify_one(); // costs nothing while all threads are at work
        answer.await.map_err(|_| Error::internal("short work did not come to its end"))?
    }
}

impl Queue {
    fn work(&self) {
        while let Some(job) = self.next() {
            // The panic was logged, and whoever asked hears that there is no answer.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.is_closed {
                return None;
            }
            self.news.wait(&mut waiting);
        }
    }
}

impl Drop for Quick {
    fn drop(&mut self) {
        self.0.waiting.lock().is_closed = true;
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_goes_on_after_some_that_panicked() {
        let quick = Quick::start().unwrap();
        for _ in 0..2 * cores() {
            assert!(quick.run(|| -> Result<()> { panic!("as the test wants it") }).await.is_err());
        }
        let asked: Vec<_> = (0..100).map(|n| quick.run(move || Ok(n))).collect();
        let answers = futures_util::future::join_all(asked).await;
        assert_eq!(answers.into_iter().map(Result::unwrap).collect::<Vec<_>>(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_was_begun_is_done_though_nobody_waits() {
        let quick = Quick::start().unwrap();
        let (done, is_done) = oneshot::channel();
        let mut abandoned = Box::pin(quick.run(move || done.send(()).map_err(|()| Error::internal("nobody listens"))));
        let _ = futures_util::poll!(&mut abandoned);
        drop(abandoned);
        drop(quick);
        is_done.await.unwrap();
    }
}
