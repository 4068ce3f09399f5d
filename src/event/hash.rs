//! Hashes and signatures: what makes an event more than a claim.

use ruma::{
    CanonicalJsonObject,
    room_version_rules::RoomVersionRules,
    signatures::{self, PublicKeyMap, reference_hash, verify_event},
};

use super::{FormatError, Pdu, format::Received, redact};

/// An event that its sender's server signed: made by us in `build`, or checked by [`verify`]. Nothing else can make one,
/// and nothing else can be appended to a room.
#[derive(Clone, Debug)]
pub struct Verified {
    pdu: Pdu,
    json: CanonicalJsonObject,
}

impl Verified {
    /// For `build`, which has just signed `json`.
    pub(super) fn signed_by_us(pdu: Pdu, json: CanonicalJsonObject) -> Self {
        Self { pdu, json }
    }

    /// The fields that the rules read.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The whole event in the federation format, without `unsigned`.
    pub fn json(&self) -> &CanonicalJsonObject {
        &self.json
    }
}

/// Why the signatures of an event do not hold: it is dropped, not rejected, and never stored.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("signature check failed: {0}")]
    Signature(#[from] signatures::VerificationError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

/// Checks the signatures that the room version asks for, then the content hash.
///
/// `keys` holds, per server, the public keys that may sign at the event's time: leave expired ones out. An event whose
/// content hash is wrong is taken for a redacted copy, so that its content never reaches the authorization rules.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#validating-hashes-and-signatures-on-received-events>
pub fn verify(received: Received, rules: &RoomVersionRules, keys: &PublicKeyMap) -> Result<Verified, VerifyError> {
    let Received { pdu, json } = received;
    match verify_event(keys, &json, rules)? {
        signatures::Verified::All => Ok(Verified { pdu, json }),
        signatures::Verified::Signatures => {
            let json = redact::redact(json, rules)?;
            Ok(Verified { pdu: Pdu::from_json(&json, rules)?, json })
        }
    }
}

/// The reference hash that events of room versions 1 and 2 give beside the id of `event` when they refer to it.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#calculating-the-reference-hash-for-an-event>
pub fn reference_sha256(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, FormatError> {
    reference_hash(event, rules).map_err(|error| FormatError::bad(error.to_string()))
}
