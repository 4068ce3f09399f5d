//! Two threads: one runs transactions and writes their batches, so that they are in one order and the next one sees
//! them; the other fsyncs the write-ahead log, once for all batches that came in during the last fsync. So a room's
//! next event need not wait for the disk, and each caller still hears "done" only when its change is durable.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rocksdb::{DB, WriteOptions};
use tokio::sync::{oneshot, watch};
use tracing::error;

use super::{Error, Result, StreamPos, Syncs, Transaction, open::LastPos, recent::Changes};

/// How old the knowledge of the disk's free space may be.
const FREE_SPACE_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// How many bytes of the disk are left free also of what is written when it is full: a write for which there is no space
/// would stop the store. Source: our choice; about what RocksDB writes out at a time.
pub(super) const LEAST_FREE: u64 = 64 << 20;

/// What the two threads and the readers share.
pub(super) struct Shared {
    pub db: DB,
    pub path: PathBuf,
    /// The newest change that an fsync has made durable.
    pub durable_pos: watch::Sender<StreamPos>,
    pub free_space_floor: u64,
    pub changes: Changes,
    pub syncs: Syncs,
    stopped: Mutex<Option<Error>>,
}

impl Shared {
    pub fn new(db: DB, path: PathBuf, last_pos: StreamPos, free_space_floor: u64) -> Self {
        Self {
            db,
            path,
            durable_pos: watch::Sender::new(last_pos),
            free_space_floor,
            changes: Changes::new(last_pos),
            syncs: Syncs::new(),
            stopped: Mutex::new(None),
        }
    }

    /// `Err` once a write has failed.
    pub fn check_running(&self) -> Result<()> {
        self.stopped.lock().clone().map_or(Ok(()), Err)
    }

    /// After a failed write or fsync nobody knows what the disk holds: refuse all further writes.
    fn stop(&self, cause: &rocksdb::Error) -> Error {
        let stopped = Error::Stopped(cause.clone());
        error!("{stopped}");
        let stopped = self.stopped.lock().get_or_insert(stopped).clone();
        self.durable_pos.send_modify(|_| {}); // whoever waits for a change to become durable looks up, and gives up
        stopped
    }

    /// What is free for us on the disk, in bytes.
    pub fn free_bytes(&self) -> Result<u64> {
        let stat = rustix::fs::statvfs(&self.path).map_err(|e| Error::io(&self.path, &e.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    pub fn check_free_space(&self) -> Result<()> {
        self.check_free(self.free_bytes()?, self.free_space_floor)
    }

    fn check_free(&self, free: u64, floor: u64) -> Result<()> {
        if free < floor {
            return Err(Error::NoSpace { path: self.path.clone(), free, floor });
        }
        Ok(())
    }
}

type Job = Box<dyn FnOnce(&mut Writer) + Send>;

/// A batch that is written, and whoever waits for its being durable.
struct Unsynced {
    pos: StreamPos,
    done: oneshot::Sender<Result<()>>,
}

/// A change that every later read sees, but that a power cut could still undo.
pub struct Written<R> {
    pub value: R,
    durable: oneshot::Receiver<Result<()>>,
}

impl<R> Written<R> {
    /// Waits for the fsync. Only after this may anybody be told that the change was made.
    pub async fn durable(self) -> Result<R> {
        self.durable.await.map_err(|_| Error::Closed)??;
        Ok(self.value)
    }

    pub fn durable_blocking(self) -> Result<R> {
        self.durable.blocking_recv().map_err(|_| Error::Closed)??;
        Ok(self.value)
    }
}

/// The threads' other end.
pub(super) struct Committer {
    jobs: Option<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Committer {
    pub fn start(shared: &Arc<Shared>) -> std::io::Result<Self> {
        let (jobs, job_queue) = mpsc::channel::<Job>();
        let (unsynced, unsynced_queue) = mpsc::channel();
        let last_pos = *shared.durable_pos.borrow();
        let mut writer = Writer { shared: Arc::clone(shared), last_pos, unsynced, free_bytes: None };
        let write = move || job_queue.into_iter().for_each(|job| job(&mut writer));
        let for_sync = Arc::clone(shared);
        Ok(Self {
            jobs: Some(jobs),
            threads: vec![
                thread::Builder::new().name("store-write".to_owned()).spawn(write)?,
                thread::Builder::new().name("store-sync".to_owned()).spawn(move || sync(&for_sync, &unsynced_queue))?,
            ],
        })
    }

    /// Queues a transaction; the receiver hears when it is written, or why not: if less than `floor` bytes are free on the
    /// disk, for one.
    pub fn submit<R, E, F>(&self, floor: u64, work: F) -> oneshot::Receiver<Result<Written<R>, E>>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |writer| {
            // Whoever asked may be gone; the change is made all the same.
            let _ = reply.send(writer.run(floor, work));
        });
        // A closed queue drops the job, and with it `reply`: the receiver then reads "closed".
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
        answer
    }
}

impl Drop for Committer {
    /// Lets everything that was queued be written and synced, then ends both threads.
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // its panic was reported when it happened
        }
    }
}

/// The state of the writing thread.
struct Writer {
    shared: Arc<Shared>,
    last_pos: StreamPos,
    unsynced: mpsc::Sender<Unsynced>,
    /// When the free space was last looked at, and what came of it.
    free_bytes: Option<(Instant, Result<u64>)>,
}

impl Writer {
    fn run<R, E, F>(&mut self, floor: u64, work: F) -> Result<Written<R>, E>
    where
        E: From<Error>,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E>,
    {
        self.check_writable(floor)?;
        let mut transaction = Transaction::new(&self.shared.db, self.last_pos.next());
        let value = catch_unwind(AssertUnwindSafe(|| work(&mut transaction)))
            .map_err(|panic| Error::Panicked(message_of(&*panic)))??;
        if !transaction.is_empty() {
            let pos = transaction.pos();
            transaction.put::<LastPos>(&(), &pos);
            self.shared.changes.note(transaction.groups(), pos);
            let options = WriteOptions::default(); // without fsync: the other thread's part
            self.shared.db.write_opt(transaction.into_batch(), &options).map_err(|e| self.shared.stop(&e))?;
            self.last_pos = pos;
        }
        // An empty transaction waits as well: what it read and decided on may not be durable yet.
        let (done, durable) = oneshot::channel();
        let _ = self.unsynced.send(Unsynced { pos: self.last_pos, done });
        Ok(Written { value, durable })
    }

    fn check_writable(&mut self, floor: u64) -> Result<()> {
        self.shared.check_running()?;
        let free = match &self.free_bytes {
            Some((at, known)) if at.elapsed() < FREE_SPACE_CHECKED_EVERY => known.clone(),
            _ => {
                let found = self.shared.free_bytes();
                self.free_bytes = Some((Instant::now(), found.clone()));
                found
            }
        };
        self.shared.check_free(free?, floor)
    }
}

fn sync(shared: &Shared, queue: &mpsc::Receiver<Unsynced>) {
    while let Ok(first) = queue.recv() {
        let group: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        let newest = group.iter().map(|unsynced| unsynced.pos).max().unwrap_or_default();
        let is_new = newest > *shared.durable_pos.borrow();
        let begun = Instant::now();
        let outcome = if is_new { make_durable(shared) } else { Ok(()) };
        if is_new && outcome.is_ok() {
            shared.syncs.note(begun.elapsed(), group.len());
            shared.durable_pos.send_replace(newest);
        }
        for unsynced in group {
            let _ = unsynced.done.send(outcome.clone()); // nobody waits for changes that may be lost
        }
    }
}

/// Once one fsync has failed, the next one may succeed although what the first one was for is lost.
fn make_durable(shared: &Shared) -> Result<()> {
    shared.check_running()?;
    shared.db.flush_wal(true).map_err(|e| shared.stop(&e))
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_failure_nothing_is_called_durable_although_the_next_fsync_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let db = DB::open_default(directory.path()).unwrap();
        let cause = DB::open_for_read_only(&rocksdb::Options::default(), "/nowhere", false).err().unwrap();
        let shared = Shared::new(db, directory.path().to_owned(), StreamPos::default(), 0);
        make_durable(&shared).unwrap();
        shared.stop(&cause);
        let stopped = make_durable(&shared).unwrap_err();
        assert!(matches!(stopped, Error::Stopped(_)) && stopped.to_string().contains("mend the disk"), "{stopped}");
    }
}
