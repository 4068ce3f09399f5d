//! `[global.media]`: limits of the content repository.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteSize, ConfigError, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// Largest file a user may upload; clients are told as `m.upload.size`.
    pub max_upload_size: ByteSize,
    /// How much one user may upload altogether; without bound if `None`.
    pub max_storage_per_user: Option<ByteSize>,
    /// A page about that limit, which clients lead their users to.
    pub storage_info_page: Option<String>,
    /// Whether the page tells how to get more.
    pub storage_can_be_raised: bool,
    /// How long a reserved media id (`POST /media/v1/create`) waits for its content.
    #[serde(with = "duration")]
    pub pending_upload_lifetime: Duration,
    /// Reserved media ids without content that one user may have at a time.
    pub max_pending_uploads: usize,
    /// Pixels of the largest image that thumbnails are made of.
    pub max_thumbnail_pixels: u32,
    /// Largest file that is fetched from another server.
    pub max_remote_file_size: ByteSize,
    /// How much of other servers' files is kept.
    pub remote_cache_size: ByteSize,
    /// How much one user may fetch from other servers at once, and more each hour.
    pub remote_download_burst: ByteSize,
    pub remote_download_per_hour: ByteSize,
    /// Whether the endpoints without authentication, which the specification froze, serve what is uploaded here.
    pub allow_legacy_media: bool,
}

impl Media {
    pub(super) fn check(&self, errors: &mut ConfigError) {
        if self.remote_cache_size < self.max_remote_file_size {
            errors.add(
                "media.remote_cache_size",
                "is smaller than one file may be",
                "set it to `max_remote_file_size` or more",
            );
        }
        if self.storage_info_page.as_ref().is_some_and(|page| url::Url::parse(page).is_err()) {
            errors.add("media.storage_info_page", "is no URL", "write all of it: \"https://example.org/storage.html\"");
        }
        if self.pending_upload_lifetime.is_zero() {
            errors.add(
                "media.pending_upload_lifetime",
                "leaves no time to upload anything",
                "set it to 1 h or more; `max_pending_uploads = 0` switches announced uploads off",
            );
        }
    }
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_upload_size: ByteSize::mib(50),
            max_storage_per_user: None,
            storage_info_page: None,
            storage_can_be_raised: false,
            pending_upload_lifetime: Duration::from_secs(24 * 60 * 60),
            max_pending_uploads: 50,
            max_thumbnail_pixels: 32_000_000,
            max_remote_file_size: ByteSize::mib(100),
            remote_cache_size: ByteSize::mib(5 << 10),
            remote_download_burst: ByteSize::mib(1 << 10),
            remote_download_per_hour: ByteSize::mib(256),
            allow_legacy_media: false,
        }
    }
}
