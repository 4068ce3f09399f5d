//! How our own caches are used; the database's cache is told of by [`super::database`].

use std::hash::{BuildHasher, Hash};

use quick_cache::{Lifecycle, Weighter, sync::Cache};

use super::page::Page;
use crate::Server;

/// How a cache was used since the start.
#[derive(Clone, Copy, Debug)]
pub struct CacheUse {
    pub hits: u64,
    pub misses: u64,
    /// How many entries it has.
    pub entries: u64,
}

impl CacheUse {
    pub fn of<K, V, W, B, L>(cache: &Cache<K, V, W, B, L>) -> Self
    where
        K: Eq + Hash,
        V: Clone,
        W: Weighter<K, V> + Clone,
        B: BuildHasher + Clone,
        L: Lifecycle<K, V> + Clone,
    {
        Self { hits: cache.hits(), misses: cache.misses(), entries: cache.len() as u64 }
    }
}

pub fn tell(server: &Server, page: &mut Page) {
    let [tokens, devices, accounts] = server.logins.cache_uses();
    let uses = [
        tokens,
        devices,
        accounts,
        ("verify_keys", server.verify_keys.cache_use()),
        ("parsed_events", server.rooms.use_of_pdus()),
        ("state_nodes", server.rooms.state_nodes.cache_use()),
        ("acl_verdicts", server.rooms.use_of_acl_verdicts()),
        ("local_members", server.local_members.cache_use()),
        ("user_rooms", server.user_rooms.cache_use()),
        ("filters", server.filters.cache_use()),
        ("empty_inboxes", server.empty_inboxes.cache_use()),
        ("one_time_key_counts", server.left_keys.use_of_counts()),
        ("fallback_keys", server.left_keys.use_of_fallback()),
        ("told_members", server.told_members.cache_use()),
        ("room_activity", server.activities.cache_use()),
        ("room_facts", server.room_facts.cache_use()),
        ("sliding_connections", server.sliding_told.cache_use()),
        ("unread_counts", server.unread.use_of_counts()),
        ("push_subjects", server.unread.use_of_subjects()),
        ("push_rules", server.unread.use_of_rules()),
        ("well_known_servers", server.federation.use_of_well_known()),
    ];
    let help = "Look-ups that found something in memory, though it may have been too old";
    page.labeled_counter("chappe_cache_hits", help, &["cache"], uses.map(|(name, used)| ([name], used.hits)));
    let help = "Look-ups that found nothing in memory";
    page.labeled_counter("chappe_cache_misses", help, &["cache"], uses.map(|(name, used)| ([name], used.misses)));
    page.labeled_gauge(
        "chappe_cache_entries",
        "What is kept in memory",
        &["cache"],
        uses.map(|(name, used)| ([name], used.entries)),
    );
}
