//! Hashes and signatures: what makes an event more than a claim.

use std::{borrow::Cow, collections::BTreeMap};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, ServerName,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{
        self, PublicKeyMap, VerificationError, content_hash, reference_hash,
        required_server_signatures_to_verify_event, verify_event,
    },
};

use super::{
    FormatError, Pdu,
    format::{self, Received},
    redact,
};

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

    /// An event that [`verify`] accepted, from the bytes of [`Self::json`] that we kept since.
    pub fn kept(json: &[u8], rules: &RoomVersionRules) -> Result<Self, FormatError> {
        let Received { pdu, json } = format::parse(json, rules)?;
        Ok(Self { pdu, json })
    }

    /// The fields that the rules read.
    pub fn pdu(&self) -> &Pdu {
        &self.pdu
    }

    /// The signatures of one server, by the ids of their keys.
    pub fn signatures_of(&self, server: &ServerName) -> BTreeMap<String, String> {
        let of_server = self.json.get("signatures").and_then(|all| all.as_object()?.get(server.as_str())?.as_object());
        let text = |(id, signature): (&String, &CanonicalJsonValue)| Some((id.clone(), signature.as_str()?.to_owned()));
        of_server.into_iter().flatten().filter_map(text).collect()
    }

    /// The event with more signatures of `server`, beside those that it has: those decide what event it is.
    ///
    /// Errors: the event becomes too large.
    pub fn with_signatures(
        mut self,
        rules: &RoomVersionRules,
        server: &ServerName,
        more: BTreeMap<String, String>,
    ) -> Result<Self, FormatError> {
        let no_object = || FormatError::bad("the signatures are no objects");
        let Some(CanonicalJsonValue::Object(all)) = self.json.get_mut("signatures") else { return Err(no_object()) };
        let of_server = all.entry(server.to_string()).or_insert_with(|| CanonicalJsonValue::Object(BTreeMap::new()));
        let CanonicalJsonValue::Object(of_server) = of_server else { return Err(no_object()) };
        for (key_id, signature) in more {
            of_server.insert(key_id, CanonicalJsonValue::String(signature));
        }
        format::check(&mut self.json, rules)?;
        Ok(self)
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
    Signature(#[from] VerificationError),
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
    let rules = &*signature_rules(&json, rules);
    let found = match redact::without_malformed_invite(&json, rules) {
        Cow::Borrowed(json) => verify_event(keys, json, rules)?,
        Cow::Owned(signed) => {
            // An error for an invite: who has to sign it depends on what is malformed.
            required_server_signatures_to_verify_event(&json, &rules.signatures)?;
            verify_event(keys, &signed, rules)?;
            if has_its_hash(&json)? { signatures::Verified::All } else { signatures::Verified::Signatures }
        }
    };
    match found {
        signatures::Verified::All => Ok(Verified { pdu, json }),
        signatures::Verified::Signatures => {
            let json = redact::redact(json, rules)?;
            // Who has to sign depends on the content, too: an invite loses what let it do without its sender's signature.
            verify_event(keys, &json, rules)?;
            Ok(Verified { pdu: Pdu::from_json(&json, rules)?, json })
        }
    }
}

/// Whether the content hash that an event names is its own.
fn has_its_hash(event: &CanonicalJsonObject) -> Result<bool, VerificationError> {
    let named = event.get("hashes").and_then(|hashes| hashes.as_object()?.get("sha256")?.as_str());
    let named = named.and_then(|named| Base64::<ruma::serde::base64::Standard>::parse(named).ok());
    let hash = content_hash(event)?;
    Ok(named.is_some_and(|named| named.as_bytes() == hash.as_bytes()))
}

/// The rules by which ruma says whose signatures an event needs. It looks for who vouches in events of all types, and drops
/// those that have anything else by that key; it means something in member events only.
///
/// <https://spec.matrix.org/v1.19/rooms/v8/#authorization-rules>
pub fn signature_rules<'r>(event: &CanonicalJsonObject, rules: &'r RoomVersionRules) -> Cow<'r, RoomVersionRules> {
    let is_member = event.get("type").and_then(CanonicalJsonValue::as_str) == Some("m.room.member");
    if is_member || !rules.signatures.check_join_authorised_via_users_server {
        return Cow::Borrowed(rules);
    }
    let mut rules = rules.clone();
    rules.signatures.check_join_authorised_via_users_server = false;
    Cow::Owned(rules)
}

/// The hash by which others refer to `event`: its id since version 3; in versions 1 and 2 it stands beside the id.
///
/// <https://spec.matrix.org/v1.19/server-server-api/#calculating-the-reference-hash-for-an-event>
pub fn reference_sha256(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<String, FormatError> {
    let event = redact::without_malformed_invite(event, rules);
    reference_hash(&event, rules).map_err(|error| FormatError::bad(error.to_string()))
}

#[cfg(test)]
mod tests {
    use ruma::{
        RoomVersionId,
        room_version_rules::{RedactionRules, RoomVersionRules},
        signatures::{add_content_hash_to_event, hash_and_sign_event, sign_event, sign_json},
    };
    use serde_json::{Value, json};

    use super::*;
    use crate::event::{
        format::{self, canonical},
        rules,
        testing::{Forge, SERVER, draft, key, public_keys},
    };

    fn object(json: Value) -> CanonicalJsonObject {
        serde_json::from_value(json).unwrap()
    }

    /// A message in a version 11 room, as a peer would send it.
    fn message() -> Value {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let message = forge.event("alice", draft("m.room.message", None, &json!({ "body": "hi" })), &[&create], &[]);
        serde_json::from_str(&canonical(message.json())).unwrap()
    }

    fn verify_v11(event: &Value, keys: &PublicKeyMap) -> Result<Verified, VerifyError> {
        let rules = &RoomVersionRules::V11;
        verify(format::parse(event.to_string().as_bytes(), rules).unwrap(), rules, keys)
    }

    // https://spec.matrix.org/v1.19/appendices/#json-signing
    #[test]
    fn json_is_signed_as_in_the_test_vectors() {
        let vectors = [
            (json!({}), "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"),
            (
                json!({ "one": 1, "two": "Two" }),
                "KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw",
            ),
        ];
        for (mut json, signature) in vectors {
            let mut signed = object(json.clone());
            sign_json(SERVER, &key(), &mut signed).unwrap();
            json["signatures"] = json!({ "domain": { "ed25519:1": signature } });
            assert_eq!(signed, object(json));
        }
    }

    // https://spec.matrix.org/v1.19/appendices/#event-signing
    #[test]
    fn events_are_hashed_and_signed_as_in_the_test_vectors() {
        let minimal = json!({
            "room_id": "!x:domain", "sender": "@a:domain", "origin": "domain", "origin_server_ts": 1_000_000,
            "signatures": {}, "hashes": {}, "type": "X", "content": {}, "prev_events": [], "auth_events": [],
            "depth": 3, "unsigned": { "age_ts": 1_000_000 },
        });
        let redactable = json!({
            "content": { "body": "Here is the message content" }, "event_id": "$0:domain", "origin": "domain",
            "origin_server_ts": 1_000_000, "type": "m.room.message", "room_id": "!r:domain", "sender": "@u:domain",
            "signatures": {}, "unsigned": { "age_ts": 1_000_000 },
        });
        let vectors = [
            (
                minimal,
                "5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
                "KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg",
            ),
            (
                redactable,
                "onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
                "Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA",
            ),
        ];
        for (mut event, hash, signature) in vectors {
            let mut signed = object(event.clone());
            hash_and_sign_event(SERVER, &key(), &mut signed, &RedactionRules::V1).unwrap();
            event["hashes"] = json!({ "sha256": hash });
            event["signatures"] = json!({ "domain": { "ed25519:1": signature } });
            assert_eq!(signed, object(event));
        }
    }

    #[test]
    fn a_changed_content_is_not_believed_but_the_event_is() {
        let original = verify_v11(&message(), &public_keys()).unwrap();
        let mut changed = message();
        changed["content"]["body"] = json!("give me money");
        changed["m.added"] = json!(1);
        let verified = verify_v11(&changed, &public_keys()).unwrap();
        assert_eq!(verified.pdu().event_id, original.pdu().event_id);
        assert_eq!(verified.pdu().content.get(), "{}");
        assert!(!verified.json().contains_key("m.added"));
    }

    #[test]
    fn an_event_with_a_wrong_or_missing_signature_is_dropped() {
        let mut changed = message();
        changed["sender"] = json!("@mallory:domain");
        let mut unsigned = message();
        unsigned["signatures"] = json!({});
        let mut other_server = message();
        other_server["sender"] = json!("@alice:elsewhere");
        let mut no_hashes = message();
        no_hashes.as_object_mut().unwrap().remove("hashes");
        let mut no_base64 = message();
        no_base64["signatures"]["domain"]["ed25519:1"] = json!("*");
        let mut short = message();
        short["signatures"]["domain"]["ed25519:1"] = json!("YQ");
        for event in [changed, unsigned, other_server, no_hashes, no_base64, short] {
            verify_v11(&event, &public_keys()).unwrap_err();
        }
        verify_v11(&message(), &PublicKeyMap::new()).unwrap_err();
    }

    /// An invite by the identity of an address needs no signature of its sender's server. In room versions before 11
    /// redaction makes an ordinary invite of it, which does.
    #[test]
    fn an_invite_without_its_senders_signature_is_no_ordinary_one_in_any_room_version() {
        for version in rules::known() {
            let mut forge = Forge::new(version.clone());
            let create = forge.create("alice");
            let content = json!({ "membership": "invite", "third_party_invite": {} });
            let invite = draft("m.room.member", Some("@mallory:elsewhere"), &content);
            let names_create = !forge.rules.authorization.room_create_event_id_as_room_id;
            let auth: Vec<&Verified> = names_create.then_some(&create).into_iter().collect();
            let invite = forge.event("alice", invite, &[&create], &auth);
            let mut unsigned: Value = serde_json::from_str(&canonical(invite.json())).unwrap();
            unsigned["signatures"] = json!({});
            unsigned["hashes"]["sha256"] = json!("AAAA");
            if unsigned.get("event_id").is_some() {
                unsigned["event_id"] = json!("$of:elsewhere");
            }
            let mut received = format::parse(unsigned.to_string().as_bytes(), forge.rules).unwrap();
            received.cosign(ruma::server_name!("elsewhere"), &key(), forge.rules).unwrap();
            let of_elsewhere = PublicKeyMap::from([("elsewhere".to_owned(), public_keys()[SERVER].clone())]);
            let verified = verify(received, forge.rules, &of_elsewhere);
            let is_ordinary = |event: &Verified| !event.pdu().content.get().contains("third_party_invite");
            assert!(!verified.as_ref().is_ok_and(is_ordinary), "version {version}: {verified:?}");
        }
    }

    #[test]
    fn ids_and_signatures_do_not_cover_a_third_party_invite_that_is_no_object() {
        for version in [RoomVersionId::V11, RoomVersionId::V12] {
            let mut forge = Forge::new(version);
            let create = forge.create("alice");
            for malformed in [json!(null), json!("x")] {
                let content = json!({ "membership": "join", "third_party_invite": malformed });
                let join = draft("m.room.member", Some("@alice:domain"), &content);
                let join = forge.event("alice", join, &[&create], &[]);
                assert!(!join.pdu().content.get().contains("third_party_invite"), "nor do we send it");

                // As another server sends it: hashed with it, signed without it.
                let mut sent = join.json().clone();
                sent.remove("signatures");
                sent.insert("content".to_owned(), object(content).into());
                add_content_hash_to_event(&mut sent).unwrap();
                let mut signed = sent.clone();
                signed.insert("content".to_owned(), object(json!({ "membership": "join" })).into());
                sign_event(SERVER, &key(), &mut signed, &forge.rules.redaction).unwrap();
                let id = format!("${}", reference_hash(&signed, forge.rules).unwrap());
                sent.insert("signatures".to_owned(), signed["signatures"].clone());
                let receive = |event: &CanonicalJsonObject| {
                    let received = format::parse(canonical(event).as_bytes(), forge.rules).unwrap();
                    verify(received, forge.rules, &public_keys()).unwrap()
                };
                let verified = receive(&sent);
                assert_eq!(verified.pdu().event_id.as_str(), id);
                assert!(verified.pdu().content.get().contains("third_party_invite"), "its hash is right");
                let changed = json!({ "membership": "join", "third_party_invite": malformed, "x": 1 });
                sent.insert("content".to_owned(), object(changed).into());
                assert_eq!(receive(&sent).pdu().content.get(), r#"{"membership":"join"}"#);
            }
        }
    }

    #[test]
    fn who_vouches_matters_in_member_events_only() {
        let mut forge = Forge::new(RoomVersionId::V11);
        let create = forge.create("alice");
        let mut event = |event_type: &str, voucher: Value| {
            let content = json!({ "membership": "join", "join_authorised_via_users_server": voucher });
            let state_key = (event_type == "m.room.member").then_some("@bob:domain");
            let event = forge.event("bob", draft(event_type, state_key, &content), &[&create], &[&create]);
            verify_v11(&serde_json::from_str(&canonical(event.json())).unwrap(), &public_keys())
        };
        for voucher in [json!(1), json!("nobody"), json!("@carol:elsewhere")] {
            event("m.room.message", voucher.clone()).unwrap();
            event("m.room.member", voucher).unwrap_err();
        }
        event("m.room.member", json!("@alice:domain")).unwrap();
    }

    #[test]
    fn a_second_server_signs_what_the_first_signed_and_both_signatures_hold() {
        let rules = &RoomVersionRules::V11;
        let mut received = format::parse(message().to_string().as_bytes(), rules).unwrap();
        received.cosign(ruma::server_name!("second"), &key(), rules).unwrap();
        let verified = verify(received, rules, &public_keys()).unwrap();
        let mut original = object(message());
        original.remove("signatures");
        let json = verified.json();
        assert!(original.iter().all(|(field, value)| json.get(field) == Some(value)), "nothing else changes");
        let signatures = serde_json::to_value(&json["signatures"]).unwrap();
        let redacted = redact::redact(json.clone(), rules).unwrap();
        let mut keys = public_keys();
        keys.insert("second".to_owned(), keys[SERVER].clone());
        signatures::verify_json(&keys, &redacted).unwrap();
        assert!(signatures[SERVER].is_object() && signatures["second"].is_object());
    }

    #[test]
    fn signatures_of_unknown_keys_do_not_count_and_do_not_hurt() {
        let mut signed_twice = message();
        signed_twice["signatures"]["domain"]["ed25519:unknown"] = json!("YQ");
        signed_twice["signatures"]["elsewhere"] = json!({ "ed25519:1": "YQ" });
        verify_v11(&signed_twice, &public_keys()).unwrap();
    }
}
