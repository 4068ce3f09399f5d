//! Whether the database is where, and what, it was when it was last open. One that was copied, or put back to an earlier
//! state, has lost a future that others may remember: what it gives out from now on must not be taken for that.

use std::{
    fs::{self, File, Metadata},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{Error, Family, Options, Record, Result, Scan, Snapshot, Store, StreamPos, Table, Transaction};

/// A file beside the database, made anew at each start. Its birth is on record in the database, and no copy has the same.
const FILE: &str = "chappe.place";

/// How many positions at least a lost future may have used: far more than any server uses in its life.
const LEAST_LEAP: u64 = 1 << 40;

/// After a restore, positions go on at the time in milliseconds times this, so that two restores of one backup do not give
/// out the same ones either: between the two the server would have had to use more than that many in each millisecond.
const POSITIONS_PER_MS: u64 = 1 << 10;

/// Where the clock no longer counts: positions must be numbers that every JSON parser reads exactly.
const MAX_BY_CLOCK: u64 = 1 << 52;

/// The file [`FILE`] as it was made at the last start.
pub(super) struct Places;
impl Table for Places {
    const NAME: &'static str = "place";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 215;
    type Key<'a> = ();
    type Value = Birth;
}

/// What a file system says of when a file was made. A program that copies files can't set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Birth {
    /// Nanoseconds since the Unix epoch; `None` where the file system keeps no such time.
    at_ns: Option<u64>,
    /// What there is to go by then. It may be that of another file that is gone.
    inode: u64,
}

impl Record for Birth {}

impl Birth {
    fn of(file: &Metadata) -> Self {
        let at = file.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        Self { at_ns: at.and_then(|at| u64::try_from(at.as_nanos()).ok()), inode: file.ino() }
    }

    fn is_same(self, other: Self) -> bool {
        match (self.at_ns, other.at_ns) {
            (Some(at), Some(other)) => at == other,
            _ => self.inode == other.inode,
        }
    }
}

/// The futures that were lost when the database was put back to an earlier state, by the last position before each.
pub(super) struct LostFutures;
impl Table for LostFutures {
    const NAME: &'static str = "lost_futures";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 216;
    type Key<'a> = StreamPos;
    type Value = LostFuture;
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct LostFuture {
    /// Positions from here on are ours again.
    ended: StreamPos,
    /// When that was noticed, in milliseconds since the Unix epoch.
    noticed_ms: u64,
}

impl Record for LostFuture {}

/// The positions of lost futures: after the first, and before the second.
pub(super) fn lost(snapshot: &Snapshot<'_>) -> Result<Vec<(StreamPos, StreamPos)>> {
    snapshot.list::<LostFutures>(&()).map(|row| row.and_then(|row| Ok((row.key()?, row.value.ended)))).collect()
}

/// When the database was last found to have been put back, in milliseconds since the Unix epoch; 0 if it never was.
pub(super) fn restored_ms(snapshot: &Snapshot<'_>) -> Result<u64> {
    let last = snapshot.scan::<LostFutures>(Scan::prefix::<LostFutures>(&()).backward()).next().transpose()?;
    Ok(last.map_or(0, |row| row.value.noticed_ms))
}

/// Begins anew if the database is not at its place, or is said to have been put back, and notes its place from now on.
/// `opened_at` was its newest position before anything was written.
pub(super) fn settle(store: &Store, options: &Options, opened_at: StreamPos) -> Result<()> {
    let path = &options.path;
    let is_moved = !is_at_its_place(&store.snapshot(), path)?;
    if is_moved {
        warn!(
            "the database was copied, moved to another disk, or put back to an earlier state since it was last open: \
             all one-time keys are removed, and clients and servers that know a later state begin anew"
        );
    }
    let is_restored = is_moved || options.is_restored;
    if !is_restored && store.check_writable().is_err() {
        return Ok(()); // a full disk keeps nobody from reading; the next start notes the place
    }
    let unfinished = path.join(unfinished());
    let birth = make(&unfinished).map_err(|e| refused(path, &e))?;
    let (now_ms, on_restore) = (options.now_ms, options.on_restore);
    store.commit_blocking(move |tx| {
        if is_restored {
            leap(tx, opened_at, now_ms);
            on_restore(tx, now_ms)?;
        }
        tx.put::<Places>(&(), &birth);
        Ok::<_, Error>(())
    })?;
    // A crash just before this leaves the new file under the other name, where it is looked for as well.
    let renamed = fs::rename(&unfinished, path.join(FILE)).and_then(|()| File::open(path)?.sync_all());
    renamed.map_err(|e| refused(path, &e))
}

/// A database that was never asked before counts as being at its place, unless it came into that of another one.
fn is_at_its_place(snapshot: &Snapshot<'_>, path: &Path) -> Result<bool> {
    let Some(known) = snapshot.get::<Places>(&())? else {
        return path.join(FILE).try_exists().map(|is_there| !is_there).map_err(|e| refused(path, &e));
    };
    for name in [FILE.to_owned(), unfinished()] {
        match fs::metadata(path.join(name)) {
            Ok(file) if Birth::of(&file).is_same(known) => return Ok(true),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(path, &error)),
            _ => {}
        }
    }
    Ok(false)
}

fn refused(path: &Path, error: &io::Error) -> Error {
    Error::io_because(path, error, format!("{FILE}: {error}"))
}

fn unfinished() -> String {
    format!("{FILE}.new")
}

fn make(path: &Path) -> io::Result<Birth> {
    let mut file = File::create(path)?;
    file.write_all(b"By this file chappe notices that its database was copied or put back. Do not remove it.\n")?;
    file.sync_all()?;
    Ok(Birth::of(&file.metadata()?))
}

/// Leaves all positions to the lost future that it can have used.
fn leap(tx: &mut Transaction<'_>, opened_at: StreamPos, now_ms: u64) {
    let next = tx.pos().0;
    let by_clock = now_ms.saturating_mul(POSITIONS_PER_MS).min(MAX_BY_CLOCK);
    tx.skip(by_clock.max(next.saturating_add(LEAST_LEAP)) - next);
    tx.put::<LostFutures>(&opened_at, &LostFuture { ended: tx.pos(), noticed_ms: now_ms });
}

#[cfg(test)]
mod tests {
    use std::{process::Command, thread, time::Duration};

    use super::*;

    /// What a backup is: all files, under another path.
    fn copy(from: &Path, to: &Path) {
        let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
        assert!(copied.success(), "{from:?} can't be copied");
    }

    fn open(path: &Path) -> Store {
        let open = || Store::open(&Options { now_ms: 1_000, on_restore: note, ..Options::for_tests(path) });
        // A process that another test starts has our lock, too, until it has become another program.
        for _ in 0..100 {
            match open() {
                Err(Error::InUse { .. }) => thread::sleep(Duration::from_millis(20)),
                opened => return opened.unwrap(),
            }
        }
        panic!("{path:?} stays in use");
    }

    fn note(tx: &mut Transaction<'_>, now_ms: u64) -> Result<()> {
        let before = tx.get::<Restores>(&())?.unwrap_or_default();
        tx.put::<Restores>(&(), &(before + now_ms));
        Ok(())
    }

    /// The sum of the times of all restores.
    struct Restores;
    impl Table for Restores {
        const NAME: &'static str = "restores";
        const FAMILY: Family = Family::User;
        const ID: u8 = 200;
        type Key<'a> = ();
        type Value = u64;
    }

    fn restores(store: &Store) -> u64 {
        store.snapshot().get::<Restores>(&()).unwrap().unwrap_or_default() / 1_000
    }

    #[test]
    fn a_database_that_stays_where_it_is_goes_on_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path()).durable_pos();
        for _ in 0..3 {
            let store = open(directory.path());
            assert_eq!(restores(&store), 0);
            assert!(store.durable_pos().0 < first.0 + 10, "nothing was left out");
            assert!(!store.is_lost(first, store.durable_pos()));
        }
        // A crash before the new file had its name.
        fs::rename(directory.path().join(FILE), directory.path().join(unfinished())).unwrap();
        assert_eq!(restores(&open(directory.path())), 0);
        // And one before the database knew of it.
        fs::write(directory.path().join(unfinished()), "").unwrap();
        assert_eq!(restores(&open(directory.path())), 0);
    }

    #[test]
    fn a_database_of_before_there_was_this_is_no_restored_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let forget = |tx: &mut Transaction<'_>| {
            tx.delete::<Places>(&());
            Ok::<_, Error>(())
        };
        store.commit_blocking(forget).unwrap();
        drop(store);
        fs::remove_file(directory.path().join(FILE)).unwrap();
        let store = open(directory.path());
        assert_eq!(restores(&store), 0);
        store.commit_blocking(forget).unwrap();
        drop(store);
        assert_eq!(restores(&open(directory.path())), 1, "an old backup, in the place of one that had this");
    }

    #[test]
    fn a_copy_and_a_backup_that_was_put_back_begin_anew() {
        let all = tempfile::tempdir().unwrap();
        let (path, backup, copied) = (all.path().join("data"), all.path().join("backup"), all.path().join("copy"));
        let saved = open(&path).durable_pos();
        copy(&path, &backup);
        let lost = open(&path).durable_pos(); // one start later
        assert!(lost > saved);

        copy(&backup, &copied);
        let store = open(&copied);
        assert_eq!(restores(&store), 1);
        let now = store.durable_pos();
        assert!(store.is_lost(lost, now) && !store.is_lost(saved, now) && !store.is_lost(now, now));
        assert!(store.is_lost(now.next(), now), "nobody has given that out yet");
        drop(store);
        assert_eq!(restores(&open(&copied)), 1, "once");

        // In the place of the database, and into the other files that are there, as `rsync --inplace --delete` writes them.
        fs::remove_dir_all(path.join("db")).unwrap();
        copy(&backup, &path);
        let store = open(&path);
        assert_eq!(restores(&store), 1);
        assert!(store.is_lost(lost, store.durable_pos()));
    }

    #[test]
    fn what_cannot_be_noticed_can_be_said() {
        let directory = tempfile::tempdir().unwrap();
        let before = open(directory.path()).durable_pos();
        let options = Options { is_restored: true, now_ms: 1 << 40, ..Options::for_tests(directory.path()) };
        let first = Store::open(&options).unwrap().durable_pos();
        assert!(first.0 >= 1 << 50 && first.0 < 1 << 53, "{first}");
        let store = Store::open(&Options { now_ms: (1 << 40) + 1, ..options }).unwrap();
        let now = store.durable_pos();
        assert!(now.0 >= first.0 + LEAST_LEAP, "also where the clock has not come as far");
        assert_eq!(store.snapshot().restored_ms().unwrap(), (1 << 40) + 1);
        for (pos, is_lost) in [(before, false), (before.next(), true), (first, false), (first.next(), true)] {
            assert_eq!(store.is_lost(pos, now), is_lost, "{pos}");
        }
    }

    #[test]
    fn two_restores_of_one_backup_use_other_positions() {
        let all = tempfile::tempdir().unwrap();
        let (path, backup) = (all.path().join("data"), all.path().join("backup"));
        open(&path);
        copy(&path, &backup);
        let restore = |now_ms: u64| {
            fs::remove_dir_all(&path).unwrap();
            copy(&backup, &path);
            Store::open(&Options { is_restored: true, now_ms, ..Options::for_tests(&path) }).unwrap()
        };
        let first = restore(1 << 40).durable_pos();
        let store = restore((1 << 40) + 60_000);
        assert!(store.is_lost(first, store.durable_pos()));
    }
}
