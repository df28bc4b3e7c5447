//! API keys for services: a file of hashes, changed by the command and read by the running server.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use tidings_hub::Timestamp;

use super::Secret;
use super::grants::{BadTemplate, GrantTemplates, Grants, Template};
use super::identity::Identity;
use super::secret::replace_private;
use super::verified::{TokenHash, hash};
use crate::log_limit::LogLimit;

/// What every API key begins with.
pub(super) const PREFIX: &str = "tk_";

/// The longest name of a key, in bytes.
const LONGEST_NAME: usize = 128;

/// A running server looks at the file at most so often for keys that it knows: a revoked key is refused after that.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why the API keys can't be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The file system said no.
    #[error("can't {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is not what this program wrote.
    #[error("{} is damaged: {why}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A grant with `{sub}`.
    #[error("the grant {0:?} needs a user, and a key has none")]
    NeedsUser(String),
    /// A key that may do nothing.
    #[error("a key needs a grant: --publish, --subscribe or --admin")]
    NoGrant,
    /// The name can't be used.
    #[error("a key's name has up to {LONGEST_NAME} bytes and no control characters")]
    BadName,
    /// The name is taken.
    #[error("there is a key of the name {0:?} already; revoke it first")]
    NameTaken(String),
    /// There is no such key.
    #[error("there is no key of the id or name {0:?}")]
    NotFound(String),
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// What is known of a key: everything but the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// The part of the key that may be shown: `tk_` and 8 hexadecimal digits.
    pub id: String,
    /// What people call it.
    pub name: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// What it may.
    pub grants: GrantTemplates,
    /// Whether the administrative calls may be used.
    pub admin: bool,
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Milliseconds since 1970.
    created: u64,
    /// SHA-256 of the whole key, base64url. A key is 32 random bytes, so that no slow hash is needed.
    sha256: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscribe: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    presence: Vec<String>,
    #[serde(default)]
    admin: bool,
}

/// The file of API keys in a data directory, as the command changes it.
#[derive(Debug, Clone)]
pub struct ApiKeyFile(PathBuf);

impl ApiKeyFile {
    /// The file's name in the data directory.
    pub const FILE: &'static str = "keys.json";

    /// The file of a data directory. It need not be there: then there are no keys.
    pub fn in_directory(dir: &Path) -> ApiKeyFile {
        ApiKeyFile(dir.join(ApiKeyFile::FILE))
    }

    /// Makes a key. What is returned is the key itself, which is kept nowhere and can't be shown again.
    ///
    /// # Errors
    /// When it may do nothing, its name is taken, or the file can't be read or written.
    pub fn create(
        &self,
        name: Option<&str>,
        grants: &GrantTemplates,
        admin: bool,
        now: Timestamp,
    ) -> Result<(ApiKey, Secret), ApiKeyError> {
        if name.is_some_and(|name| {
            name.is_empty() || name.len() > LONGEST_NAME || name.contains(char::is_control)
        }) {
            return Err(ApiKeyError::BadName);
        }
        let mut all = grants.subscribe.iter().chain(&grants.publish).chain(&grants.presence).peekable();
        if all.peek().is_none() && !admin {
            return Err(ApiKeyError::NoGrant);
        }
        if let Some(template) = all.find(|template| template.needs_user()) {
            return Err(ApiKeyError::NeedsUser(template.to_string()));
        }
        let _lock = self.lock()?;
        let mut stored = self.read()?;
        if let Some(name) = name
            && stored.keys.iter().any(|key| key.name.as_deref() == Some(name))
        {
            return Err(ApiKeyError::NameTaken(name.to_owned()));
        }
        let (id, key) = loop {
            let (id, key) = make_key()?;
            if stored.keys.iter().all(|other| other.id != id) {
                break (id, key);
            }
        };
        let texts = |templates: &[Template]| templates.iter().map(Template::to_string).collect();
        stored.keys.push(StoredKey {
            id: id.clone(),
            name: name.map(str::to_owned),
            created: now.0,
            sha256: URL_SAFE_NO_PAD.encode(hash(key.expose())),
            subscribe: texts(&grants.subscribe),
            publish: texts(&grants.publish),
            presence: texts(&grants.presence),
            admin,
        });
        self.write(&stored)?;
        let made = ApiKey { id, name: name.map(str::to_owned), created: now, grants: grants.clone(), admin };
        Ok((made, key))
    }

    /// All keys, in the order they were made.
    ///
    /// # Errors
    /// When the file can't be read.
    pub fn list(&self) -> Result<Vec<ApiKey>, ApiKeyError> {
        self.read()?.keys.iter().map(|key| self.key(key).map(|(_, key)| key)).collect()
    }

    /// Removes a key by its id or name. A running server refuses it within about a second.
    ///
    /// # Errors
    /// When there is no such key, or the file can't be read or written.
    pub fn revoke(&self, id_or_name: &str) -> Result<ApiKey, ApiKeyError> {
        let _lock = self.lock()?;
        let mut stored = self.read()?;
        let named = |key: &StoredKey| key.id == id_or_name || key.name.as_deref() == Some(id_or_name);
        let at = stored.keys.iter().position(named);
        let at = at.ok_or_else(|| ApiKeyError::NotFound(id_or_name.to_owned()))?;
        let (_, key) = self.key(&stored.keys.remove(at))?;
        self.write(&stored)?;
        Ok(key)
    }

    fn io_error(&self, what: &'static str) -> impl FnOnce(io::Error) -> ApiKeyError {
        let path = self.0.clone();
        move |error| ApiKeyError::Io { what, path, error }
    }

    fn damaged(&self, why: impl Into<String>) -> ApiKeyError {
        ApiKeyError::Damaged { path: self.0.clone(), why: why.into() }
    }

    /// Two commands at once must not lose each other's key. The lock is a file of its own: the other one is replaced.
    fn lock(&self) -> Result<File, ApiKeyError> {
        if let Some(dir) = self.0.parent() {
            fs::create_dir_all(dir).map_err(self.io_error("create the directory of"))?;
        }
        let lock =
            File::options().create(true).truncate(false).write(true).open(self.0.with_extension("lock"));
        let lock = lock.map_err(self.io_error("lock"))?;
        lock.lock().map_err(self.io_error("lock"))?;
        Ok(lock)
    }

    fn read(&self) -> Result<Stored, ApiKeyError> {
        let text = match fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Stored { version: 1, keys: Vec::new() });
            }
            Err(error) => return Err(self.io_error("read")(error)),
        };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|error| self.damaged(error.to_string()))?;
        if stored.version != 1 {
            return Err(self.damaged("it was written by a newer version"));
        }
        Ok(stored)
    }

    fn write(&self, stored: &Stored) -> Result<(), ApiKeyError> {
        let mut text = serde_json::to_vec_pretty(stored).map_err(|error| self.damaged(error.to_string()))?;
        text.push(b'\n');
        replace_private(&self.0, &text).map_err(self.io_error("write"))
    }

    fn key(&self, stored: &StoredKey) -> Result<(TokenHash, ApiKey), ApiKeyError> {
        let hash = URL_SAFE_NO_PAD.decode(&stored.sha256).ok().and_then(|hash| hash.try_into().ok());
        let hash = hash.ok_or_else(|| self.damaged(format!("the hash of {} is not one", stored.id)))?;
        let templates = |texts: &[String]| -> Result<Vec<Template>, BadTemplate> {
            texts.iter().map(|text| text.parse()).collect()
        };
        let grants = || -> Result<GrantTemplates, BadTemplate> {
            Ok(GrantTemplates {
                subscribe: templates(&stored.subscribe)?,
                publish: templates(&stored.publish)?,
                presence: templates(&stored.presence)?,
            })
        };
        let grants = grants().map_err(|bad| self.damaged(format!("a grant of {}: {bad}", stored.id)))?;
        let key = ApiKey {
            id: stored.id.clone(),
            name: stored.name.clone(),
            created: Timestamp(stored.created),
            grants,
            admin: stored.admin,
        };
        Ok((hash, key))
    }

    /// What tells whether the file was replaced: a new one has another inode, or else another time or size.
    fn stamp(&self) -> Option<Stamp> {
        let metadata = fs::metadata(&self.0).ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Stamp { inode, length: metadata.len(), modified: metadata.modified().ok() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

/// `tk_<8 hexadecimal digits>_<32 random bytes>`: the first part may be shown and names the key.
fn make_key() -> Result<(String, Secret), ApiKeyError> {
    let mut bytes = [0; 36];
    getrandom::fill(&mut bytes).map_err(|error| ApiKeyError::Random(error.to_string()))?;
    let [a, b, c, d, secret @ ..] = bytes;
    let id = format!("{PREFIX}{:08x}", u32::from_be_bytes([a, b, c, d]));
    let key = Secret::new(format!("{id}_{}", URL_SAFE_NO_PAD.encode(secret)));
    Ok((id, key))
}

/// The keys of a running server.
#[derive(Debug)]
pub(super) struct ApiKeys {
    file: Option<ApiKeyFile>,
    /// The key of the environment, which may do everything.
    configured: Option<(TokenHash, Identity)>,
    /// Added to the grants of each key.
    public: Grants,
    state: RwLock<Loaded>,
    /// When the file was looked at last, in milliseconds since 1970.
    looked: AtomicU64,
    unreadable: LogLimit,
}

#[derive(Debug, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    keys: HashMap<TokenHash, Identity>,
}

impl ApiKeys {
    pub(super) fn open(
        file: Option<ApiKeyFile>,
        configured: Option<&Secret>,
        public: Grants,
    ) -> Result<ApiKeys, ApiKeyError> {
        let everything = || Arc::new(GrantTemplates::everything().resolve(None));
        let configured = configured.map(|key| hash(key.expose()));
        let keys = ApiKeys {
            file,
            configured: configured.map(|hash| (hash, Identity::service(&hash, true, everything()))),
            public,
            state: RwLock::default(),
            looked: AtomicU64::new(0),
            unreadable: LogLimit::new(Duration::from_secs(60)),
        };
        keys.load()?;
        Ok(keys)
    }

    /// Who holds a key. Keys are compared by their hashes only, so that the time it takes tells nothing of them.
    pub(super) fn identify(&self, hash: &TokenHash, now: Timestamp) -> Option<Identity> {
        if let Some(identity) = self.configured(hash) {
            return Some(identity);
        }
        let looked = Timestamp(self.looked.load(Ordering::Relaxed));
        // A clock that was set back is no reason not to look.
        if now < looked || now.since(looked) >= LOOK_AGAIN {
            self.looked.store(now.0, Ordering::Relaxed);
            self.look();
        }
        self.find(hash).or_else(|| {
            // It may have been made this moment.
            self.look();
            self.find(hash)
        })
    }

    /// Who holds the key of the environment, which need not look like one.
    pub(super) fn configured(&self, hash: &TokenHash) -> Option<Identity> {
        self.configured.as_ref().filter(|(mine, _)| mine == hash).map(|(_, identity)| identity.clone())
    }

    fn find(&self, hash: &TokenHash) -> Option<Identity> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).keys.get(hash).cloned()
    }

    /// Keeps the keys that are known when the file can't be read: a slip of the hand must not stop every publisher.
    fn look(&self) {
        if let Err(error) = self.load()
            && let Some(suppressed) = self.unreadable.pass()
        {
            tracing::error!(suppressed, "the API keys stay as they were: {error}");
        }
    }

    fn load(&self) -> Result<(), ApiKeyError> {
        let Some(file) = &self.file else { return Ok(()) };
        // Before reading: if it is replaced in between it is read again, not missed.
        let stamp = file.stamp();
        if stamp == self.state.read().unwrap_or_else(PoisonError::into_inner).stamp {
            return Ok(());
        }
        let mut keys = HashMap::new();
        for stored in &file.read()?.keys {
            let (hash, key) = file.key(stored)?;
            let grants = key.grants.resolve(None).and(self.public.clone());
            keys.insert(hash, Identity::service(&hash, key.admin, Arc::new(grants)));
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Loaded { stamp, keys };
        Ok(())
    }
}
