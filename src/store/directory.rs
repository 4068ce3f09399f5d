//! The data directory: whose it is, and that nobody else is using it.

use std::{
    fs::{self, File},
    io::{ErrorKind::NotFound, Read, Write},
    os::unix::fs::MetadataExt,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{Uid, geteuid},
};
use serde::{Deserialize, Serialize};

use super::{Error, Result};

const MARKER: &str = "chappe.json";

/// What the marker file says. It is read before anything in the directory is touched.
#[derive(Serialize, Deserialize)]
struct Marker {
    server_name: String,
}

/// How long the directory may be in use yet: by a process that is about to end, or by a child of it that still has its files.
const PATIENCE: Duration = Duration::from_secs(1);

/// Holding this keeps a second process out of the directory.
pub(super) struct Directory {
    _locked: File,
}

impl Directory {
    /// Opens the directory of `server_name`, or makes it where nothing is.
    pub fn open(path: &Path, server_name: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Directory { path: path.to_owned(), reason };
        let io = |e: std::io::Error| Error::io(path, &e);
        fs::create_dir_all(path).map_err(io)?;
        let marker = path.join(MARKER);
        let is_there = marker.try_exists().map_err(io)?;
        let owner = fs::metadata(if is_there { marker.as_path() } else { path }).map_err(io)?.uid();
        check_owner(owner, geteuid()).map_err(refuse)?;
        if !is_there {
            if let Some(found) = first_entry(path).map_err(io)? {
                return Err(refuse(format!(
                    "holds {found:?} but no {MARKER}, so it is not a data directory of chappe: \
                     set `database_path` to an empty or new directory"
                )));
            }
            create_marker(path, server_name).map_err(io)?;
        }
        let mut file = File::options().read(true).write(true).open(&marker).map_err(io)?;
        lock(&file).map_err(|_| Error::InUse { path: path.to_owned() })?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(io)?;
        let found: Marker = serde_json::from_str(&text).map_err(|e| refuse(format!("{MARKER} can't be read: {e}")))?;
        if found.server_name != server_name {
            return Err(refuse(format!(
                "belongs to the server `{}`, but `server_name` is `{server_name}`: a server can't change its name; \
                 correct `server_name`, or use another `database_path`",
                found.server_name
            )));
        }
        Ok(Self { _locked: file })
    }

    /// The `server_name` of an existing data directory, for commands that are given only the directory.
    pub fn server_name(path: &Path) -> Result<String> {
        let refuse = |reason: String| Error::Directory { path: path.to_owned(), reason };
        let text = fs::read_to_string(path.join(MARKER)).map_err(|e| match e.kind() {
            NotFound => refuse(format!("is not a data directory of chappe ({MARKER}: {e})")),
            _ => Error::io_because(path, &e, format!("{MARKER}: {e}")),
        })?;
        let found: Marker = serde_json::from_str(&text).map_err(|e| refuse(format!("{MARKER} can't be read: {e}")))?;
        Ok(found.server_name)
    }
}

/// Root can write into everybody's directory, and the server could then not read what root made there.
fn check_owner(owner: u32, caller: Uid) -> Result<(), String> {
    if !caller.is_root() || owner == caller.as_raw() {
        return Ok(());
    }
    let (user, command) = match name_of(owner) {
        Some(name) => (format!("{owner} ({name})"), format!(": `runuser -u {name} -- chappe ...`")),
        None => (owner.to_string(), String::new()),
    };
    Err(format!(
        "belongs to user {user}, and the server could not read what root makes there: run this as that user{command}"
    ))
}

fn name_of(user: u32) -> Option<String> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user.to_string()).then(|| name.to_owned())
    })
}

fn lock(file: &File) -> rustix::io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(_) if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
            result => return result,
        }
    }
}

/// Anything that the directory holds, but for what a file system keeps in its own root.
fn first_entry(path: &Path) -> std::io::Result<Option<std::ffi::OsString>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        if name != "lost+found" && name != format!("{MARKER}.new").as_str() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn create_marker(path: &Path, server_name: &str) -> std::io::Result<()> {
    let unfinished = path.join(format!("{MARKER}.new"));
    let mut file = File::create(&unfinished)?;
    serde_json::to_writer(&mut file, &Marker { server_name: server_name.to_owned() })?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    fs::rename(&unfinished, path.join(MARKER))?;
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_kept_out_of_what_belongs_to_somebody_else() {
        let user = Uid::from_raw(4_000_000_000);
        for (owner, caller) in [(0, Uid::ROOT), (user.as_raw(), user), (0, user)] {
            assert_eq!(check_owner(owner, caller), Ok(()));
        }
        let refused = check_owner(user.as_raw(), Uid::ROOT).unwrap_err();
        assert!(refused.contains("belongs to user 4000000000,"), "{refused}");
        assert_eq!(name_of(0).as_deref(), Some("root"));
    }
}
