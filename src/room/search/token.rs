//! Where the next page of a search begins.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    store::{RoomNid, RoomPos},
};

/// The place of a match among all of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub rank: u32,
    pub pos: RoomPos,
    pub room: RoomNid,
}

/// Matches that belong together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Group {
    Room(OwnedRoomId),
    Sender(OwnedUserId),
}

/// After this match, and of this group only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub place: Place,
    pub group: Option<Group>,
}

impl Token {
    pub fn encode(&self) -> Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(postcard::to_stdvec(self).map_err(Error::internal)?))
    }

    /// `M_INVALID_PARAM` for what is no token.
    pub fn decode(text: &str) -> Result<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok();
        let token = bytes.and_then(|bytes| postcard::from_bytes(&bytes).ok());
        token.ok_or_else(|| Error::invalid_param("That is not a token of a search"))
    }
}
