//! What must never be seen: tokens, keys and secrets, and the two that a server makes for itself.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// A token, key or password. It has no `Display`, and its `Debug` tells nothing.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Hides a text.
    pub fn new(text: impl Into<Arc<str>>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The secrets that a server makes for itself on its first start, in its data directory.
///
/// They belong to the data: with another cursor key every last event id that a client holds is `unknown`.
#[derive(Debug, Clone)]
pub struct Secrets {
    /// Signs tokens (HS256) where no key is configured.
    pub jwt: Secret,
    /// The 16 bytes of the hub's key for cursors.
    pub cursor: CursorSecret,
}

/// The bytes of the hub's key for cursors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CursorSecret(pub [u8; 16]);

impl fmt::Debug for CursorSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CursorSecret(hidden)")
    }
}

/// Why the server's secrets can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
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
    /// The file is not what this server wrote.
    #[error(
        "{} is damaged ({why}); put it back from a backup, or remove it: then all tokens and last event ids become invalid",
        path.display()
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The system gave no random bytes.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
}

/// The file's content.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    jwt: String,
    cursor: String,
}

impl Secrets {
    /// The file's name in the data directory.
    pub const FILE: &'static str = "secrets.json";

    /// Secrets that nobody keeps, for a server without a data directory.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn random() -> Result<Secrets, SecretsError> {
        let jwt: [u8; 32] = random()?;
        Ok(Secrets { jwt: Secret::new(URL_SAFE_NO_PAD.encode(jwt)), cursor: CursorSecret(random()?) })
    }

    /// The secrets in a data directory.
    ///
    /// # Errors
    /// When there are none, or they can't be read.
    pub fn load(dir: &Path) -> Result<Secrets, SecretsError> {
        let path = dir.join(Secrets::FILE);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        warn_if_open_to_others(&path);
        let damaged = |why| SecretsError::Damaged { path: path.clone(), why };
        let stored: Stored =
            serde_json::from_slice(&text).map_err(|_| damaged("it is not the JSON it was"))?;
        if stored.version != 1 {
            return Err(damaged("it was written by a newer version"));
        }
        if stored.jwt.len() < 32 {
            return Err(damaged("its secret for tokens is too short"));
        }
        let cursor = URL_SAFE_NO_PAD.decode(&stored.cursor).ok().and_then(|key| key.try_into().ok());
        let cursor = cursor.ok_or_else(|| damaged("its key for cursors is not 16 bytes"))?;
        Ok(Secrets { jwt: Secret::new(stored.jwt), cursor: CursorSecret(cursor) })
    }

    /// The secrets in a data directory, made if there are none: readable by the owner only, complete or not there,
    /// and the same for two that start at once.
    ///
    /// # Errors
    /// When they can't be read or written.
    pub fn load_or_create(dir: &Path) -> Result<Secrets, SecretsError> {
        let path = dir.join(Secrets::FILE);
        if !path.exists() {
            fs::create_dir_all(dir).map_err(io_error("create", dir))?;
            let made = Secrets::random()?;
            create_private(&path, &made.to_json()).map_err(io_error("write", &path))?;
        }
        Secrets::load(dir)
    }
}

impl Secrets {
    /// The same with another key for cursors, which is kept in the data directory from now on: of nodes that are one hub
    /// all have that of the first.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn with_cursor(self, dir: &Path, cursor: [u8; 16]) -> Result<Secrets, SecretsError> {
        if self.cursor.0 == cursor {
            return Ok(self);
        }
        let secrets = Secrets { cursor: CursorSecret(cursor), ..self };
        let path = dir.join(Secrets::FILE);
        replace_private(&path, &secrets.to_json()).map_err(io_error("write", &path))?;
        Ok(secrets)
    }

    fn to_json(&self) -> Vec<u8> {
        let jwt = self.jwt.expose().to_owned();
        let stored = Stored { version: 1, jwt, cursor: URL_SAFE_NO_PAD.encode(self.cursor.0) };
        serde_json::to_vec_pretty(&stored).unwrap_or_default()
    }
}

fn random<const N: usize>() -> Result<[u8; N], SecretsError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretsError::Random(error.to_string()))?;
    Ok(bytes)
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretsError {
    let path = path.to_owned();
    move |error| SecretsError::Io { what, path, error }
}

/// Writes a file that only its owner can read, at once and durably, if there is none: a link fails where a rename
/// would replace what another process has just made.
fn create_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = write_private_temporary(path, text)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_directory(path),
    }
}

/// Writes a file that only its owner can read, at once and durably, over the one that is there.
pub(super) fn replace_private(path: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = write_private_temporary(path, text)?;
    if let Err(error) = fs::rename(&temporary, path) {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    sync_directory(path)
}

fn write_private_temporary(path: &Path, text: &[u8]) -> io::Result<PathBuf> {
    let suffix: [u8; 8] = random().map_err(|error| io::Error::other(error.to_string()))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}", u64::from_ne_bytes(suffix)));
    let temporary = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    give_to_owner_of_directory(path, &file);
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

/// An administrator's command (`sudo tidings key create`) must not leave a file that the server can't read. Nobody
/// else can give a file away, nor needs to.
fn give_to_owner_of_directory(path: &Path, file: &File) {
    #[cfg(unix)]
    if let Some(Ok(directory)) = path.parent().map(fs::metadata) {
        use std::os::unix::fs::{MetadataExt, fchown};
        let _ = fchown(file, Some(directory.uid()), Some(directory.gid()));
    }
}

/// A new name is only durable once its directory is.
fn sync_directory(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Not refused: a mounted secret in a container often has a group.
fn warn_if_open_to_others(path: &Path) {
    #[cfg(unix)]
    if let Ok(metadata) = fs::metadata(path) {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions());
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "other users of this machine may read it; chmod 600 ends that");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_made_once_and_only_for_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("data");
        let first = Secrets::load_or_create(&inner).unwrap();
        let again = Secrets::load_or_create(&inner).unwrap();
        assert_eq!(first.jwt, again.jwt);
        assert_eq!(first.cursor, again.cursor);
        assert_eq!(Secrets::load(&inner).unwrap().jwt, first.jwt);
        assert!(first.jwt.expose().len() >= 43);
        assert_ne!(first.jwt, Secrets::random().unwrap().jwt);
        let files: Vec<_> = fs::read_dir(&inner).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(files, [Secrets::FILE], "nothing temporary is left");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(inner.join(Secrets::FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let shown = format!("{first:?}");
        assert!(!shown.contains(first.jwt.expose()), "{shown}");
    }

    #[test]
    fn many_that_start_at_once_get_the_same_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let made: Vec<Secret> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Secrets::load_or_create(dir.path()).unwrap().jwt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn damaged_secrets_are_refused_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(Secrets::FILE);
        for text in [
            "",
            "{}",
            r#"{"version":2,"jwt":"0123456789012345678901234567890123456789","cursor":"AAAAAAAAAAAAAAAAAAAAAA"}"#,
            r#"{"version":1,"jwt":"short","cursor":"AAAAAAAAAAAAAAAAAAAAAA"}"#,
            r#"{"version":1,"jwt":"0123456789012345678901234567890123456789","cursor":"AAAA"}"#,
        ] {
            fs::write(&path, text).unwrap();
            let error = Secrets::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, SecretsError::Damaged { .. }), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert!(matches!(Secrets::load(&dir.path().join("none")), Err(SecretsError::Io { .. })));
    }
}
