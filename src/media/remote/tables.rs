use serde::{Deserialize, Serialize};

use crate::{
    media::tables::{Stored, Usage},
    store::{Family, Record, Table},
};

/// Files of other servers that are kept here, and pictures of web pages.
pub struct RemoteMedia;
impl Table for RemoteMedia {
    const NAME: &'static str = "remote_media";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 113;
    /// Server name (ours, for pictures of web pages) and media id.
    type Key<'a> = (&'a str, &'a str);
    type Value = Cached;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cached {
    pub stored: Stored,
    /// When it was last asked for, within an hour. Milliseconds since the Unix epoch.
    pub used_at_ms: u64,
}

impl Record for Cached {}

/// Server name and media id of each file: one row for each row of `RemoteMedia`.
pub struct RemoteFiles;
impl Table for RemoteFiles {
    const NAME: &'static str = "remote_files";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 114;
    /// [`crate::media::files::FileId::to_bytes`].
    type Key<'a> = [u8; 16];
    type Value = (String, String);
}

impl Record for (String, String) {}

/// The files in the order in which they go when there is no room: one row for each row of `RemoteMedia`.
pub struct RemoteUse;
impl Table for RemoteUse {
    const NAME: &'static str = "remote_use";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 115;
    /// `used_at_ms` and the file.
    type Key<'a> = (u64, [u8; 16]);
    type Value = ();
}

/// How much `RemoteMedia` holds.
pub struct RemoteUsage;
impl Table for RemoteUsage {
    const NAME: &'static str = "remote_usage";
    const FAMILY: Family = Family::Meta;
    const ID: u8 = 110;
    type Key<'a> = ();
    type Value = Usage;
}
