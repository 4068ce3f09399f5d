//! What differs between room versions, from ruma's tables.

use ruma::{
    RoomVersionId,
    room_version_rules::{RoomVersionDisposition, RoomVersionRules},
};

/// Every room version of the specification, all of them stable.
///
/// Source: <https://spec.matrix.org/v1.19/rooms/#complete-list-of-room-versions>.
pub const SUPPORTED: [RoomVersionId; 12] = [
    RoomVersionId::V1,
    RoomVersionId::V2,
    RoomVersionId::V3,
    RoomVersionId::V4,
    RoomVersionId::V5,
    RoomVersionId::V6,
    RoomVersionId::V7,
    RoomVersionId::V8,
    RoomVersionId::V9,
    RoomVersionId::V10,
    RoomVersionId::V11,
    RoomVersionId::V12,
];

/// The versions of a proposal: rooms with owned state, MSC3757, which are for the rest like versions 10 and 11.
/// [`owned_state`](super::owned_state) is what they have of their own.
const OWNED_STATE_VERSIONS: [&str; 2] = ["org.matrix.msc3757.10", "org.matrix.msc3757.11"];
static OWNED_STATE_10: RoomVersionRules = unstable(RoomVersionRules::V10);
static OWNED_STATE_11: RoomVersionRules = unstable(RoomVersionRules::V11);

const fn unstable(mut rules: RoomVersionRules) -> RoomVersionRules {
    rules.disposition = RoomVersionDisposition::Unstable;
    rules
}

/// Every room version that we take part in.
pub fn known() -> Vec<RoomVersionId> {
    let of_proposals = OWNED_STATE_VERSIONS.iter().filter_map(|&version| RoomVersionId::try_from(version).ok());
    SUPPORTED.into_iter().chain(of_proposals).collect()
}

/// Whether rooms with these rules have owned state: of the versions that we know, those that are not stable.
pub fn has_owned_state(rules: &RoomVersionRules) -> bool {
    rules.disposition == RoomVersionDisposition::Unstable
}

/// The rules of `version`; `None` if we do not know it, in which case nothing of that room may be guessed.
pub fn rules(version: &RoomVersionId) -> Option<&'static RoomVersionRules> {
    Some(match version {
        RoomVersionId::V1 => &RoomVersionRules::V1,
        RoomVersionId::V2 => &RoomVersionRules::V2,
        RoomVersionId::V3 => &RoomVersionRules::V3,
        RoomVersionId::V4 => &RoomVersionRules::V4,
        RoomVersionId::V5 => &RoomVersionRules::V5,
        RoomVersionId::V6 => &RoomVersionRules::V6,
        RoomVersionId::V7 => &RoomVersionRules::V7,
        RoomVersionId::V8 => &RoomVersionRules::V8,
        RoomVersionId::V9 => &RoomVersionRules::V9,
        RoomVersionId::V10 => &RoomVersionRules::V10,
        RoomVersionId::V11 => &RoomVersionRules::V11,
        RoomVersionId::V12 => &RoomVersionRules::V12,
        other => match other.as_str() {
            "org.matrix.msc3757.10" => &OWNED_STATE_10,
            "org.matrix.msc3757.11" => &OWNED_STATE_11,
            _ => return None,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_rules_and_others_have_none() {
        assert_eq!(known().len(), SUPPORTED.len() + OWNED_STATE_VERSIONS.len());
        for version in &known() {
            let is_of_proposal = !SUPPORTED.contains(version);
            assert_eq!(rules(version).map(has_owned_state), Some(is_of_proposal), "{version}");
        }
        for unknown in ["13", "0", "org.matrix.msc2870", "1.0", "org.matrix.msc3757.9"] {
            assert!(rules(&RoomVersionId::try_from(unknown).unwrap()).is_none(), "{unknown}");
        }
    }
}
