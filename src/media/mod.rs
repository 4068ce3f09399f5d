//! The content repository: files that users upload, by `mxc://` URI.
//!
//! Rows say what there is, files hold the bytes. A file is complete and durable before its row is written, so a row
//! always has its file; after a crash a file may have no row, and is removed at the next start.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#content-repository>

pub mod download;
pub mod files;
pub mod open_files;
mod orphans;
pub mod pending;
pub mod preview;
pub mod remote;
pub mod tables;
pub mod thumbnail;
mod under_way;
pub mod upload;

use std::{io, net::IpAddr, path::Path, sync::Arc};

use ruma::{MxcUri, OwnedMxcUri, OwnedServerName, OwnedUserId, ServerName};
use tokio::sync::{Notify, Semaphore};

pub use self::orphans::{list_orphans, remove_orphans};
use self::{files::Files, open_files::OpenFiles, under_way::UnderWay};
use crate::{
    Server,
    cores::cores,
    error::{Error, Result},
    rate_limit::network_of,
    user::session::Caller,
};

/// The length of the media ids that we make: more chance than anybody can guess.
const ID_LENGTH: usize = 32;

/// Who asks for a file.
#[derive(Clone, Copy, Debug)]
pub enum Asker<'a> {
    User(&'a Caller),
    Server(&'a ServerName),
    /// Somebody who is not logged in.
    Address(IpAddr),
}

/// An [`Asker`] to be remembered; an address stands for its network.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum AskerKey {
    User(OwnedUserId),
    Server(OwnedServerName),
    Network(IpAddr),
}

impl Asker<'_> {
    pub fn key(self) -> AskerKey {
        match self {
            Self::User(caller) => AskerKey::User(caller.user_id.clone()),
            Self::Server(origin) => AskerKey::Server(origin.to_owned()),
            Self::Address(address) => AskerKey::Network(network_of(address)),
        }
    }
}

/// What the content repository needs beside the store.
pub struct Repository {
    pub files: Files,
    /// What is being downloaded.
    pub open_files: OpenFiles,
    /// What is being uploaded.
    under_way: UnderWay,
    /// Rung whenever a pending upload got its content.
    arrivals: Notify,
    /// What is being fetched from other servers.
    fetching: remote::Fetching,
    /// A permit for each image that may be worked on at a time.
    image_workers: Arc<Semaphore>,
}

impl Repository {
    pub fn open(data_directory: &Path) -> io::Result<Self> {
        // Half of the cores, so that the other half goes on with messages.
        Ok(Self {
            files: Files::open(data_directory)?,
            open_files: OpenFiles::default(),
            under_way: UnderWay::default(),
            arrivals: Notify::new(),
            fetching: remote::Fetching::default(),
            image_workers: Arc::new(Semaphore::new(cores().div_ceil(2))),
        })
    }
}

/// The URI of something of ours.
fn uri(server: &Server, media_id: &str) -> OwnedMxcUri {
    format!("mxc://{}/{media_id}", server.name()).into()
}

/// Whether `media_id` has the grammar of one, and the server is this one; `M_NOT_FOUND` otherwise.
fn check_ours(server: &Server, server_name: &ServerName, media_id: &str) -> Result<()> {
    check_id(server_name, media_id)?;
    if server_name != server.name() {
        return Err(Error::not_found("This is media of another server"));
    }
    Ok(())
}

fn check_id(server_name: &ServerName, media_id: &str) -> Result<()> {
    if !<&MxcUri>::from(format!("mxc://{server_name}/{media_id}").as_str()).is_valid() {
        return Err(Error::not_found("This is not a media ID"));
    }
    Ok(())
}

/// Why the disk did not do what it should: most likely because it is full.
fn disk_failed(server: &Server, error: io::Error) -> Error {
    match server.store.check_writable() {
        Err(reason) => reason.into(),
        Ok(()) => Error::Internal(anyhow::Error::from(error).context("a file of the media can't be used")),
    }
}
