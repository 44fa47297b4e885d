//! HTTP for whoever can connect, within bounds: one request per connection, of bounded size, in bounded time, on a bounded
//! number of connections.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::AbortHandle;

use crate::budget::ADMIN_CONNECTIONS_MAX;

/// A request's head has to be here after this time, and the whole conversation has to be over.
const HEAD_WAIT: Duration = Duration::from_secs(5);
/// See [`HEAD_WAIT`].
const CONVERSATION_MAX: Duration = Duration::from_secs(10);

/// A request's head is at most this long, in bytes; the least that hyper accepts.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// Answers for as long as the runtime runs.
pub(super) async fn serve(mut listener: impl Listener, router: Router) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        // It waits a little by itself when the system has no descriptor left.
        let (stream, _) = listener.accept().await;
        connections.retain(|connection| !connection.is_finished());
        if connections.len() == ADMIN_CONNECTIONS_MAX
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let service = TowerToHyperService::new(router.clone());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD_WAIT);
        http.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
        let conversation = async move {
            // Errors of single connections are theirs.
            let talk = http.serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONVERSATION_MAX, talk).await;
        };
        connections.push_back(tokio::spawn(conversation).abort_handle());
    }
}
