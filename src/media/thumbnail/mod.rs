//! Small versions of images: made when somebody first asks for one, then kept as files.

mod image;
mod size;

use std::{
    fs::File,
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use ruma::{api::error::ErrorKind, media::Method};
use tokio::time::timeout;
use tracing::warn;

use self::{
    image::{Failure, Format, Image},
    size::{Shrink, Wanted},
};
use super::{Asker, disk_failed, files::FileId, tables::Stored};
use crate::{
    Server,
    error::{Error, Result},
};

/// How long a request waits for its turn, and then for its thumbnail.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest animated image that is its own thumbnail. Bytes.
const MAX_ANIMATED_BYTES: u64 = 8 << 20;

/// What a client asks for, all of it from its request.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    wanted: Wanted,
    may_be_animated: bool,
}

impl Request {
    /// Error: `M_INVALID_PARAM` for what is no size or no method.
    pub fn new(method: Option<&Method>, width: u64, height: u64, may_be_animated: bool) -> Result<Self> {
        Ok(Self { wanted: Wanted::new(method, width, height)?, may_be_animated })
    }

    /// The name of a file, the same for requests that have the same answer.
    pub fn name(&self) -> String {
        let suffix = if self.may_be_animated { "-animated" } else { "" };
        format!("{}{suffix}", self.wanted.name())
    }
}

pub struct Thumbnail {
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// One of those that the specification allows for thumbnails.
    pub media_type: &'static str,
    /// For people: `thumbnail.png`.
    pub file_name: String,
}

/// A thumbnail of `item`. Making a new one counts for who asks.
///
/// Errors: `M_UNKNOWN` for what is no image, `M_TOO_LARGE`, `M_LIMIT_EXCEEDED`.
pub async fn get(server: &Arc<Server>, asker: Asker<'_>, item: &Stored, request: Request) -> Result<Thumbnail> {
    if let Some(kept) = kept(server, item.file, request).await? {
        return Ok(kept);
    }
    server.limits.thumbnail(asker)?;
    let busy = |_| Error::limit_exceeded(PATIENCE);
    timeout(PATIENCE, make_in_turn(server, item, request)).await.map_err(busy)??;
    let kept = kept(server, item.file, request).await?;
    kept.ok_or_else(|| Error::internal("a thumbnail that was just made is not there"))
}

async fn kept(server: &Arc<Server>, of: FileId, request: Request) -> Result<Option<Thumbnail>> {
    let find = move |server: &Server| find(server, of, request).map_err(|error| disk_failed(server, error));
    server.blocking(find).await
}

fn find(server: &Server, of: FileId, request: Request) -> io::Result<Option<Thumbnail>> {
    let Some((file, extension)) = server.media.files.open_thumbnail(of, &request.name())? else { return Ok(None) };
    let size = file.metadata()?.len();
    Ok(Format::of_extension(&extension).map(|format| Thumbnail {
        file,
        size,
        media_type: format.media_type(),
        file_name: format!("thumbnail.{extension}"),
    }))
}

/// Makes a thumbnail on a thread of its own, when it is its turn.
async fn make_in_turn(server: &Arc<Server>, item: &Stored, request: Request) -> Result<()> {
    let turn = Arc::clone(&server.media.image_workers).acquire_owned().await.map_err(Error::internal)?;
    let (for_work, file, bytes) = (Arc::clone(server), item.file, item.size);
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn; // ends with the work, even if nobody waits for it any more
        make(&for_work, file, bytes, request)
    });
    let made = made.await.unwrap_or_else(|died| {
        warn!(%died, "an image could not be decoded");
        Err(Failure::NotAnImage)
    });
    made.map_err(|failure| refusal(server, failure))
}

fn refusal(server: &Server, failure: Failure) -> Error {
    match failure {
        Failure::NotAnImage => {
            Error::refused(ErrorKind::Unknown, "Cannot generate thumbnails for the requested content")
        }
        Failure::TooLarge => Error::too_large("Content is too large to thumbnail"),
        Failure::Disk(error) => disk_failed(server, error),
    }
}

fn make(server: &Server, original: FileId, bytes: u64, request: Request) -> Result<(), Failure> {
    if find(server, original, request)?.is_some() {
        return Ok(()); // somebody else asked for the same one
    }
    let files = &server.media.files;
    let max_pixels = u64::from(server.config.media.max_thumbnail_pixels);
    let image = Image::open(files.open_content(original)?, max_pixels)?;
    let shrink = request.wanted.shrink(image.size);
    let is_animated = || image::is_animated(files.open_content(original)?, image.format, image.size, max_pixels);
    let is_its_own = if request.may_be_animated && bytes <= MAX_ANIMATED_BYTES && is_animated()? {
        true // larger than asked for, which is allowed; to shrink each frame would cost too much
    } else {
        shrink == Shrink::No && !is_animated()?
    };
    if is_its_own {
        let name = format!("{}.{}", request.name(), image.format.extension());
        if files.link_thumbnail(original, &name).is_err() {
            let mut copy = files.create(FileId::from_bytes(server.random.bytes()))?;
            io::copy(&mut files.open_content(original)?, &mut copy.file)?;
            copy.settle_as_thumbnail(original, &name)?;
        }
        return Ok(());
    }
    let (format, encoded) = image.encode(shrink)?;
    let mut new = files.create(FileId::from_bytes(server.random.bytes()))?;
    new.file.write_all(&encoded)?;
    Ok(new.settle_as_thumbnail(original, &format!("{}.{}", request.name(), format.extension()))?)
}
