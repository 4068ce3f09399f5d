//! What this process uses, by the names that all exporters have for it.

use std::{fs, io};

use rustix::param::{clock_ticks_per_second, page_size};
use tracing::warn;

use super::page::Page;

/// Source: `/proc/self`.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    cpu_seconds: f64,
    resident_bytes: u64,
    open_files: u64,
}

impl Process {
    /// What can't be read is left out.
    pub fn tell(started_ms: u64, page: &mut Page) {
        page.gauge("process_start_time_seconds", "When this process started", started_ms as f64 / 1_000.0);
        match Self::read() {
            Ok(process) => {
                page.counter("process_cpu_seconds", "CPU time of user and system", process.cpu_seconds);
                page.gauge("process_resident_memory_bytes", "Memory in use, of all kinds", process.resident_bytes);
                page.gauge("process_open_fds", "Open files and sockets", process.open_files);
            }
            Err(error) => warn!(%error, "the figures of this process can't be read"),
        }
    }

    fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/self/stat")?;
        let (cpu_ticks, resident_pages) = fields(&stat).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self {
            cpu_seconds: cpu_ticks as f64 / clock_ticks_per_second() as f64,
            resident_bytes: resident_pages.saturating_mul(page_size() as u64),
            open_files: fs::read_dir("/proc/self/fd")?.count() as u64,
        })
    }
}

/// CPU time in ticks, and resident memory in pages: fields 14, 15 and 24 of proc(5). The second one is a name that can
/// hold anything; it ends with the last parenthesis.
fn fields(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().ok());
    let (user, system) = (fields.next()??, fields.next()??);
    let resident = fields.nth(8)??;
    Some((user + system, resident))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_proc_are_found_whatever_the_process_is_called() {
        let stat =
            "7 (a) b (c)) S 1 1 1 0 -1 4194560 900 0 2 0 150 30 0 0 20 0 8 0 5000 300000000 4321 18446744073709551615";
        assert_eq!(fields(stat), Some((180, 4321)));
        assert_eq!(fields("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_memory_and_files() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.open_files > 2, "{process:?}");
    }
}
