//! What to do about a key that is not ours: keys that Conduit had and Chappe has not, and slips of the pen.

/// Keys of Conduit and its relatives, and what to do instead. A name may end in `*`.
const RETIRED: &[(&str, &str)] = &[
    ("database_backend", "remove it; the database is always RocksDB"),
    ("db_cache_capacity_mb", "set `memory_budget`, which governs all caches together"),
    ("conduit_cache_capacity_modifier", "set `memory_budget`, which governs all caches together"),
    ("cache_capacity_modifier", "set `memory_budget`, which governs all caches together"),
    ("pdu_cache_capacity", "set `memory_budget`, which governs all caches together"),
    ("rocksdb_*", "remove it; `memory_budget` is the only setting of the database"),
    ("sqlite_*", "remove it; the database is always RocksDB"),
    ("cleanup_second_interval", "remove it; the database needs no cleaning"),
    ("max_concurrent_requests", "remove it; requests are limited per user by [global.rate_limits]"),
    ("allow_jaeger", "remove it; use `log` and `log_format`"),
    ("tracing_flame", "remove it; use `log` and `log_format`"),
    ("log_level", "set `log`"),
    ("allow_check_for_updates", "remove it; Chappe never calls home"),
    ("allow_announcements_check", "remove it; Chappe never calls home"),
    ("enable_lightning_bolt", "remove it; display names are left as users choose them"),
    ("new_user_displayname_suffix", "remove it; display names are left as users choose them"),
    ("allow_encryption", "remove it; encryption is always possible, and chosen per room"),
    ("allow_unstable_room_versions", "remove it; clients that ask for the few that there are get them"),
    ("allow_guest_registration", "set `allow_guest_access`"),
    ("emergency_password", "remove it; `chappe user create --admin` makes another administrator"),
    ("openid_token_ttl", "remove it; OpenID tokens are good for an hour"),
    ("jwt_secret", "remove it; log-in by JWT is not supported"),
    ("presence", "set `allow_presence`"),
    ("allow_local_presence", "set `allow_presence`"),
    ("well_known_client", "set `client` in [global.well_known]"),
    ("well_known_server", "set `server` in [global.well_known]"),
    ("max_upload_size", "set it in [global.media]"),
    ("allow_legacy_media", "set it in [global.media]"),
    ("rc_*", "use [global.rate_limits]"),
    ("max_fetch_prev_events", "remove it; how much is fetched is bounded"),
    ("forbidden_remote_*", "set `allowed_servers` in [global.federation]"),
    ("proxy", "remove it; requests to other servers go out directly"),
    ("url_preview_*", "set `allowed_domains` in [global.url_previews]"),
    ("turn_*", "set `uris`, `secret`, `username`, `password` or `ttl` in [global.turn]"),
];

/// The way out for `key` (with its section), whose last part `name` is not among the `known` keys of that section.
pub(super) fn for_unknown(key: &str, name: &str, known: &[&str]) -> String {
    if let Some((_, way_out)) = RETIRED.iter().find(|(pattern, _)| is_like(pattern, key)) {
        return (*way_out).to_owned();
    }
    let nearest = known.iter().max_by(|a, b| likeness(a, name).total_cmp(&likeness(b, name)));
    match nearest.filter(|candidate| likeness(candidate, name) > 0.8) {
        Some(candidate) => format!("did you mean `{candidate}`?"),
        None => "remove it; the conduit.toml that comes with Chappe lists every key".to_owned(),
    }
}

fn is_like(pattern: &str, key: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == key, |start| key.starts_with(start))
}

/// 0 (nothing in common) to 1 (the same).
fn likeness(a: &str, b: &str) -> f64 {
    strsim::jaro_winkler(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["server_name", "registration_token", "memory_budget"];

    #[test]
    fn retired_keys_say_what_to_do_instead() {
        assert!(for_unknown("db_cache_capacity_mb", "db_cache_capacity_mb", KNOWN).contains("memory_budget"));
        assert!(for_unknown("rocksdb_max_open_files", "rocksdb_max_open_files", KNOWN).contains("memory_budget"));
        assert!(for_unknown("turn_uris", "turn_uris", KNOWN).contains("[global.turn]"));
    }

    #[test]
    fn near_misses_are_recognized_and_far_ones_are_not() {
        assert_eq!(for_unknown("sever_name", "sever_name", KNOWN), "did you mean `server_name`?");
        assert_eq!(for_unknown("registration_tokn", "registration_tokn", KNOWN), "did you mean `registration_token`?");
        assert!(for_unknown("quux", "quux", KNOWN).starts_with("remove it"));
    }
}
