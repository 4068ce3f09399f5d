use rocksdb::DB;

use super::{
    Error, Options, Result, Snapshot,
    migrate::check_layout,
    open::{families, rocksdb_options},
};

/// A database as it is now, for a look at what a running server writes: no lock is taken and nothing is changed.
pub struct ReadOnly(DB);

impl ReadOnly {
    /// Opens what is there; an error if nothing is, or if it has another layout than this version writes.
    pub fn open(options: &Options) -> Result<Self> {
        let (db, cache) = rocksdb_options(options);
        let path = options.path.join("db");
        if !path.is_dir() {
            // RocksDB would make the directory before it finds nothing in it.
            let reason = "holds no database".to_owned();
            return Err(Error::Directory { path: options.path.clone(), reason });
        }
        let opened = Self(DB::open_cf_descriptors_read_only(&db, path, families(&cache, options), false)?);
        check_layout(&opened.snapshot(), &options.path, options.migrations)?;
        Ok(opened)
    }

    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::new(&self.0)
    }
}
