use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode,
    LogLevel, WriteBufferManager, statistics::StatsLevel,
};
use tokio::sync::oneshot;

use super::{
    Error, Family, Figures, Migration, Recent, Result, Scan, Snapshot, StreamPos, Syncs, Table, TableInfo, Transaction,
    Written,
    commit::{Committer, LEAST_FREE, Shared},
    directory::Directory,
    figures::Gauges,
    migrate::{LayoutVersion, MigrationCursor, migrate},
    place::{self, LostFutures, Places},
};

/// The newest allotted `StreamPos`, in the batch of the change that has it.
pub(super) struct LastPos;
impl Table for LastPos {
    const NAME: &'static str = "last_pos";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 1;
    type Key<'a> = ();
    type Value = StreamPos;
}

/// The tables of the store itself. Table ids below 16 of the family `Meta` are kept for it; those of `place.rs` came later.
const OWN_TABLES: [TableInfo; 5] = [
    TableInfo::of::<LastPos>(),
    TableInfo::of::<LayoutVersion>(),
    TableInfo::of::<MigrationCursor>(),
    TableInfo::of::<Places>(),
    TableInfo::of::<LostFutures>(),
];

pub struct Options {
    pub path: PathBuf,
    /// Refused if the directory belongs to another server.
    pub server_name: String,
    /// For block cache and memtables together.
    pub memory_bytes: usize,
    /// Writes are refused while less is free on the disk.
    pub free_space_floor: u64,
    /// Whether RocksDB counts what it does, which makes each read a little dearer.
    pub counts: bool,
    pub migrations: &'static [Migration],
    /// When it is, in milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The database was put back to an earlier state. Much of that is noticed without this, see `place.rs`.
    pub is_restored: bool,
    /// What is to be done then, at that time, with what is kept by those above the store; part of one transaction.
    pub on_restore: fn(&mut Transaction<'_>, u64) -> Result<()>,
}

impl Options {
    /// A small database of the server `test`, for tests.
    pub fn for_tests(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            server_name: "test".to_owned(),
            memory_bytes: 16 << 20,
            free_space_floor: 0,
            counts: false,
            migrations: &[],
            now_ms: 0,
            is_restored: false,
            on_restore: |_, _| Ok(()),
        }
    }
}

/// The database of one server.
pub struct Store {
    // Fields are dropped in this order: the threads end, RocksDB closes, the lock goes last.
    committer: Committer,
    shared: Arc<Shared>,
    gauges: Gauges,
    /// See [`Self::is_lost`].
    lost: Vec<(StreamPos, StreamPos)>,
    _directory: Directory,
}

impl Store {
    /// Opens the data directory, or makes a new one. Migrations run before this returns, and if the database turns out
    /// to have been put back to an earlier state, `on_restore` does.
    pub fn open(options: &Options) -> Result<Self> {
        let directory = Directory::open(&options.path, &options.server_name)?;
        let (db, gauges) = open_rocksdb(options)?;
        let last_pos = Snapshot::new(&db).get::<LastPos>(&())?.unwrap_or_default();
        let shared = Arc::new(Shared::new(db, options.path.clone(), last_pos, options.free_space_floor));
        let committer = Committer::start(&shared).map_err(|e| Error::io(&options.path, &e))?;
        let mut store = Self { committer, shared, gauges, lost: Vec::new(), _directory: directory };
        migrate(&store, options.migrations)?;
        place::settle(&store, options, last_pos)?;
        let lost = place::lost(&store.snapshot())?;
        store.lost = lost;
        Ok(store)
    }

    /// The `server_name` that a data directory belongs to.
    pub fn server_name_of(path: &Path) -> Result<String> {
        Directory::server_name(path)
    }

    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.shared.db)
    }

    /// When groups of rows last changed. Hold it briefly; what it says is certain for snapshots that were taken before.
    pub fn recent(&self) -> Recent<'_> {
        self.shared.changes.read()
    }

    /// Whether somebody got `pos` in a future that was lost when the database was put back to an earlier state, so that it
    /// means nothing here. `now` is that of a snapshot; nobody can have got what is beyond it from this database.
    pub fn is_lost(&self, pos: StreamPos, now: StreamPos) -> bool {
        pos > now || self.lost.iter().any(|(before, ended)| pos > *before && pos < *ended)
    }

    /// Everything up to here is on disk; what is newer must not be shown to anybody yet.
    pub fn durable_pos(&self) -> StreamPos {
        *self.shared.durable_pos.borrow()
    }

    /// Waits until everything up to `pos`, that of some snapshot, is on disk: what a snapshot shows may be told to
    /// somebody only after this. An error if that can no longer be.
    pub async fn until_durable(&self, pos: StreamPos) -> Result<()> {
        let mut durable = self.shared.durable_pos.subscribe();
        let is_over = |durable: &StreamPos| *durable >= pos || self.shared.check_running().is_err();
        let reached = durable.wait_for(is_over).await.map(|durable| *durable).map_err(|_| Error::Closed)?;
        if reached >= pos { Ok(()) } else { self.shared.check_running() }
    }

    /// Why no write is accepted at present, if so.
    pub fn check_writable(&self) -> Result<()> {
        self.shared.check_running()?;
        self.shared.check_free_space()
    }

    /// The database as it is now; takes some milliseconds.
    pub fn figures(&self) -> Result<Figures> {
        self.gauges.read(&self.shared.db)
    }

    /// How fsyncs went since the database was opened.
    pub fn syncs(&self) -> &Syncs {
        &self.shared.syncs
    }

    /// What is free for us on the disk, in bytes.
    pub fn free_bytes(&self) -> Result<u64> {
        self.shared.free_bytes()
    }

    /// Runs `work` alone among all writers and makes its changes visible, all or none: none if it returns an error.
    /// Returns before they are durable, see [`Written::durable`]. Keep `work` short: everyone waits for it.
    pub async fn write<R, E, F>(&self, work: F) -> Result<Written<R>, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        answer(self.committer.submit(self.shared.free_space_floor, work).await)
    }

    /// As [`Self::write`], also where less than `free_space_floor` is free. For the few small rows without which somebody
    /// could not go on reading, and for what removes others: else a full disk would stay full.
    pub async fn write_when_full<R, E, F>(&self, work: F) -> Result<Written<R>, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        let floor = self.shared.free_space_floor.min(LEAST_FREE);
        answer(self.committer.submit(floor, work).await)
    }

    /// As [`Self::write`], and waits until the changes are durable.
    pub async fn commit<R, E, F>(&self, work: F) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        Ok(self.write(work).await?.durable().await?)
    }

    /// As [`Self::write_when_full`], and waits until the changes are durable.
    pub async fn commit_when_full<R, E, F>(&self, work: F) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        Ok(self.write_when_full(work).await?.durable().await?)
    }

    /// As [`Self::commit`], outside of tokio.
    pub fn commit_blocking<R, E, F>(&self, work: F) -> Result<R, E>
    where
        R: Send + 'static,
        E: From<Error> + Send + 'static,
        F: FnOnce(&mut Transaction<'_>) -> Result<R, E> + Send + 'static,
    {
        let written = answer(self.committer.submit(self.shared.free_space_floor, work).blocking_recv())?;
        Ok(written.durable_blocking()?)
    }

    /// The store's own tables.
    pub fn own_tables() -> &'static [TableInfo] {
        &OWN_TABLES
    }

    /// Every row of `family` as bytes: key, which begins with the table's id, and value.
    pub fn for_each_row(&self, family: Family, visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(family, Scan::everything(), visit)
    }

    /// Every row of a table as bytes, see [`TableInfo::show`].
    pub fn for_each_row_of(&self, table: &TableInfo, visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        self.for_each(table.family, Scan::table(table.id), visit)
    }

    fn for_each(&self, family: Family, scan: Scan, mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let snapshot = self.snapshot();
        let mut rows = snapshot.raw_rows(family, scan);
        while let Some((key, value)) = rows.next()? {
            visit(key, value)?;
        }
        Ok(())
    }

    /// About how many rows `family` holds.
    pub fn estimate_rows(&self, family: Family) -> u64 {
        let cf = super::snapshot::family(&self.shared.db, family);
        self.shared.db.property_int_value_cf(cf, rocksdb::properties::ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
    }
}

fn answer<R, E: From<Error>>(received: Result<Result<R, E>, oneshot::error::RecvError>) -> Result<R, E> {
    received.unwrap_or_else(|_| Err(Error::Closed.into()))
}

fn open_rocksdb(options: &Options) -> Result<(DB, Gauges)> {
    let (mut db_options, cache) = rocksdb_options(options);
    db_options.create_if_missing(true);
    db_options.create_missing_column_families(true);
    if options.counts {
        db_options.enable_statistics();
        db_options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers); // counters only
    }
    let db = DB::open_cf_descriptors(&db_options, options.path.join("db"), families(&cache, options))?;
    let cache_capacity_bytes = options.memory_bytes;
    Ok((db, Gauges { options: db_options, cache, cache_capacity_bytes, counts: options.counts }))
}

pub(super) fn families(cache: &Cache, options: &Options) -> Vec<ColumnFamilyDescriptor> {
    let describe = |family: Family| ColumnFamilyDescriptor::new(family.name(), family_options(family, cache, options));
    Family::ALL.into_iter().map(describe).collect()
}

/// How RocksDB works for us, and the cache that all families share.
pub(super) fn rocksdb_options(options: &Options) -> (rocksdb::Options, Cache) {
    // Memtables are charged to the cache, so that the two together stay within the budget.
    let cache = Cache::new_lru_cache(options.memory_bytes);
    let memtables =
        WriteBufferManager::new_write_buffer_manager_with_cache(options.memory_bytes / 4, false, cache.clone());
    let mut db = rocksdb::Options::default();
    db.set_write_buffer_manager(&memtables);
    db.set_max_total_wal_size(128 << 20);
    db.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_background_jobs(2);
    db.set_max_open_files(512);
    db.set_bytes_per_sync(1 << 20);
    db.set_keep_log_file_num(3);
    db.set_log_level(LogLevel::Warn);
    db.set_stats_dump_period_sec(0);
    (db, cache)
}

fn family_options(family: Family, cache: &Cache, options: &Options) -> rocksdb::Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_format_version(6);
    blocks.set_block_size(match family {
        Family::Event => 16 << 10, // large blocks compress better; an event is read with its neighbors
        Family::Lookup | Family::State => 4 << 10, // one row at a time
        _ => 8 << 10,
    });
    let mut cf = rocksdb::Options::default();
    cf.set_block_based_table_factory(&blocks);
    cf.set_write_buffer_size((options.memory_bytes / 16).clamp(1 << 20, 64 << 20));
    if family == Family::Queue {
        // Its rows soon go, and who reads the next ones steps over the marks that are left: files of little else are compacted.
        cf.add_compact_on_deletion_collector_factory(1_000, 500, 0.5);
    }
    cf.set_level_compaction_dynamic_level_bytes(true);
    cf.set_compression_type(DBCompressionType::Lz4);
    if family == Family::State {
        return cf; // hashes do not shrink: a better compressor would cost time for nothing
    }
    cf.set_bottommost_compression_type(DBCompressionType::Zstd);
    cf.set_bottommost_compression_options(-14, 3, 0, 16 << 10, true);
    cf.set_bottommost_zstd_max_train_bytes(1 << 20, true);
    cf
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Json, Record, Step};

    struct Notes;
    impl Table for Notes {
        const NAME: &'static str = "notes";
        const FAMILY: Family = Family::User;
        const ID: u8 = 200;
        type Key<'a> = (&'a str, u64);
        type Value = String;
    }

    fn put(store: &Store, key: (&'static str, u64), text: &'static str) -> StreamPos {
        let put = move |tx: &mut Transaction<'_>| {
            tx.put::<Notes>(&key, &text.to_owned());
            Ok::<_, Error>(tx.pos())
        };
        store.commit_blocking(put).unwrap()
    }

    #[test]
    fn what_is_committed_is_there_after_opening_again() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::for_tests(directory.path());
        let pos = put(&Store::open(&options).unwrap(), ("a", 1), "kept");
        let store = Store::open(&options).unwrap();
        assert_eq!(store.snapshot().get::<Notes>(&("a", 1)).unwrap().as_deref(), Some("kept"));
        assert_eq!(store.durable_pos(), pos.next(), "opening it is a change");
        assert_eq!(put(&store, ("a", 2), "next"), pos.next().next());
    }

    #[test]
    fn an_open_database_can_be_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options::for_tests(directory.path());
        assert!(crate::store::ReadOnly::open(&options).is_err(), "there is none yet");
        let store = Store::open(&options).unwrap();
        put(&store, ("a", 1), "kept");
        let looked_at = crate::store::ReadOnly::open(&options).unwrap();
        put(&store, ("a", 2), "later");
        let snapshot = looked_at.snapshot();
        assert_eq!(snapshot.get::<Notes>(&("a", 1)).unwrap().as_deref(), Some("kept"));
        assert_eq!(snapshot.get::<Notes>(&("a", 2)).unwrap(), None);
        assert_eq!(store.snapshot().list::<Notes>(&"a").count(), 2, "whoever writes is not disturbed");
    }

    #[test]
    fn a_transaction_sees_all_earlier_ones_and_a_failed_one_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        for _ in 0..100 {
            let count = |tx: &mut Transaction<'_>| {
                let before = tx.get::<Notes>(&("count", 0))?.map_or(0, |text| text.len());
                tx.put::<Notes>(&("count", 0), &"x".repeat(before + 1));
                Ok::<_, Error>(())
            };
            store.commit_blocking(count).unwrap();
        }
        assert_eq!(store.snapshot().get::<Notes>(&("count", 0)).unwrap().unwrap().len(), 100);
        let before = store.durable_pos();
        let fail = |tx: &mut Transaction<'_>| {
            tx.put::<Notes>(&("gone", 0), &String::new());
            Err::<(), _>(Error::Closed)
        };
        assert!(store.commit_blocking(fail).is_err());
        let panic = |_: &mut Transaction<'_>| -> Result<()> { panic!("a bug") };
        assert!(matches!(store.commit_blocking(panic), Err(Error::Panicked(message)) if message == "a bug"));
        assert!(!store.snapshot().contains::<Notes>(&("gone", 0)).unwrap());
        assert_eq!(put(&store, ("after", 0), ""), before.next(), "failed transactions take no position");
    }

    #[test]
    fn scans_keep_to_their_table_and_prefix() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        for (key, text) in [(("a", 1), "1"), (("a", 2), "2"), (("a", 300), "300"), (("ab", 1), "other")] {
            put(&store, key, text);
        }
        let snapshot = store.snapshot();
        let texts = |scan| snapshot.scan::<Notes>(scan).map(|row| row.unwrap().value).collect::<Vec<_>>();
        assert_eq!(texts(Scan::prefix::<Notes>(&"a")), ["1", "2", "300"]);
        assert_eq!(texts(Scan::prefix::<Notes>(&"a").backward()), ["300", "2", "1"]);
        assert_eq!(texts(Scan::range::<Notes>(&("a", 2u64), &("a", 300u64))), ["2"]);
        assert_eq!(texts(Scan::from::<Notes>(&("a", 2u64), &"a")), ["2", "300"]);
        assert_eq!(texts(Scan::before::<Notes>(&("a", 300u64), &"a").backward()), ["2", "1"]);
    }

    #[test]
    fn a_foreign_or_busy_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("thesis.tex"), "years of work").unwrap();
        let foreign = Store::open(&Options::for_tests(directory.path())).err().unwrap().to_string();
        assert!(foreign.contains("not a data directory of chappe"), "{foreign}");

        let ours = tempfile::tempdir().unwrap();
        let options = Options::for_tests(ours.path());
        let _open = Store::open(&options).unwrap();
        let busy = Store::open(&options).err().unwrap().to_string();
        assert!(busy.contains("another chappe process"), "{busy}");
    }

    #[test]
    fn another_server_name_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::for_tests(directory.path());
        drop(Store::open(&options).unwrap());
        options.server_name = "elsewhere".to_owned();
        let error = Store::open(&options).err().unwrap().to_string();
        assert!(error.contains("belongs to the server `test`"), "{error}");
    }

    #[test]
    fn no_space_refuses_writes_and_not_reads() {
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::for_tests(directory.path());
        put(&Store::open(&options).unwrap(), ("a", 1), "kept");
        options.free_space_floor = u64::MAX;
        let store = Store::open(&options).unwrap();
        let write = |tx: &mut Transaction<'_>| {
            tx.put::<Notes>(&("b", 1), &String::new());
            Ok::<_, Error>(())
        };
        assert!(matches!(store.commit_blocking(write), Err(Error::NoSpace { .. })));
        assert!(store.snapshot().contains::<Notes>(&("a", 1)).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(store.write_when_full(write)).unwrap();
        assert!(store.snapshot().contains::<Notes>(&("b", 1)).unwrap());
        let remove = |tx: &mut Transaction<'_>| {
            tx.delete::<Notes>(&("b", 1));
            Ok::<_, Error>(())
        };
        runtime.block_on(store.commit_when_full(remove)).unwrap();
        assert!(!store.snapshot().contains::<Notes>(&("b", 1)).unwrap());
    }

    #[test]
    fn unreadable_rows_name_their_table() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&Options::for_tests(directory.path())).unwrap();
        put(&store, ("a", 1), "text");
        struct AsJson;
        impl Table for AsJson {
            const NAME: &'static str = "as_json";
            const FAMILY: Family = Notes::FAMILY;
            const ID: u8 = Notes::ID;
            type Key<'a> = (&'a str, u64);
            type Value = Json;
        }
        let error = store.snapshot().get::<AsJson>(&("a", 1)).unwrap_err();
        assert!(matches!(error, Error::Corrupt { table: "as_json", .. }), "{error}");
    }

    fn count_up(tx: &mut Transaction<'_>, cursor: &[u8]) -> Result<Step> {
        let done = u64::from(cursor.first().copied().unwrap_or_default());
        tx.put::<Notes>(&("migrated", done), &String::new());
        Ok(if done == 4 { Step::Done } else { Step::Next(vec![u8::try_from(done + 1).unwrap()]) })
    }

    #[test]
    fn migrations_run_once_and_newer_layouts_are_refused() {
        const ONE: &[Migration] = &[Migration { name: "count up", step: count_up }];
        let directory = tempfile::tempdir().unwrap();
        let mut options = Options::for_tests(directory.path());
        drop(Store::open(&options).unwrap());
        options.migrations = ONE;
        let store = Store::open(&options).unwrap();
        assert_eq!(store.snapshot().list::<Notes>(&"migrated").count(), 5);
        let version = store.snapshot().get::<LayoutVersion>(&()).unwrap();
        let delete = |tx: &mut Transaction<'_>| {
            tx.delete::<Notes>(&("migrated", 0));
            Ok::<_, Error>(())
        };
        store.commit_blocking(delete).unwrap();
        drop(store);
        let store = Store::open(&options).unwrap();
        assert_eq!(store.snapshot().get::<LayoutVersion>(&()).unwrap(), version);
        assert_eq!(store.snapshot().list::<Notes>(&"migrated").count(), 4, "they do not run again");
        drop(store);
        options.migrations = &[];
        let error = Store::open(&options).err().unwrap().to_string();
        assert!(error.contains("newer chappe"), "{error}");
    }

    #[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
    struct Sample {
        name: String,
        size: u32,
    }
    impl Record for Sample {}

    #[test]
    fn a_record_is_its_version_and_its_fields() {
        use crate::store::Value;
        let sample = Sample { name: "ab".to_owned(), size: 300 };
        let mut bytes = Vec::new();
        sample.write(&mut bytes);
        assert_eq!(bytes, [2, b'a', b'b', 0xAC, 2]);
        assert_eq!(Sample::read(1, &bytes).unwrap(), sample);
        assert!(Sample::read(2, &bytes).unwrap_err().contains("newer"));
        bytes.push(0);
        assert!(Sample::read(1, &bytes).is_err());
    }
}
