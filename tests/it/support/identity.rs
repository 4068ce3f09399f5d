use ruma::CanonicalJsonValue;
use serde_json::{Value, json};
use vodozemac::{Curve25519PublicKey, Curve25519SecretKey, Ed25519Keypair};

use super::User;

/// A key that signs JSON, of a device or for cross-signing.
pub struct Signer {
    key: Ed25519Keypair,
    /// Of a device; a cross-signing key is named by itself.
    name: String,
}

impl Signer {
    pub fn of_device(user: &User) -> Self {
        Self { key: Ed25519Keypair::new(), name: user.device_id.clone() }
    }

    pub fn cross_signing() -> Self {
        let key = Ed25519Keypair::new();
        let name = key.public_key().to_base64();
        Self { key, name }
    }

    pub fn public_key(&self) -> String {
        self.key.public_key().to_base64()
    }

    pub fn key_id(&self) -> String {
        format!("ed25519:{}", self.name)
    }

    /// Adds a signature of `user` to an object.
    pub fn sign(&self, user: &User, object: &mut Value) {
        let mut signed = object.clone();
        let fields = signed.as_object_mut().unwrap();
        fields.remove("signatures");
        fields.remove("unsigned");
        let canonical = CanonicalJsonValue::try_from(signed).unwrap().to_string();
        let signature = self.key.sign(canonical.as_bytes()).to_base64();
        object["signatures"][&user.id][self.key_id()] = signature.into();
    }

    /// The device keys of `user`, signed by this key.
    pub fn device_keys(&self, user: &User) -> Value {
        let mut keys = json!({
            "user_id": user.id,
            "device_id": user.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                self.key_id(): self.public_key(),
                format!("curve25519:{}", user.device_id): curve25519_key(),
            },
        });
        self.sign(user, &mut keys);
        keys
    }

    /// A one-time key, signed by this key.
    pub fn one_time_key(&self, user: &User) -> Value {
        let mut key = json!({ "key": curve25519_key() });
        self.sign(user, &mut key);
        key
    }

    /// A cross-signing key of `user`, this one, that nobody signed.
    pub fn as_cross_signing_key(&self, user: &User, usage: &str) -> Value {
        json!({ "user_id": user.id, "usage": [usage], "keys": { self.key_id(): self.public_key() } })
    }
}

pub fn curve25519_key() -> String {
    Curve25519PublicKey::from(&Curve25519SecretKey::new()).to_base64()
}
