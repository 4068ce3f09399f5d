//! Signing keys with which somebody else than their owner can sign, too: nothing that is signed by one counts, whoever
//! publishes it. Known by value, because a public key does not show what its private key was made of.

use std::collections::HashSet;

use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};

/// Public keys whose private keys everybody has, in unpadded Base64.
const PUBLISHED: [&str; 13] = [
    // CVE-2026-24044: a tool that set up servers took it from a random generator with the seed 0.
    "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og",
    // The key of the examples: https://spec.matrix.org/v1.19/appendices/#cryptographic-test-vectors
    "XGX0JRS2Af3be3knz2fBiRbApjm2Dh61gXDJA8kcJNI",
    // Private keys of 32 equal bytes, 0, 1, 42 and 255: a buffer that nobody filled, or a test.
    "O2onvM62pC1io6jQKm8Nc2UyFXcd4kOmOsBIoYtZ2ik",
    "iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w",
    "GX9rI+FshTLGq8g4+s1ep4m+DHaykgM0A5v6iz02jWE",
    "dqFZIESm5PURJlvKc6YE2QsFKdHfYCvjChmpJXZg0fU",
    // Private keys that count from 0, and from 1.
    "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg",
    "ebVWLo/mVPlAeLES6KmLp5AfhTrmlb7X4OORC60ElmQ",
    // https://www.rfc-editor.org/rfc/rfc8032#section-7.1
    "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo",
    "PUAXw+hDiVqStwqnTRt+vJyYLM8uxJaMwM1V8Sr0Zgw",
    "/FHNjmIYoaONpH7QAjDwWAgW7RO6MwOsXeuRFUiQgCU",
    "J4EX/BRMcjQPZ9DyMW6Dhs7/vyskKMnFH+98WX8dQm4",
    "7Bcrk61eVjv0kyxw4SRQNMNUZ+8u/U1k6/gZaDRn4r8",
];

/// The points of order 1, 2, 4 and 8 as they can be written, without the bit for the sign: with one of these as public
/// key there are signatures that hold for any text, without a private key.
const SMALL_ORDER: [[u8; 32]; 7] = [
    filled(0, 0, 0),
    filled(1, 0, 0),
    [
        38, 232, 149, 143, 194, 178, 39, 176, 69, 195, 244, 137, 242, 239, 152, 240, 213, 223, 172, 5, 211, 198, 51,
        57, 177, 56, 2, 136, 109, 83, 252, 5,
    ],
    [
        199, 23, 106, 112, 61, 77, 216, 79, 186, 60, 11, 118, 13, 16, 103, 15, 42, 32, 83, 250, 44, 57, 204, 198, 78,
        199, 253, 119, 146, 172, 3, 122,
    ],
    filled(236, 255, 127),
    filled(237, 255, 127), // 0 and 1 once more, without reduction
    filled(238, 255, 127),
];

const fn filled(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut bytes = [middle; 32];
    bytes[0] = first;
    bytes[31] = last;
    bytes
}

/// Whether somebody else than the owner of this Ed25519 public key can sign with it.
pub fn is_weak(key: &[u8]) -> bool {
    let Ok(mut point) = <[u8; 32]>::try_from(key) else { return true };
    if published().contains(&point) {
        return true;
    }
    point[31] &= 0x7f;
    SMALL_ORDER.contains(&point)
}

fn published() -> &'static HashSet<[u8; 32]> {
    static KEYS: std::sync::LazyLock<HashSet<[u8; 32]>> = std::sync::LazyLock::new(|| {
        let decode = |text: &&str| STANDARD_NO_PAD.decode(text).ok()?.try_into().ok();
        PUBLISHED.iter().filter_map(decode).collect()
    });
    &KEYS
}

#[cfg(test)]
mod tests {
    use ruma::signatures::Ed25519KeyPair;

    use super::*;

    fn public_key_of(private: [u8; 32]) -> [u8; 32] {
        let mut document = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
        document.extend(private);
        let pair = Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap();
        pair.public_key()
    }

    #[test]
    fn every_entry_is_a_key_and_the_private_keys_that_give_them_are_known() {
        assert_eq!(published().len(), PUBLISHED.len());
        let mut counting = [0_u8; 32];
        (0..).zip(&mut counting).for_each(|(number, byte)| *byte = number);
        for private in [[0; 32], [1; 32], [42; 32], [255; 32], counting, counting.map(|byte| byte + 1)] {
            assert!(is_weak(&public_key_of(private)), "{private:?}");
        }
    }

    #[test]
    fn points_of_small_order_are_weak_with_either_sign_and_others_are_not() {
        for point in SMALL_ORDER {
            let mut negative = point;
            negative[31] |= 0x80;
            assert!(is_weak(&point) && is_weak(&negative), "{point:?}");
        }
        assert!(is_weak(&[]) && is_weak(&[3; 31]));
        for _ in 0..20 {
            let pair = Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).unwrap();
            assert!(!is_weak(&pair.public_key()));
        }
    }
}
