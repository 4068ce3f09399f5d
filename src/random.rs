//! Random numbers, as a parameter: from the operating system, or from a seed in tests.

use parking_lot::Mutex;
use rand::{Rng, SeedableRng, TryRng, rngs::StdRng};

/// The alphabet of generated ids and tokens: safe in URLs, file names and headers.
const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A cryptographically secure generator, seeded by the operating system.
#[derive(Debug)]
pub struct Random(Mutex<StdRng>);

impl Random {
    pub fn from_system() -> Self {
        let mut seed = [0; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut seed).expect("the operating system gives random numbers");
        Self(Mutex::new(StdRng::from_seed(seed)))
    }

    pub fn from_seed(seed: u64) -> Self {
        Self(Mutex::new(StdRng::seed_from_u64(seed)))
    }

    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.lock().fill_bytes(&mut bytes);
        bytes
    }

    /// `length` letters and digits, each with almost six bits of chance.
    pub fn text(&self, length: usize) -> String {
        let mut rng = self.0.lock();
        let mut text = String::with_capacity(length);
        while text.len() < length {
            // Six bits of each byte; the two values beyond the alphabet are thrown again, so that all are as likely.
            let index = (rng.next_u32() >> 26) as usize;
            if let Some(&letter) = ALPHABET.get(index) {
                text.push(char::from(letter));
            }
        }
        text
    }
}
