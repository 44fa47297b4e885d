//! What a relay leaves to the process that takes its place, as a file in memory that nobody can change any more.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::OwnedFd;

use mesh::{Handover, Time};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What stands first: who cannot read the rest has to be able to read this.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    /// Of the program that wrote it.
    version: String,
}

/// What the nodes of all workers leave, in the order of the workers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Estate {
    /// When the last of them let go.
    pub(crate) left_at: Time,
    /// By which peers were spread over the workers ([`crate::uring::Steering`]).
    pub(crate) multiplier: u32,
    pub(crate) parts: Vec<Handover>,
}

/// Why an estate is not taken up.
#[derive(Debug, Error)]
pub(crate) enum Refused {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no sealed memory")]
    NotSealed,
    #[error("superpeerd {version} wrote it in format {format}, and this one reads {}", Handover::FORMAT)]
    Format { format: u32, version: String },
    #[error("it is damaged: {0}")]
    Damaged(#[from] postcard::Error),
    #[error("it has {0} bytes too many")]
    TooLong(usize),
}

/// Nobody adds, takes away or changes anything.
const SEALS: SealFlags =
    SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

impl Estate {
    /// Writes it down.
    ///
    /// # Errors
    /// No memory for it.
    pub(crate) fn write(&self) -> io::Result<File> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = BufWriter::new(File::from(memfd_create("superpeer-handover", flags)?));
        let head = Head { format: Handover::FORMAT, version: env!("CARGO_PKG_VERSION").to_owned() };
        postcard::to_io(&(head, self), &mut file).map_err(io::Error::other)?;
        file.flush()?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(file)
    }

    /// Reads what [`Estate::write`] wrote.
    ///
    /// # Errors
    /// Anything about it that is not as it was written.
    pub(crate) fn read(kept: OwnedFd) -> Result<Estate, Refused> {
        if !fcntl_get_seals(&kept).is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(Refused::NotSealed);
        }
        let (mut file, mut bytes) = (File::from(kept), Vec::new());
        file.rewind()?;
        file.read_to_end(&mut bytes)?;
        let (Head { format, version }, rest) = postcard::take_from_bytes(&bytes)?;
        if format != Handover::FORMAT {
            return Err(Refused::Format { format, version });
        }
        let (estate, rest) = postcard::take_from_bytes::<Estate>(rest)?;
        if rest.is_empty() { Ok(estate) } else { Err(Refused::TooLong(rest.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(bytes: &[u8]) -> OwnedFd {
        let memory = memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(memory);
        file.write_all(bytes).unwrap();
        fcntl_add_seals(&file, SEALS).unwrap();
        file.into()
    }

    fn refusal(kept: OwnedFd) -> String {
        Estate::read(kept).expect_err("it is to be refused").to_string()
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let estate = Estate { left_at: Time(7), multiplier: 1, parts: Vec::new() };
        let mut file = estate.write().unwrap();
        assert!(file.write_all(b"more").is_err(), "it is sealed");
        let mut bytes = Vec::new();
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(Estate::read(file.into()).unwrap().left_at, Time(7));

        assert!(refusal(sealed(&bytes[..bytes.len() - 1])).contains("damaged"));
        assert!(refusal(sealed(&[])).contains("damaged"));
        assert!(refusal(sealed(&[&bytes[..], b"x"].concat())).contains("1 bytes too many"));
        let newer = postcard::to_stdvec(&Head { format: Handover::FORMAT + 1, version: "9.9.9".to_owned() });
        assert!(
            refusal(sealed(&newer.unwrap()))
                .contains(&format!("superpeerd 9.9.9 wrote it in format {}", Handover::FORMAT + 1))
        );
        let mut on_disk = tempfile::tempfile().unwrap();
        on_disk.write_all(&bytes).unwrap();
        assert!(refusal(on_disk.into()).contains("no sealed memory"));
    }
}
