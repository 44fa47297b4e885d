//! Channel keys in files: 64 hex digits of an Ed25519 seed, optionally after a line `# name: NAME`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use codec::{ChannelLink, ChannelSecret};
use thiserror::Error;
use zeroize::Zeroizing;

/// A key file is this long at most; a longer one is another file.
const FILE_BYTES_MAX: usize = 1024;

/// A name is for the eye, and three of its bytes may take nine in a link of limited length.
const NAME_BYTES_MAX: usize = 200;

const NAME_LINE: &str = "# name: ";

/// A channel's secret and what the channel is called.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// What signs for the channel.
    pub secret: ChannelSecret,
    /// What to call the channel.
    pub name: Option<String>,
}

/// Why there is no key.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is a file already, and it may be the only copy of a key.
    #[error("{0} exists already and is not overwritten: choose another name, or move it away")]
    Exists(PathBuf),
    /// The file cannot be made.
    #[error("cannot write the key to {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no random bytes.
    #[error("the system has no random bytes for a key: {0}")]
    Entropy(getrandom::Error),
    /// There is no such file.
    #[error("there is no key file {0}: make one with `superpeer keygen {0}`")]
    Missing(PathBuf),
    /// The file cannot be read.
    #[error("cannot read the key file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder, a device, a pipe.
    #[error("{0} is not a file, so it cannot be a key file")]
    NotAFile(PathBuf),
    /// Others than the owner may read or change it.
    #[error("{path} is open to others (mode {mode:04o}), a key must not be: chmod 600 {path}")]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Its contents are something else.
    #[error("{path} is not a key file: {what}")]
    Contents {
        /// The file.
        path: PathBuf,
        /// What was expected and what is there.
        what: String,
    },
}

impl KeyFile {
    /// Makes a new random key and writes it to a new file that only the owner may read.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`] when there is something at `path` already; never overwrites.
    pub fn create(path: &Path, name: Option<String>) -> Result<KeyFile, KeyFileError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(KeyFileError::Entropy)?;
        let mut file = owner_only().open(path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => KeyFileError::Write { path: path.to_owned(), source },
        })?;
        write_key(&mut file, &seed, name.as_deref()).map_err(|source| {
            // What is in it is no key; leaving it would refuse the next try.
            let _ = fs::remove_file(path);
            KeyFileError::Write { path: path.to_owned(), source }
        })?;
        Ok(KeyFile { secret: ChannelSecret::from_seed(&seed), name })
    }

    /// Reads the key that [`KeyFile::create`] wrote, or one written by hand.
    ///
    /// # Errors
    /// [`KeyFileError`] says what is wrong with the file and, where there is one, the remedy.
    pub fn read(path: &Path) -> Result<KeyFile, KeyFileError> {
        let mut contents = Zeroizing::new([0; FILE_BYTES_MAX + 1]);
        let (length, metadata) = read_file(path, &mut contents[..])?;
        let wrong = |what: String| KeyFileError::Contents { path: path.to_owned(), what };
        if length > FILE_BYTES_MAX {
            return Err(wrong(format!("it is longer than {FILE_BYTES_MAX} bytes")));
        }
        let text = core::str::from_utf8(&contents[..length]).map_err(|_| wrong("it is not text".into()))?;
        let key = parse(text).map_err(wrong)?;
        // After the contents: nobody is told to change the mode of a file that is no key.
        check_mode(path, &metadata)?;
        Ok(key)
    }

    /// The link by which viewers find the channel.
    pub fn link(&self, relays: Vec<String>) -> ChannelLink {
        ChannelLink { key: self.secret.key(), name: self.name.clone(), relays }
    }
}

/// Checks a channel's name: at most 200 bytes, without control characters.
///
/// # Errors
/// A text that says what is wrong.
pub fn parse_name(name: &str) -> Result<String, String> {
    if name.trim().is_empty() {
        Err("a name has at least one character".into())
    } else if name.len() > NAME_BYTES_MAX {
        Err(format!("a name has at most {NAME_BYTES_MAX} bytes, this one has {}", name.len()))
    } else if name.chars().any(char::is_control) {
        Err("a name has no control characters".into())
    } else {
        Ok(name.trim().to_owned())
    }
}

fn write_key(file: &mut File, seed: &[u8; 32], name: Option<&str>) -> io::Result<()> {
    if let Some(name) = name {
        writeln!(file, "{NAME_LINE}{name}")?;
    }
    let mut line = Zeroizing::new([b'\n'; 65]);
    for (digits, byte) in line.as_chunks_mut::<2>().0.iter_mut().zip(seed) {
        *digits = [byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]);
    }
    file.write_all(&line[..])?;
    file.sync_all()
}

/// Fills `buffer` from a regular file; returns how much there was.
fn read_file(path: &Path, buffer: &mut [u8]) -> Result<(usize, fs::Metadata), KeyFileError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => KeyFileError::Read { path: path.to_owned(), source },
    };
    // Asked before opening, because opening a pipe waits for its writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(KeyFileError::NotAFile(path.to_owned()));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(bytes) => length += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    Ok((length, metadata))
}

fn parse(text: &str) -> Result<KeyFile, String> {
    let name = text.lines().find_map(|line| line.strip_prefix(NAME_LINE)).map(parse_name).transpose()?;
    let mut keys = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (Some(digits), None) = (keys.next(), keys.next()) else {
        return Err("one line of 64 hex digits is needed".into());
    };
    let count = digits.chars().count();
    if count != 64 {
        return Err(format!("a key has 64 hex digits, the line has {count} characters"));
    }
    let seed = codec::link::parse_hex(digits).map(Zeroizing::new);
    let seed = seed.ok_or("a key has 64 hex digits, the line has other characters in it")?;
    Ok(KeyFile { secret: ChannelSecret::from_seed(&seed), name })
}

fn owner_only() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

#[cfg(unix)]
fn check_mode(path: &Path, metadata: &fs::Metadata) -> Result<(), KeyFileError> {
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyFileError::OpenToOthers { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn check_mode(_: &Path, _: &fs::Metadata) -> Result<(), KeyFileError> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        for name in [None, Some("news, live".to_owned())] {
            let path = folder.path().join(format!("{name:?}.key"));
            let made = KeyFile::create(&path, name.clone()).unwrap();
            let read = KeyFile::read(&path).unwrap();
            assert_eq!(read.secret.key(), made.secret.key());
            assert_eq!(read.name, name);
            assert!(matches!(KeyFile::create(&path, None), Err(KeyFileError::Exists(_))));
            assert_eq!(KeyFile::read(&path).unwrap().name, name);
        }
    }

    #[test]
    fn the_digits_are_the_seed() {
        // RFC 8032 §7.1, test 1.
        let file = parse("# name: test \n9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60\n")
            .unwrap();
        let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        assert_eq!(file.secret.key().to_string(), key);
        assert_eq!(file.link(vec![]).to_string(), format!("magnet:?xs=urn:btpk:{key}&dn=test"));
    }

    #[test]
    fn a_wrong_key_says_what_was_expected() {
        for text in ["", "\n# 00\n", "00", &"g".repeat(64), &"ä".repeat(64), &"0".repeat(65)] {
            assert!(parse(text).unwrap_err().contains("64 hex digits"), "{text:?}");
        }
        let two_keys = format!("{0}\n{0}\n", "0".repeat(64));
        assert!(parse(&two_keys).is_err());
    }

    #[test]
    fn a_name_stays_on_its_line() {
        assert!(parse_name("a\nb").is_err());
        assert!(parse_name(" ").is_err());
        assert!(parse_name(&"n".repeat(201)).unwrap_err().contains("201"));
        assert_eq!(parse_name(" Köln, 100% "), Ok("Köln, 100%".into()));
    }
}
