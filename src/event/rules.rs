//! What differs between room versions, from ruma's tables.

use ruma::{RoomVersionId, room_version_rules::RoomVersionRules};

/// Every room version that we take part in, all of them stable.
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
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_version_has_rules_and_others_have_none() {
        for version in &SUPPORTED {
            assert!(rules(version).is_some(), "{version}");
        }
        for unknown in ["13", "0", "org.matrix.msc2870", "1.0"] {
            assert!(rules(&RoomVersionId::try_from(unknown).unwrap()).is_none(), "{unknown}");
        }
    }
}
