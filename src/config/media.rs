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
    /// How long a reserved media id (`POST /media/v1/create`) waits for its content.
    #[serde(with = "duration")]
    pub pending_upload_lifetime: Duration,
    /// Reserved media ids without content that one user may have at a time.
    pub max_pending_uploads: usize,
    /// Pixels of the largest image that thumbnails are made of.
    pub max_thumbnail_pixels: u32,
    /// Whether the endpoints without authentication, which the specification froze, serve what is uploaded here.
    pub allow_legacy_media: bool,
}

impl Media {
    pub(super) fn check(&self, errors: &mut ConfigError) {
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
            pending_upload_lifetime: Duration::from_secs(24 * 60 * 60),
            max_pending_uploads: 50,
            max_thumbnail_pixels: 32_000_000,
            allow_legacy_media: false,
        }
    }
}
