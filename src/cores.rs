//! How many cores the server may use.

use std::{sync::LazyLock, thread};

/// At least 1. Looked up once: in a container that takes longer than to check a signature.
pub fn cores() -> usize {
    static CORES: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *CORES
}
