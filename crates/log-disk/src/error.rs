//! Why a log on disk can't be opened, and what went wrong inside.

use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;
use tidings_hub::log::{AppendError, ReadError};
use tidings_wire::Sequence;

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It can't be made, read or written.
    #[error("the data directory {} can't be used: {error}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another process has it.
    #[error(
        "the data directory {} is in use by another process; stop that one, or choose another with --data-dir",
        path.display()
    )]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// The file is of another program.
    #[error("{} is no log of Tidings; move it away, or choose another directory with --data-dir", path.display())]
    NotALog {
        /// Which file.
        path: PathBuf,
    },
    /// A later version of Tidings made it.
    #[error(
        "{} has format {found}, this version knows formats up to {known}; use a newer version of Tidings",
        path.display()
    )]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that this version knows.
        known: i64,
    },
    /// What is in the file is not what was written.
    #[error("{} is damaged: {what}; restore a backup, or move it away to begin anew", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The store failed for another reason.
    #[error("{} can't be opened: {error}", path.display())]
    Store {
        /// Which file.
        path: PathBuf,
        /// What SQLite said.
        error: rusqlite::Error,
    },
}

impl OpenError {
    pub(crate) fn is_full(&self) -> bool {
        match self {
            OpenError::Directory { error, .. } => error.kind() == io::ErrorKind::StorageFull,
            OpenError::Store { error, .. } => error.sqlite_error_code() == Some(ErrorCode::DiskFull),
            _ => false,
        }
    }
}

/// What can go wrong while the store is used.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// What was read is not what was written.
    Damaged {
        at: Sequence,
        what: String,
    },
    Sqlite(rusqlite::Error),
}

pub(crate) type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    pub(crate) fn damaged(at: Sequence, what: impl Into<String>) -> StoreError {
        StoreError::Damaged { at, what: what.into() }
    }

    pub(crate) fn is_full(&self) -> bool {
        matches!(self, StoreError::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }

    /// Whether the file's pages, and not only what is in them, are wrong.
    fn is_corrupt(error: &rusqlite::Error) -> bool {
        matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            || matches!(
                error,
                rusqlite::Error::InvalidColumnType(..)
                    | rusqlite::Error::FromSqlConversionFailure(..)
                    | rusqlite::Error::IntegralValueOutOfRange(..)
                    | rusqlite::Error::Utf8Error(..)
            )
    }

    pub(crate) fn opening(self, path: PathBuf) -> OpenError {
        match self {
            StoreError::Damaged { what, .. } => OpenError::Damaged { path, what },
            StoreError::Sqlite(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                OpenError::NotALog { path }
            }
            StoreError::Sqlite(error) if StoreError::is_corrupt(&error) => {
                OpenError::Damaged { path, what: error.to_string() }
            }
            StoreError::Sqlite(error) => OpenError::Store { path, error },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError::Sqlite(error)
    }
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> ReadError {
        match error {
            StoreError::Damaged { at, what } => ReadError::Damaged { at, what },
            StoreError::Sqlite(error) if StoreError::is_corrupt(&error) => {
                ReadError::Damaged { at: Sequence::START, what: error.to_string() }
            }
            StoreError::Sqlite(error) => ReadError::Failed(error.to_string()),
        }
    }
}

impl From<StoreError> for AppendError {
    fn from(error: StoreError) -> AppendError {
        match error {
            error if error.is_full() => AppendError::Full,
            StoreError::Damaged { at, what } => {
                AppendError::NotStored(format!("the record {} is damaged: {what}", at.0))
            }
            StoreError::Sqlite(error) => AppendError::NotStored(error.to_string()),
        }
    }
}
