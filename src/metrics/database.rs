//! The database and the disk that it is on.

use super::page::Page;
use crate::{
    Server,
    error::Result,
    store::{Counted, Figures, OfFamily},
};

pub fn tell(server: &Server, page: &mut Page) -> Result<()> {
    let syncs = server.store.syncs();
    let help = "Time of one fsync of the write-ahead log, for which everybody waits who wrote";
    page.living("chappe_store_fsync_duration_seconds", help, syncs.seconds.clone());
    let help = "How many transactions one fsync made durable";
    page.living("chappe_store_commit_group_transactions", help, syncs.transactions.clone());
    page.gauge("chappe_disk_free_bytes", "What is free on the disk of database_path", server.store.free_bytes()?);
    let figures = server.store.figures()?;
    of_families(&figures, page);
    let help = "The block cache of RocksDB, with the memtables that count as part of it";
    page.gauge("chappe_rocksdb_cache_bytes", help, figures.cache_bytes);
    let help = "What that cache may hold";
    page.gauge("chappe_rocksdb_cache_capacity_bytes", help, figures.cache_capacity_bytes);
    let help = "1 while no write goes on until compaction has caught up";
    page.gauge("chappe_rocksdb_write_stopped", help, u64::from(figures.is_write_stopped));
    let help = "What writes are slowed down to; 0 while they are not";
    page.gauge("chappe_rocksdb_delayed_write_bytes_per_second", help, figures.delayed_write_rate);
    if let Some(counted) = &figures.counted {
        of_rocksdb(counted, page);
    }
    Ok(())
}

fn of_families(figures: &Figures, page: &mut Page) {
    type Value = fn(&OfFamily) -> u64;
    let gauges: [(&str, &str, Value); 4] = [
        ("chappe_rocksdb_file_bytes", "Files of a column family", |of| of.file_bytes),
        ("chappe_rocksdb_memtable_bytes", "What was written and is in no file yet", |of| of.memtable_bytes),
        ("chappe_rocksdb_pending_compaction_bytes", "What compaction has still to rewrite, about", |of| {
            of.pending_compaction_bytes
        }),
        ("chappe_rocksdb_rows", "Rows, about", |of| of.rows),
    ];
    for (name, help, value) in gauges {
        let values = figures.families.iter().map(|of| ([of.family.name()], value(of)));
        page.labeled_gauge(name, help, &["family"], values);
    }
}

fn of_rocksdb(counted: &Counted, page: &mut Page) {
    page.counter("chappe_rocksdb_cache_hits", "Blocks that were read from the cache", counted.cache_hits);
    page.counter("chappe_rocksdb_cache_misses", "Blocks that were read from a file", counted.cache_misses);
    let help = "For how long writes were held up because compaction did not keep up";
    page.counter("chappe_rocksdb_stalled_seconds", help, counted.stalled.as_secs_f64());
    let written =
        [("log", counted.log_bytes), ("flush", counted.flushed_bytes), ("compaction", counted.compacted_bytes)];
    page.labeled_counter(
        "chappe_rocksdb_written_bytes",
        "What was written to the disk, and why",
        &["by"],
        written.map(|(by, bytes)| ([by], bytes)),
    );
}
