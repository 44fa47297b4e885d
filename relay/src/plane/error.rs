//! Why a plane cannot be opened.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;

/// Why [`super::Plane::open`] failed, and what to do about it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No socket of this family.
    #[error(
        "no UDP socket for {listen}: {source}; where IPv6 is switched off, listen on 0.0.0.0 instead of [::]"
    )]
    Socket {
        /// The address to listen on.
        listen: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A socket option that the plane cannot do without.
    #[error("the kernel does not take socket option {option}: {source}; Linux 6.1 or newer is needed")]
    Option {
        /// Its name.
        option: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Somebody else has the port.
    #[error(
        "UDP {listen} is in use by another socket; choose another port or stop the program that has it: \
         `ss -ulpn sport = :{}` shows it",
        listen.port()
    )]
    AddressInUse {
        /// The address to listen on.
        listen: SocketAddr,
    },
    /// Not an address of this machine, or a port that the user may not have.
    #[error(
        "cannot bind UDP {listen}: {source}; the address has to be one of this machine's (`ip address`), and a port \
         below 1024 needs CAP_NET_BIND_SERVICE"
    )]
    Bind {
        /// The address to listen on.
        listen: SocketAddr,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The administrator switched io_uring off.
    #[error(
        "io_uring is switched off on this machine: kernel.io_uring_disabled is {setting}; \
         `sysctl kernel.io_uring_disabled=0` switches it on"
    )]
    SwitchedOff {
        /// The sysctl: 1 leaves it to a group (`kernel.io_uring_group`), 2 to nobody.
        setting: u8,
    },
    /// A sandbox does not let io_uring through.
    #[error(
        "io_uring_setup is not permitted: a seccomp filter forbids it, as those of Docker and other containers do by \
         default; allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile"
    )]
    Forbidden,
    /// No io_uring at all.
    #[error(
        "there is no io_uring_setup here: a container's seccomp filter hides it, as Podman's does by default, or this \
         kernel ({kernel}) was built without CONFIG_IO_URING"
    )]
    Missing {
        /// Its release.
        kernel: String,
    },
    /// An io_uring that lacks something.
    #[error(
        "this kernel ({kernel}) does not offer what is needed of io_uring: {source}; Linux 6.1 or newer does"
    )]
    TooOld {
        /// Its release.
        kernel: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The ring was refused for another reason.
    #[error(
        "cannot set up an io_uring: {source}; if memory is what is missing, raise the limit on locked memory \
         (LimitMEMLOCK= in the unit, `ulimit -l` in a shell)"
    )]
    Ring {
        /// The kernel's answer.
        source: io::Error,
    },
    /// No address space for the receive buffers.
    #[error("cannot map {bytes} bytes for receive buffers: {source}")]
    Memory {
        /// How much.
        bytes: usize,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The receive buffers were refused.
    #[error(
        "the kernel does not take a ring of {count} receive buffers: {source}; if memory is what is missing, raise the \
         limit on locked memory (LimitMEMLOCK= in the unit, `ulimit -l` in a shell), else Linux 6.1 or newer is needed"
    )]
    Buffers {
        /// How many.
        count: u16,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The socket could not be registered with the ring.
    #[error(
        "cannot register the socket with io_uring: {source}; the limit on open files (LimitNOFILE=) counts"
    )]
    Files {
        /// The kernel's answer.
        source: io::Error,
    },
    /// No descriptor for the waker.
    #[error("cannot make an eventfd: {source}; raise the limit on open files (LimitNOFILE=)")]
    Event {
        /// The kernel's answer.
        source: io::Error,
    },
    /// Receiving did not start.
    #[error(
        "the kernel does not receive through io_uring (multishot recvmsg): {source}; Linux 6.1 or newer does"
    )]
    Receive {
        /// The kernel's answer.
        source: io::Error,
    },
}

impl OpenError {
    /// Whether only io_uring was refused: a plane without it may still open. Not so when the address is at fault.
    pub fn is_about_io_uring(&self) -> bool {
        match self {
            OpenError::SwitchedOff { .. }
            | OpenError::Forbidden
            | OpenError::Missing { .. }
            | OpenError::TooOld { .. }
            | OpenError::Ring { .. }
            | OpenError::Buffers { .. }
            | OpenError::Files { .. }
            | OpenError::Receive { .. } => true,
            OpenError::Socket { .. }
            | OpenError::Option { .. }
            | OpenError::AddressInUse { .. }
            | OpenError::Bind { .. }
            | OpenError::Memory { .. }
            | OpenError::Event { .. } => false,
        }
    }

    /// Tells the reasons for which `bind` fails apart.
    pub(crate) fn of_bind(listen: SocketAddr, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EADDRINUSE) => OpenError::AddressInUse { listen },
            Some(libc::EAFNOSUPPORT) => OpenError::Socket { listen, source },
            _ => OpenError::Bind { listen, source },
        }
    }

    /// Tells the reasons for which `io_uring_setup` fails apart.
    pub(crate) fn of_ring(source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => match io_uring_disabled() {
                Some(setting) if setting > 0 => OpenError::SwitchedOff { setting },
                _ => OpenError::Forbidden,
            },
            Some(libc::ENOSYS) => OpenError::Missing { kernel: kernel_release() },
            Some(libc::EINVAL) => OpenError::TooOld { kernel: kernel_release(), source },
            _ => OpenError::Ring { source },
        }
    }
}

/// `kernel.io_uring_disabled`, where there is one (6.6).
fn io_uring_disabled() -> Option<u8> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

/// The release of the running kernel.
pub fn kernel_release() -> String {
    match std::fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => release.trim().to_owned(),
        Err(_) => "of unknown release".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_ring(errno: i32) -> String {
        OpenError::of_ring(io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn each_reason_for_which_a_ring_is_refused_names_its_remedy() {
        let forbidden = of_ring(libc::EPERM);
        assert!(
            forbidden.contains("seccomp") || forbidden.contains("kernel.io_uring_disabled=0"),
            "{forbidden}"
        );
        assert!(of_ring(libc::ENOSYS).contains("CONFIG_IO_URING"));
        assert!(of_ring(libc::EINVAL).contains("6.1"));
        assert!(of_ring(libc::ENOMEM).contains("LimitMEMLOCK="));
        assert!(OpenError::SwitchedOff { setting: 2 }.to_string().contains("kernel.io_uring_disabled is 2"));
    }
}
