//! The filters that clients keep with us, to name them in later requests.
//!
//! <https://spec.matrix.org/v1.19/client-server-api/#filtering>

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, LazyLock},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    UserId,
    api::{
        client::filter::{EventFormat, FilterDefinition},
        error::ErrorKind,
    },
};

use serde::Deserialize;
use serde_json::json;

use super::tables;
use crate::{
    Server,
    error::{Error, Result},
    metrics::CacheUse,
    store::{Group, Json, Memos, Snapshot, Store},
};

/// A filter, with what ruma's type lacks.
#[derive(Clone, Debug)]
pub struct Filter {
    pub definition: Arc<FilterDefinition>,
    /// The fields of profiles of which the client wants to hear.
    pub profile_fields: Vec<String>,
    /// Tells it from others.
    pub hash: u64,
    /// Of its JSON.
    bytes: usize,
}

/// Where a filter has these while that is a proposal, MSC4429.
const PROFILE_FIELDS: &str = "org.matrix.msc4429.profile_fields";

/// What a request without a filter has. One is enough for all who wait.
impl Default for Filter {
    fn default() -> Self {
        static EVERYTHING: LazyLock<Arc<FilterDefinition>> = LazyLock::new(Arc::default);
        Self { definition: Arc::clone(&EVERYTHING), profile_fields: Vec::new(), hash: 0, bytes: 0 }
    }
}

impl Filter {
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct More {
            #[serde(default, rename = "org.matrix.msc4429.profile_fields")]
            profile_fields: ProfileFields,
        }
        #[derive(Default, Deserialize)]
        struct ProfileFields {
            #[serde(default)]
            ids: Vec<String>,
        }
        let More { profile_fields } = serde_json::from_slice(json)?;
        let mut hasher = DefaultHasher::new();
        json.hash(&mut hasher);
        let definition = Arc::new(serde_json::from_slice(json)?);
        Ok(Self { definition, profile_fields: profile_fields.ids, hash: hasher.finish(), bytes: json.len() })
    }

    pub fn to_json(&self) -> Json {
        if self.profile_fields.is_empty() {
            return Json::of(&*self.definition);
        }
        let mut json = json!(*self.definition);
        json[PROFILE_FIELDS] = json!({ "ids": self.profile_fields });
        Json::of(&json)
    }
}

/// The most bytes that a filter may have. Those of clients in use have a few hundred.
const MAX_BYTES: usize = 64 << 10;

/// A filter takes so many times the bytes of its JSON in memory, at most, about.
const PARSED_SIZE: usize = 16;

/// How many filters a user may keep. Clients make one or two, and equal ones are kept once.
const MAX_FILTERS: usize = 1_000;

/// Keeps a filter and answers its id: always the same one for the same filter.
///
/// Errors: `M_TOO_LARGE`, `M_BAD_JSON`, and `M_FORBIDDEN` for whoever keeps too many.
pub async fn keep(server: &Server, user: &UserId, filter: &Filter) -> Result<String> {
    check(filter)?;
    let filter = filter.to_json();
    if filter.0.get().len() > MAX_BYTES {
        return Err(Error::too_large("The filter is too large"));
    }
    let id = URL_SAFE_NO_PAD.encode(&blake3::hash(filter.0.get().as_bytes()).as_bytes()[..12]);
    if server.store.snapshot().contains::<tables::Filters>(&(user, &id))? {
        return Ok(id);
    }
    let (user, kept_as) = (user.to_owned(), id.clone());
    let keep = move |tx: &mut crate::store::Transaction<'_>| {
        if tx.before().list::<tables::Filters>(&&*user).take(MAX_FILTERS).count() == MAX_FILTERS {
            return Err(Error::forbidden("You have too many filters"));
        }
        tx.put::<tables::Filters>(&(&user, &kept_as), &filter);
        Ok(())
    };
    server.store.commit(keep).await?;
    Ok(id)
}

/// The filter that `user` keeps as `id`; `M_NOT_FOUND` if there is none.
pub fn get(snapshot: &Snapshot<'_>, user: &UserId, id: &str) -> Result<Filter> {
    let kept = snapshot.get::<tables::Filters>(&(user, id))?.ok_or_else(|| Error::not_found("Unknown filter"))?;
    Filter::read(kept.0.get().as_bytes()).map_err(Error::internal)
}

/// The filters that requests named, in the form in which they are needed.
pub struct Filters(Memos<tables::Filters, Filter>);

impl Filters {
    /// `memory_bytes`: for all that is kept.
    pub fn new(memory_bytes: u64) -> Self {
        Self(Memos::new(memory_bytes, |filter| size_of::<FilterDefinition>() + PARSED_SIZE * filter.bytes))
    }

    pub fn cache_use(&self) -> CacheUse {
        self.0.cache_use()
    }

    /// The filter that a request names: by an id, or by JSON in its place, which an id never begins like.
    ///
    /// Errors: `M_INVALID_PARAM` for what is neither, `M_BAD_JSON` for filters that could not be kept either.
    pub fn load(&self, store: &Store, user: &UserId, filter: &str) -> Result<Filter> {
        if filter.starts_with('{') {
            let wrong = |e| Error::invalid_param(format!("The filter is wrong: {e}"));
            let inline = Filter::read(filter.as_bytes()).map_err(wrong)?;
            check(&inline)?;
            return Ok(inline);
        }
        let kept = self.0.now(store, &(user, filter), Group::of(user), |snapshot| get(snapshot, user, filter));
        kept.map_err(|error| match error {
            Error::Refused { kind: ErrorKind::NotFound, .. } => Error::invalid_param("Unknown filter"),
            other => other,
        })
    }
}

/// Checks what ruma's types leave open; `M_BAD_JSON`.
pub fn check(filter: &Filter) -> Result<()> {
    match filter.definition.event_format {
        EventFormat::Client | EventFormat::Federation => Ok(()),
        _ => Err(Error::bad_json("`event_format` is neither `client` nor `federation`")),
    }
}
