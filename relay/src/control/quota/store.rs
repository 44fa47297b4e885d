//! The file that keeps account: TOML, so that whoever has to can read and correct it.

use std::fs::{self, File};
use std::future::Future;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;

use serde::{Deserialize, Serialize};

use super::book::Book;

/// Of the file's form.
const VERSION: u8 = 1;

/// The whole file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    superpeerd_quota: u8,
    book: Book,
}

/// A file, and with which calls it is written.
#[derive(Clone)]
pub(super) struct Store {
    pub(super) path: PathBuf,
    /// Through tokio-uring, which panics outside of its own runtime; else on a thread of tokio's.
    pub(super) uses_io_uring: bool,
}

/// What was in it.
pub(super) enum Read {
    /// This.
    Book(Book),
    /// Nothing: there is no such file.
    Nothing,
    /// Something else, or it cannot be read: why.
    Unknown(String),
}

pub(super) type Writing = Pin<Box<dyn Future<Output = io::Result<()>>>>;

impl Store {
    /// Reads it, once: it is short.
    pub(super) fn read(&self) -> Read {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Read::Nothing;
            }
            Err(error) => return Read::Unknown(error.to_string()),
        };
        match toml::from_str::<Content>(&text) {
            Ok(content) if content.superpeerd_quota == VERSION => Read::Book(content.book),
            Ok(content) => Read::Unknown(format!("form {}, not {VERSION}", content.superpeerd_quota)),
            Err(error) => Read::Unknown(error.message().to_owned()),
        }
    }

    /// Gives it another name, so that what is in it is not lost.
    pub(super) fn put_aside(&self) -> io::Result<PathBuf> {
        let aside = with_suffix(&self.path, ".unreadable");
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Writes it: another file, which is on disk before it takes the name, and then the name is (rename(2), fsync(2)). A kill
    /// leaves the old content or the new one.
    pub(super) fn write(&self, book: &Book) -> Writing {
        let content = Content { superpeerd_quota: VERSION, book: *book };
        let text = toml::to_string(&content).expect("numbers and times are TOML");
        let text = format!(
            "# How much of its transfer quota superpeerd has used, with what it has set aside. To be changed only while it does not run.\n{text}"
        );
        let path = self.path.clone();
        if self.uses_io_uring {
            return Box::pin(write_by_uring(path, text));
        }
        Box::pin(async move { tokio::task::spawn_blocking(move || write(&path, &text)).await? })
    }
}

async fn write_by_uring(path: PathBuf, text: String) -> io::Result<()> {
    let new = with_suffix(&path, ".new");
    let file = tokio_uring::fs::File::create(&new).await?;
    file.write_all_at(text.into_bytes(), 0).await.0?;
    file.sync_all().await?;
    file.close().await?;
    tokio_uring::fs::rename(&new, &path).await?;
    let folder = tokio_uring::fs::File::open(folder_of(&path)).await?;
    folder.sync_all().await?;
    folder.close().await
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let new = with_suffix(path, ".new");
    let mut file = File::create(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(folder_of(path))?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::config::QuotaPeriod;
    use crate::control::quota::period::Layout;

    fn book(used_bytes: u64) -> Book {
        let layout = Layout { period: QuotaPeriod::Month, start_day: 7 };
        let mut book = Book::new(layout, Timestamp::from_second(1_790_000_000).unwrap());
        book.current.used_bytes = used_bytes;
        book.before = Some(book.current);
        book
    }

    fn run(store: &Store, book: &Book) -> io::Result<()> {
        match store.uses_io_uring {
            true => tokio_uring::start(store.write(book)),
            false => {
                tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(store.write(book))
            }
        }
    }

    fn has_io_uring() -> bool {
        io_uring::IoUring::new(2).is_ok()
    }

    fn stores(path: &Path) -> Vec<Store> {
        let store = |uses_io_uring| Store { path: path.to_owned(), uses_io_uring };
        if has_io_uring() {
            return vec![store(false), store(true)];
        }
        eprintln!("not tested: there is no io_uring here");
        vec![store(false)]
    }

    #[test]
    fn what_was_written_is_read_whatever_was_left_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota.toml");
        for (number, store) in stores(&path).into_iter().enumerate() {
            fs::write(with_suffix(&path, ".new"), "a".repeat(10_000)).unwrap();
            let book = book(5_000_000_000_000 + number as u64);
            run(&store, &book).unwrap();
            assert!(matches!(store.read(), Read::Book(read) if read == book));
            assert!(!with_suffix(&path, ".new").exists());
        }
    }

    #[test]
    fn a_place_that_cannot_be_written_is_an_error_and_an_old_file_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("quota.toml");
        for store in stores(&path) {
            let nowhere = Store { path: path.join("quota.toml"), ..store.clone() };
            run(&store, &book(7)).unwrap();
            assert!(run(&nowhere, &book(8)).is_err() && matches!(nowhere.read(), Read::Nothing));
            // A full disk, as far as this can be had without root.
            let _ = fs::remove_file(with_suffix(&path, ".new"));
            std::os::unix::fs::symlink("/dev/full", with_suffix(&path, ".new")).unwrap();
            let full = run(&store, &book(9)).unwrap_err();
            assert_eq!(full.kind(), ErrorKind::StorageFull);
            assert!(matches!(store.read(), Read::Book(read) if read == book(7)));
            fs::remove_file(with_suffix(&path, ".new")).unwrap();
        }
    }

    #[test]
    fn half_of_a_file_and_anything_else_is_not_taken_for_an_account() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { path: folder.path().join("quota.toml"), uses_io_uring: false };
        assert!(matches!(store.read(), Read::Nothing));
        run(&store, &Book { before: None, ..book(123_456) }).unwrap();
        let whole = fs::read(&store.path).unwrap();
        let without_end = whole.len() - 1;
        for length in 0..without_end - 1 {
            fs::write(&store.path, &whole[..length]).unwrap();
            assert!(matches!(store.read(), Read::Unknown(_)), "{length} of {}", whole.len());
        }
        for foreign in [&b"\xff\xfe"[..], b"[quota]\nmax = 1", b"superpeerd_quota = 2"] {
            fs::write(&store.path, foreign).unwrap();
            assert!(matches!(store.read(), Read::Unknown(_)));
        }
        assert!(store.put_aside().unwrap().exists() && !store.path.exists());
    }
}
