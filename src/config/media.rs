//! `[global.media]`: limits of the content repository.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteSize, duration};

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// Largest file a user may upload; clients are told as `m.upload.size`.
    pub max_upload_size: ByteSize,
    /// How long a reserved media id (`POST /media/v1/create`) waits for its content.
    #[serde(with = "duration")]
    pub pending_upload_lifetime: Duration,
    /// Reserved media ids without content that one user may have at a time.
    pub max_pending_uploads: usize,
}

impl Default for Media {
    fn default() -> Self {
        Self {
            max_upload_size: ByteSize::mib(50),
            pending_upload_lifetime: Duration::from_secs(24 * 60 * 60),
            max_pending_uploads: 50,
        }
    }
}
