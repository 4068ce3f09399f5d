//! What is kept of uploads. Their bytes are in files, see [`super::files`].

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

use super::{
    files::FileId,
    remote::tables::{RemoteFiles, RemoteMedia, RemoteUsage, RemoteUse},
};
use crate::store::{Family, Record, Table, TableInfo};

pub const ALL: &[TableInfo] = &[
    TableInfo::of::<Media>(),
    TableInfo::of::<PendingUploads>(),
    TableInfo::of::<MediaFiles>(),
    TableInfo::of::<PendingOfUser>(),
    TableInfo::of::<MediaUsage>(),
    TableInfo::of::<RemoteMedia>(),
    TableInfo::of::<RemoteFiles>(),
    TableInfo::of::<RemoteUse>(),
    TableInfo::of::<RemoteUsage>(),
];

/// What was uploaded here, by media id.
pub struct Media;
impl Table for Media {
    const NAME: &'static str = "media";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 96;
    type Key<'a> = &'a str;
    type Value = MediaItem;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MediaItem {
    pub uploader: OwnedUserId,
    /// When the upload was complete. Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    pub file: FileId,
    /// Bytes.
    pub size: u64,
    pub sha256: [u8; 32],
    /// A header value that the uploader chose: never trusted.
    pub content_type: String,
    /// Any text that the uploader chose.
    pub file_name: Option<String>,
}

impl Record for MediaItem {}

impl From<MediaItem> for Stored {
    fn from(item: MediaItem) -> Self {
        let MediaItem { file, size, sha256, content_type, file_name, .. } = item;
        Self { file, size, sha256, content_type, file_name }
    }
}

/// A file that can be served, of ours or of another server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    pub file: FileId,
    /// Bytes.
    pub size: u64,
    pub sha256: [u8; 32],
    /// A header value that the uploader or his server chose: never trusted.
    pub content_type: String,
    /// Any text that they chose.
    pub file_name: Option<String>,
}

impl Stored {
    /// The same for the same content, and made of characters that need no quoting.
    pub fn tag(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.sha256)
    }
}

/// Media ids that were given out before their content came.
pub struct PendingUploads;
impl Table for PendingUploads {
    const NAME: &'static str = "pending_uploads";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 97;
    type Key<'a> = &'a str;
    type Value = PendingUpload;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PendingUpload {
    /// The only one who may bring the content.
    pub user: OwnedUserId,
    /// Milliseconds since the Unix epoch. The id is unknown from then on.
    pub expires_at_ms: u64,
}

impl Record for PendingUpload {}

/// The media id of each file: one row for each row of `Media`.
pub struct MediaFiles;
impl Table for MediaFiles {
    const NAME: &'static str = "media_files";
    const FAMILY: Family = Family::Lookup;
    const ID: u8 = 98;
    /// [`FileId::to_bytes`].
    type Key<'a> = [u8; 16];
    type Value = String;
}

/// The pending uploads of each user, and when they expire: one row for each row of `PendingUploads`.
pub struct PendingOfUser;
impl Table for PendingOfUser {
    const NAME: &'static str = "pending_uploads_of_user";
    const FAMILY: Family = Family::User;
    const ID: u8 = 100;
    /// The user and the media id.
    type Key<'a> = (&'a UserId, &'a str);
    type Value = u64;
}

/// How much each user has uploaded.
pub struct MediaUsage;
impl Table for MediaUsage {
    const NAME: &'static str = "media_usage";
    const FAMILY: Family = Family::User;
    const ID: u8 = 101;
    type Key<'a> = &'a UserId;
    type Value = Usage;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub files: u64,
    pub bytes: u64,
}

impl Record for Usage {}
