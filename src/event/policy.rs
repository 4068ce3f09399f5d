//! The signature of a room's policy server: that it recommends an event.
//!
//! <https://spec.matrix.org/v1.19/server-server-api/#validating-policy-server-signatures>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    events::room::policy::POLICY_SERVER_ED25519_SIGNING_KEY_ID as KEY_ID,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};

use super::{FormatError, Verified, redact};

/// Whether `event` has a valid signature of the policy server `via`, whose key stands in the room's state.
pub fn is_signed(event: &Verified, rules: &RoomVersionRules, via: &ServerName, key: &Base64) -> bool {
    event.signatures_of(via).get(KEY_ID).is_some_and(|signature| is_valid(event.json(), rules, via, key, signature))
}

/// The event with that signature beside those that it has; `None` if the signature is not valid.
///
/// Errors: the event becomes too large.
pub fn with_signature(
    event: Verified,
    rules: &RoomVersionRules,
    via: &ServerName,
    key: &Base64,
    signature: &str,
) -> Result<Option<Verified>, FormatError> {
    if !is_valid(event.json(), rules, via, key, signature) {
        return Ok(None);
    }
    event.with_signatures(rules, via, [(KEY_ID.to_owned(), signature.to_owned())].into()).map(Some)
}

fn is_valid(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    via: &ServerName,
    key: &Base64,
    signature: &str,
) -> bool {
    let Ok(mut signed) = redact::redact(event.clone(), rules) else { return false };
    // The policy server may be the origin: its other signatures are of other keys.
    let only = CanonicalJsonObject::from([(KEY_ID.to_owned(), CanonicalJsonValue::String(signature.to_owned()))]);
    let only = CanonicalJsonObject::from([(via.to_string(), CanonicalJsonValue::Object(only))]);
    signed.insert("signatures".to_owned(), CanonicalJsonValue::Object(only));
    let keys = PublicKeySet::from([(KEY_ID.to_owned(), key.clone())]);
    verify_json(&PublicKeyMap::from([(via.to_string(), keys)]), &signed).is_ok()
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId, server_name,
        signatures::{Ed25519KeyPair, sign_json},
    };
    use serde_json::json;

    use super::*;
    use crate::event::{
        format,
        hash::verify,
        testing::{Forge, SERVER, draft, public_keys},
    };

    const RULES: &RoomVersionRules = &RoomVersionRules::V11;

    fn message() -> Verified {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        forge.event("alice", draft("m.room.message", None, &json!({ "body": "hi" })), &[&create], &[])
    }

    /// The key of a new policy server, and its signature of `event`.
    fn sign(event: &Verified, via: &ServerName) -> (Base64, String) {
        let key = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "policy_server".to_owned()).unwrap();
        let mut json = redact::redact(event.json().clone(), RULES).unwrap();
        json.remove("signatures");
        sign_json(via.as_str(), &key, &mut json).unwrap();
        let signature = json["signatures"].as_object().unwrap()[via.as_str()].as_object().unwrap()[KEY_ID].clone();
        (Base64::new(key.public_key().to_vec()), signature.as_str().unwrap().to_owned())
    }

    #[test]
    fn a_signature_is_merged_with_those_of_the_same_server() {
        let origin = <&ServerName>::try_from(SERVER).unwrap();
        for via in [origin, server_name!("policy.test")] {
            let event = message();
            let (key, signature) = sign(&event, via);
            assert!(!is_signed(&event, RULES, via, &key));
            let before = event.signatures_of(origin);
            let signed = with_signature(event, RULES, via, &key, &signature).unwrap().unwrap();
            assert!(is_signed(&signed, RULES, via, &key));
            let after = signed.signatures_of(origin);
            assert!(before.iter().all(|(id, signature)| after.get(id) == Some(signature)));
            let json = serde_json::to_vec(signed.json()).unwrap();
            verify(format::parse(&json, RULES).unwrap(), RULES, &public_keys()).unwrap();
        }
    }

    #[test]
    fn only_the_key_of_the_room_counts() {
        let via = server_name!("policy.test");
        let event = message();
        let ((key, signature), (other_key, other_signature)) = (sign(&event, via), sign(&event, via));
        assert!(with_signature(event.clone(), RULES, via, &key, &other_signature).unwrap().is_none());
        assert!(with_signature(event.clone(), RULES, via, &key, "").unwrap().is_none());
        assert!(with_signature(event.clone(), RULES, via, &Base64::new(vec![0; 5]), &signature).unwrap().is_none());
        let signed = with_signature(event, RULES, via, &key, &signature).unwrap().unwrap();
        assert!(!is_signed(&signed, RULES, via, &other_key));
        assert!(!is_signed(&signed, RULES, server_name!("other.test"), &key));
    }
}
