//! JSON objects that users' keys sign.

use std::collections::BTreeMap;

use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedUserId, UserId, room_version_rules::RoomVersionRules};
use vodozemac::{Ed25519PublicKey, Ed25519Signature};

use crate::{
    error::{Error, Result},
    event::{FormatError, format},
};

/// The largest object that we take, in bytes. Source: our choice; those of clients have about 1 KB.
pub const MAX_BYTES: usize = 16 << 10;

/// By user and by the id of his key.
pub type Signatures = BTreeMap<OwnedUserId, BTreeMap<String, String>>;

/// An object and what stands in its `signatures`. None of them was verified.
#[derive(Clone, Debug)]
pub struct SignedObject {
    /// Without `signatures` and `unsigned`.
    pub fields: CanonicalJsonObject,
    pub signatures: Signatures,
    /// Whether there was a field `signatures`, be it empty.
    pub has_signatures: bool,
}

impl SignedObject {
    /// Reads an object that a client sent. `M_BAD_JSON` if it is not canonical JSON or its signatures are not of the
    /// specification's form, `M_TOO_LARGE` if it is.
    pub fn parse(json: &str) -> Result<Self> {
        let mut fields = parse_object(json)?;
        fields.remove("unsigned");
        let signatures = fields.remove("signatures").map(read_signatures).transpose()?;
        Ok(Self { fields, has_signatures: signatures.is_some(), signatures: signatures.unwrap_or_default() })
    }

    /// What is signed: canonical JSON.
    ///
    /// <https://spec.matrix.org/v1.19/appendices/#signing-json>
    pub fn body(&self) -> String {
        canonical(&self.fields)
    }

    /// All but `unsigned`, as canonical JSON.
    pub fn with_signatures(&self) -> String {
        let mut whole = self.fields.clone();
        let signatures = serde_json::to_value(&self.signatures).expect("maps of strings serialize");
        whole.insert("signatures".to_owned(), signatures.try_into().expect("it holds no numbers"));
        canonical(&whole)
    }

    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field).and_then(CanonicalJsonValue::as_str)
    }

    pub fn signatures_of<'a>(&'a self, user: &UserId) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.signatures.get(user).into_iter().flatten().map(|(id, signature)| (id.as_str(), signature.as_str()))
    }
}

/// Reads a JSON object strictly: canonical JSON, no key twice, bounded depth.
pub fn parse_object(json: &str) -> Result<CanonicalJsonObject> {
    if json.len() > MAX_BYTES {
        return Err(Error::too_large(format!("A key object has more than {MAX_BYTES} bytes")));
    }
    format::parse_content(json.as_bytes(), &RoomVersionRules::V11).map_err(|error| match error {
        FormatError::BadJson(reason) => Error::bad_json(format!("A key object is malformed: {reason}")),
        FormatError::TooLarge(reason) => Error::too_large(reason),
    })
}

pub fn canonical(object: &CanonicalJsonObject) -> String {
    serde_json::to_string(object).expect("maps with string keys, strings and integers always serialize")
}

fn read_signatures(value: CanonicalJsonValue) -> Result<Signatures> {
    let malformed = || Error::bad_json("`signatures` must be an object of objects of strings, by user and key id");
    let CanonicalJsonValue::Object(users) = value else { return Err(malformed()) };
    users
        .into_iter()
        .map(|(user, keys)| {
            let user = UserId::parse(user).map_err(|_| malformed())?;
            let CanonicalJsonValue::Object(keys) = keys else { return Err(malformed()) };
            let keys = keys.into_iter().map(|(id, signature)| match signature {
                CanonicalJsonValue::String(signature) => Ok((id, signature)),
                _ => Err(malformed()),
            });
            Ok((user, keys.collect::<Result<_>>()?))
        })
        .collect()
}

/// Whether the owner of `public_key` signed `body`. Everything is base64; what can't be decoded proves nothing.
pub fn is_signed(body: &str, public_key: &str, signature: &str) -> bool {
    let Ok(key) = Ed25519PublicKey::from_base64(public_key) else { return false };
    let Ok(signature) = Ed25519Signature::from_base64(signature) else { return false };
    key.verify(body.as_bytes(), &signature).is_ok()
}

/// The public key with the id `key_id` in the `keys` of a stored body.
pub fn public_key(body: &str, key_id: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Keys {
        keys: BTreeMap<String, String>,
    }
    serde_json::from_str::<Keys>(body).ok()?.keys.remove(key_id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vodozemac::Ed25519Keypair;

    use super::*;

    fn parse(json: &serde_json::Value) -> Result<SignedObject> {
        SignedObject::parse(&json.to_string())
    }

    #[test]
    fn a_signature_covers_everything_but_signatures_and_unsigned() {
        let key = Ed25519Keypair::new();
        let signature = key.sign(br#"{"a":1,"b":"x"}"#).to_base64();
        let object = parse(&json!({
            "b": "x", "a": 1,
            "unsigned": { "device_display_name": "phone" },
            "signatures": { "@a:x": { "ed25519:D": signature } },
        }));
        let object = object.unwrap();
        let public_key = key.public_key().to_base64();
        let user = UserId::parse("@a:x").unwrap();
        let (id, signature) = object.signatures_of(&user).next().unwrap();
        assert_eq!(id, "ed25519:D");
        assert!(is_signed(&object.body(), &public_key, signature));
        assert!(!is_signed(r#"{"a":2,"b":"x"}"#, &public_key, signature));
        assert!(!is_signed(&object.body(), &Ed25519Keypair::new().public_key().to_base64(), signature));
    }

    #[test]
    fn nothing_that_cannot_be_decoded_proves_anything() {
        let key = Ed25519Keypair::new();
        let signature = key.sign(b"{}").to_base64();
        for (public_key, signature) in [("", signature.as_str()), ("!", ""), (&key.public_key().to_base64(), "AAAA")] {
            assert!(!is_signed("{}", public_key, signature));
        }
    }

    #[test]
    fn malformed_signatures_are_refused() {
        for signatures in [json!([]), json!({ "@a:x": [] }), json!({ "@a:x": { "ed25519:D": 1 } }), json!({ "a": {} })]
        {
            assert!(parse(&json!({ "signatures": signatures })).is_err(), "{signatures}");
        }
        assert!(SignedObject::parse("[]").is_err());
        assert!(SignedObject::parse(r#"{"a":0.5}"#).is_err());
        assert!(SignedObject::parse(r#"{"a":1,"a":1}"#).is_err());
    }
}
