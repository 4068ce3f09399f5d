//! The files of the repository. No other code knows where they lie:
//!
//! ```text
//! media/unfinished/ID                 being written; emptied at start
//! media/content/ab/cd/abcd…           uploads, by file id
//! media/thumbnails/ab/cd/abcd…/NAME   what was made of them; may be deleted at any time
//! ```
//!
//! Names come from random numbers and from us, never from a client. All functions block.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// How many thumbnails are kept of one upload: the oldest makes room.
const MAX_THUMBNAILS: usize = 16;

/// The name of a file: a random number, which tells nothing about what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileId(u128);

impl FileId {
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A file name that is not one of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFileId;

impl FromStr for FileId {
    type Err = NotAFileId;

    fn from_str(text: &str) -> Result<Self, NotAFileId> {
        let id = u128::from_str_radix(text, 16).map(Self).map_err(|_| NotAFileId)?;
        if id.to_string() == text { Ok(id) } else { Err(NotAFileId) }
    }
}

/// The folder `media` of a data directory.
#[derive(Clone, Debug)]
pub struct Files {
    root: PathBuf,
    /// The new files whose rows are not yet in the database: no orphans.
    unsettled: Arc<Mutex<HashSet<FileId>>>,
}

impl Files {
    /// Makes the folder ready for writing, and removes what was being written when the server ended.
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        let files = Self::of(data_directory);
        for folder in ["content", "thumbnails", "unfinished"] {
            fs::create_dir_all(files.root.join(folder))?;
        }
        for entry in fs::read_dir(files.root.join("unfinished"))? {
            fs::remove_file(entry?.path())?;
        }
        Ok(files)
    }

    /// For reading only; the folder need not be there.
    pub fn of(data_directory: &Path) -> Self {
        Self { root: data_directory.join("media"), unsettled: Arc::default() }
    }

    /// A new file that nobody sees before [`NewFile::settle`].
    pub fn create(&self, id: FileId) -> io::Result<NewFile> {
        let path = self.root.join("unfinished").join(id.to_string());
        let file = File::create_new(&path)?;
        self.unsettled.lock().insert(id);
        let unsettled = Arc::new(Unsettled { id, all: Arc::clone(&self.unsettled) });
        Ok(NewFile { id, file, path: Some(path), files: self.clone(), unsettled })
    }

    pub fn open_content(&self, id: FileId) -> io::Result<File> {
        File::open(self.content_path(id))
    }

    /// The size in bytes; `None` if there is no such file.
    pub fn content_size(&self, id: FileId) -> io::Result<Option<u64>> {
        match fs::metadata(self.content_path(id)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub fn remove_content(&self, id: FileId) -> io::Result<()> {
        fs::remove_file(self.content_path(id))
    }

    /// Removes a file and what was made of it.
    pub fn remove_with_thumbnails(&self, id: FileId) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.content_path(id)))?;
        ignore_missing(fs::remove_dir_all(self.thumbnails_path(id)))
    }

    /// Tells `visit` the uploads there are, one folder after the other: all but those that are being written. Whoever
    /// looks for a row of one must read the database after that.
    pub fn for_each_folder<E: From<io::Error>>(
        &self,
        mut visit: impl FnMut(Vec<FileId>) -> Result<(), E>,
    ) -> Result<(), E> {
        for outer in entries(&self.root.join("content"))? {
            for inner in entries(&outer)? {
                let names = entries(&inner)?;
                let ids = names.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok());
                let unsettled = self.unsettled.lock().clone();
                visit(ids.filter(|id| !unsettled.contains(id)).collect())?;
            }
        }
        Ok(())
    }

    /// The thumbnail called `name`, whatever its extension: the file and the extension.
    pub fn open_thumbnail(&self, of: FileId, name: &str) -> io::Result<Option<(File, String)>> {
        for path in entries(&self.thumbnails_path(of))? {
            if path.file_stem().is_some_and(|stem| stem == name) {
                let extension = path.extension().and_then(|text| text.to_str()).unwrap_or_default().to_owned();
                return File::open(path).map(|file| Some((file, extension)));
            }
        }
        Ok(None)
    }

    /// Keeps the original as its own thumbnail: `NAME.EXTENSION`. Not every file system can do that.
    pub fn link_thumbnail(&self, of: FileId, file_name: &str) -> io::Result<()> {
        let path = self.new_thumbnail(of, file_name)?;
        fs::hard_link(self.content_path(of), &path)
    }

    /// Where a thumbnail will be, with room for it.
    fn new_thumbnail(&self, of: FileId, file_name: &str) -> io::Result<PathBuf> {
        let folder = self.thumbnails_path(of);
        fs::create_dir_all(&folder)?;
        let mut kept = entries(&folder)?;
        if kept.len() >= MAX_THUMBNAILS {
            kept.sort_by_cached_key(|path| fs::metadata(path).and_then(|metadata| metadata.modified()).ok());
            ignore_missing(fs::remove_file(&kept[0]))?;
        }
        Ok(folder.join(file_name))
    }

    fn content_path(&self, id: FileId) -> PathBuf {
        self.fan_out("content", id)
    }

    fn thumbnails_path(&self, of: FileId) -> PathBuf {
        self.fan_out("thumbnails", of)
    }

    /// Two levels of folders, so that none gets too many entries.
    fn fan_out(&self, folder: &str, id: FileId) -> PathBuf {
        let name = id.to_string();
        let mut path = self.root.join(folder);
        path.extend([&name[..2], &name[2..4], name.as_str()]);
        path
    }
}

/// The paths in a folder; none if there is no folder.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

/// Keeps a file out of the orphans until its row is in the database.
#[derive(Debug)]
struct Unsettled {
    id: FileId,
    all: Arc<Mutex<HashSet<FileId>>>,
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        self.all.lock().remove(&self.id);
    }
}

/// A file that is being written. It is removed when this is dropped.
#[derive(Debug)]
pub struct NewFile {
    pub id: FileId,
    pub file: File,
    /// Where it is; `None` once that is somebody else's concern.
    path: Option<PathBuf>,
    files: Files,
    unsettled: Arc<Unsettled>,
}

impl NewFile {
    /// Makes it an upload, and durable: what is told about it after this holds.
    pub fn settle(mut self) -> io::Result<Settled> {
        self.file.sync_all()?;
        let path = self.files.content_path(self.id);
        let folders: Vec<_> = path.ancestors().skip(1).take(3).collect();
        fs::create_dir_all(folders[0])?;
        self.rename(path.clone())?;
        for folder in folders {
            File::open(folder)?.sync_all()?; // the entry of a file is part of its folder
        }
        self.path = None;
        Ok(Settled { path, _unsettled: Arc::clone(&self.unsettled) })
    }

    /// Makes it a thumbnail: `NAME.EXTENSION`.
    pub fn settle_as_thumbnail(mut self, of: FileId, file_name: &str) -> io::Result<()> {
        self.file.sync_data()?; // after a power cut a thumbnail may be gone, but not be half of one
        let path = self.files.new_thumbnail(of, file_name)?;
        self.rename(path)?;
        self.path = None;
        Ok(())
    }

    fn rename(&mut self, to: PathBuf) -> io::Result<()> {
        if let Some(from) = &self.path {
            fs::rename(from, &to)?;
        }
        self.path = Some(to);
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            warn!(%error, "an unfinished upload can't be removed");
        }
    }
}

/// An upload that is complete and durable, and whose row is about to be written. It stays when this is dropped.
#[derive(Debug)]
pub struct Settled {
    path: PathBuf,
    _unsettled: Arc<Unsettled>,
}

impl Settled {
    /// Removes the upload: its row was refused.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_file(self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn id(last: u8) -> FileId {
        FileId::from_bytes([0xAB, 0xCD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
    }

    fn all(files: &Files) -> Vec<FileId> {
        let mut all = Vec::new();
        let add = |ids| {
            all.extend::<Vec<_>>(ids);
            Ok::<_, io::Error>(())
        };
        files.for_each_folder(add).unwrap();
        all
    }

    #[test]
    fn a_name_is_an_id_only_in_the_form_that_we_write() {
        let name = id(7).to_string();
        assert_eq!(name, "abcd0000000000000000000000000007");
        assert_eq!(name.parse(), Ok(id(7)));
        for wrong in ["", "7", "+bcd0000000000000000000000000007", &name.to_uppercase(), &format!("0{name}")] {
            assert_eq!(wrong.parse::<FileId>(), Err(NotAFileId), "{wrong}");
        }
    }

    /// A new file with that text, as an upload.
    fn settled(files: &Files, id: FileId, text: &str) -> Settled {
        let mut new = files.create(id).unwrap();
        new.file.write_all(text.as_bytes()).unwrap();
        assert_eq!(files.content_size(id).unwrap(), None);
        new.settle().unwrap()
    }

    #[test]
    fn a_new_file_is_seen_when_it_is_settled_and_leaves_nothing_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        let kept = settled(&files, id(1), "hello");
        assert_eq!(all(&files), [], "its row is still to come");
        drop(kept);
        assert_eq!(all(&files), [id(1)]);
        assert_eq!(files.content_size(id(1)).unwrap(), Some(5));

        settled(&files, id(2), "no row").discard().unwrap();
        drop(files.create(id(3)).unwrap());
        assert_eq!(all(&files), [id(1)]);
        assert_eq!(entries(&directory.path().join("media/unfinished")).unwrap().len(), 0);
    }

    #[test]
    fn what_was_being_written_at_the_end_is_gone_at_the_start() {
        let directory = tempfile::tempdir().unwrap();
        std::mem::forget(Files::open(directory.path()).unwrap().create(id(1)).unwrap());
        assert_eq!(entries(&directory.path().join("media/unfinished")).unwrap().len(), 1);
        Files::open(directory.path()).unwrap();
        assert_eq!(entries(&directory.path().join("media/unfinished")).unwrap().len(), 0);
    }

    #[test]
    fn thumbnails_are_found_by_name_and_do_not_grow_without_bound() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files::open(directory.path()).unwrap();
        settled(&files, id(1), "original");
        files.link_thumbnail(id(1), "same.png").unwrap();
        let (mut file, extension) = files.open_thumbnail(id(1), "same").unwrap().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), extension.as_str()), ("original", "png"));
        for number in 0..40 {
            let made = files.create(id(100 + number)).unwrap();
            made.settle_as_thumbnail(id(1), &format!("made-{number}.jpg")).unwrap();
        }
        assert_eq!(entries(&files.thumbnails_path(id(1))).unwrap().len(), MAX_THUMBNAILS);
        assert!(files.open_thumbnail(id(1), "made-39").unwrap().is_some());
        assert_eq!(files.content_size(id(1)).unwrap(), Some(8), "the original is not a thumbnail");
    }
}
