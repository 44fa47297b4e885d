//! Asking a relay over its admin socket: HTTP, one request per connection.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use relay::status::Status;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use super::At;

/// A relay that has not answered after this time is stuck: it needs milliseconds.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// An answer is at most this long, in bytes: the status of 100,000 channels is half of it.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why the relay did not do or say what it was asked for.
#[derive(Debug, Error)]
pub enum AdminError {
    /// There is no socket.
    #[error(
        "no relay runs, or it takes no commands at {0}: start it (systemctl start superpeer, or superpeerd --admin-socket PATH), or say where it does with --socket PATH"
    )]
    Nowhere(PathBuf),
    /// There is something else.
    #[error("{0} is no socket: --socket takes what the relay's `admin.socket` or --admin-socket says")]
    NoSocket(PathBuf),
    /// There is a socket that nobody listens to.
    #[error(
        "no relay runs: the one that took commands at {0} has ended; start it (systemctl start superpeer)"
    )]
    Ended(PathBuf),
    /// It is for others.
    #[error(
        "{0} is for the relay's own user and group: run this as root (sudo), or as a member of that group"
    )]
    Forbidden(PathBuf),
    /// Anything else.
    #[error("cannot ask the relay at {0}: {1}")]
    Failed(PathBuf, String),
    /// It answered that it will not.
    #[error("{0}")]
    Refused(String),
}

impl AdminError {
    /// Whether there is no relay.
    pub fn is_absence(&self) -> bool {
        matches!(self, AdminError::Nowhere(_) | AdminError::Ended(_))
    }
}

/// A way to a relay. It need not run yet, and may be started anew.
pub struct Client {
    socket: PathBuf,
    runtime: Runtime,
}

impl Client {
    /// Nothing is asked yet.
    ///
    /// # Errors
    /// When the system gives no event queue.
    pub fn new(at: &At) -> Result<Client, crate::Error> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| crate::Error::System("cannot wait for answers", error))?;
        Ok(Client { socket: at.socket.clone(), runtime })
    }

    /// What the relay does.
    ///
    /// # Errors
    /// Says why there is no answer.
    pub fn status(&self) -> Result<Status, AdminError> {
        self.ask("GET", "/status", Bytes::new())
    }

    /// Has the relay do something.
    ///
    /// # Errors
    /// Says why there is no answer, or what the relay has against it.
    pub fn post<T: DeserializeOwned>(&self, path: &str, request: &impl Serialize) -> Result<T, AdminError> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(error))?;
        self.ask("POST", path, body.into())
    }

    fn ask<T: DeserializeOwned>(&self, method: &str, path: &str, body: Bytes) -> Result<T, AdminError> {
        let conversation = async {
            let talk = self.converse(method, path, body);
            let too_late =
                |_| self.failed("it has not answered for 10 s; see its log (journalctl -u superpeer)");
            tokio::time::timeout(ANSWER_WAIT, talk).await.map_err(too_late)?
        };
        let (code, answer) = self.runtime.block_on(conversation)?;
        if code != StatusCode::OK {
            return Err(AdminError::Refused(String::from_utf8_lossy(&answer).trim_end().to_owned()));
        }
        serde_json::from_slice(&answer).map_err(|error| {
            self.failed(format!("its answer is not understood: {error}; is it of another version?"))
        })
    }

    async fn converse(
        &self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), AdminError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| no_connection(&self.socket, &error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.failed(error))?;
        // It ends with the answer; what it has to say, the answer says.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.failed(error))?;
        let answer = sender.send_request(request).await.map_err(|error| self.failed(error))?;
        let code = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((code, body.map_err(|error| self.failed(error))?.to_bytes()))
    }

    fn failed(&self, why: impl ToString) -> AdminError {
        AdminError::Failed(self.socket.clone(), why.to_string())
    }
}

fn no_connection(socket: &Path, error: &io::Error) -> AdminError {
    let socket = socket.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => AdminError::Nowhere(socket),
        io::ErrorKind::ConnectionRefused if !is_socket(&socket) => AdminError::NoSocket(socket),
        io::ErrorKind::ConnectionRefused => AdminError::Ended(socket),
        io::ErrorKind::PermissionDenied => AdminError::Forbidden(socket),
        _ => AdminError::Failed(socket, error.to_string()),
    }
}

/// To connect to any other file is refused as well.
fn is_socket(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_not_connect_hears_who_may() {
        let error = no_connection(Path::new("/run/x.sock"), &io::ErrorKind::PermissionDenied.into());
        assert!(error.to_string().contains("/run/x.sock") && error.to_string().contains("sudo"), "{error}");
    }
}
