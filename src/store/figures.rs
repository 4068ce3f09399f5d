//! What the database is made of and what it has done, for who watches it.

use std::time::Duration;

use prometheus_client::metrics::histogram::Histogram;
#[cfg(test)]
use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use rocksdb::{Cache, DB, properties, statistics::Ticker};

use super::{Family, Result, snapshot::family};

/// The database at one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    pub families: Vec<OfFamily>,
    /// What the block cache holds, memtables included, and what it may hold.
    pub cache_bytes: u64,
    pub cache_capacity_bytes: u64,
    /// Whether no write goes on until compaction has caught up.
    pub is_write_stopped: bool,
    /// What writes are slowed down to, in bytes per second; 0 while they are not.
    pub delayed_write_rate: u64,
    /// `None` unless [`super::Options::counts`].
    pub counted: Option<Counted>,
}

/// One column family at one moment.
#[derive(Clone, Copy, Debug)]
pub struct OfFamily {
    pub family: Family,
    /// About.
    pub rows: u64,
    pub memtable_bytes: u64,
    pub file_bytes: u64,
    /// What compaction has still to rewrite, about.
    pub pending_compaction_bytes: u64,
}

/// What RocksDB has counted since the database was opened.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub cache_hits: u64,
    pub cache_misses: u64,
    /// For how long writes were held up.
    pub stalled: Duration,
    pub log_bytes: u64,
    pub flushed_bytes: u64,
    pub compacted_bytes: u64,
}

/// RocksDB's options and cache, kept to read its figures from.
pub(super) struct Gauges {
    pub options: rocksdb::Options,
    pub cache: Cache,
    pub cache_capacity_bytes: usize,
    pub counts: bool,
}

impl Gauges {
    pub fn read(&self, db: &DB) -> Result<Figures> {
        let of_database = |name| db.property_int_value(name).map(Option::unwrap_or_default);
        Ok(Figures {
            families: Family::ALL.into_iter().map(|family| OfFamily::read(db, family)).collect::<Result<_>>()?,
            cache_bytes: self.cache.get_usage() as u64,
            cache_capacity_bytes: self.cache_capacity_bytes as u64,
            is_write_stopped: of_database(properties::IS_WRITE_STOPPED)? != 0,
            delayed_write_rate: of_database(properties::ACTUAL_DELAYED_WRITE_RATE)?,
            counted: self.counts.then(|| Counted::read(&self.options)),
        })
    }
}

impl OfFamily {
    fn read(db: &DB, of: Family) -> Result<Self> {
        let value = |name| db.property_int_value_cf(family(db, of), name).map(Option::unwrap_or_default);
        Ok(Self {
            family: of,
            rows: value(properties::ESTIMATE_NUM_KEYS)?,
            memtable_bytes: value(properties::CUR_SIZE_ALL_MEM_TABLES)?,
            file_bytes: value(properties::TOTAL_SST_FILES_SIZE)?,
            pending_compaction_bytes: value(properties::ESTIMATE_PENDING_COMPACTION_BYTES)?,
        })
    }
}

impl Counted {
    fn read(options: &rocksdb::Options) -> Self {
        Self {
            cache_hits: options.get_ticker_count(Ticker::BlockCacheHit),
            cache_misses: options.get_ticker_count(Ticker::BlockCacheMiss),
            stalled: Duration::from_micros(options.get_ticker_count(Ticker::StallMicros)),
            log_bytes: options.get_ticker_count(Ticker::WalFileBytes),
            flushed_bytes: options.get_ticker_count(Ticker::FlushWriteBytes),
            compacted_bytes: options.get_ticker_count(Ticker::CompactWriteBytes),
        }
    }
}

/// How the sync thread works.
#[derive(Clone, Debug)]
pub struct Syncs {
    /// How long each fsync took, in seconds.
    pub seconds: Histogram,
    /// How many transactions it made durable.
    pub transactions: Histogram,
}

impl Syncs {
    pub(super) fn new() -> Self {
        Self {
            seconds: Histogram::new([0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0]),
            transactions: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
        }
    }

    pub(super) fn note(&self, took: Duration, transactions: usize) {
        self.seconds.observe(took.as_secs_f64());
        self.transactions.observe(transactions as f64);
    }
}

/// What `work` gives, and over how many rows it stepped on this thread, deleted ones too.
#[cfg(test)]
pub fn steps<R>(work: impl FnOnce() -> R) -> (R, u64) {
    count(work, &[PerfMetric::InternalKeySkippedCount, PerfMetric::InternalDeleteSkippedCount])
}

/// What `work` gives, and how many keys it looked up on this thread, in a database so new that nothing was flushed.
#[cfg(test)]
pub fn look_ups<R>(work: impl FnOnce() -> R) -> (R, u64) {
    count(work, &[PerfMetric::GetFromMemtableCount])
}

#[cfg(test)]
fn count<R>(work: impl FnOnce() -> R, metrics: &[PerfMetric]) -> (R, u64) {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    let result = work();
    set_perf_stats(PerfStatsLevel::Disable);
    (result, metrics.iter().map(|metric| context.metric(*metric)).sum())
}
