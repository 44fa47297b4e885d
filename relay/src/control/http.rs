//! Looking after the relay over HTTP, from this machine only: health, status and metrics on a loopback address and on a unix
//! socket, a dashboard on the former, commands on the latter.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::commands::{self, Command};
use super::dashboard;
use super::listener;
use super::metrics;
use super::socket::{self, SocketFile};
use super::status::Status;

/// What the listener shows.
pub(super) struct Board {
    status: RwLock<Arc<Status>>,
    metrics: PrometheusHandle,
}

impl Board {
    pub(super) fn new(metrics: PrometheusHandle) -> Arc<Board> {
        Arc::new(Board { status: RwLock::default(), metrics })
    }

    pub(super) fn show(&self, status: Status) {
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(status);
    }

    /// Forgets the metrics of what is no more.
    pub(super) fn forget(&self) {
        metrics::forget(&self.metrics);
    }

    /// The last that was shown.
    pub(super) fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Listens for as long as the runtime runs. An address that cannot be had costs that, not the relay.
pub(super) async fn serve(listen: SocketAddr, board: Arc<Board>) {
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            warn!(
                "no status and metrics: cannot listen on TCP {listen}: {error}; set admin.listen to another port or to \"off\""
            );
            return;
        }
    };
    if let Ok(address) = listener.local_addr() {
        info!("status and metrics on http://{address}");
    }
    let router = sights(board)
        .merge(dashboard::routes())
        .layer(middleware::from_fn(only_from_here))
        .layer(middleware::map_response(dashboard::protect));
    tokio::spawn(listener::serve(listener, router));
}

/// The same on a unix socket, with the commands. Where that cannot be had, there is none; otherwise its file is there as long
/// as what this returns.
pub(super) fn serve_socket(
    path: &Path,
    board: Arc<Board>,
    commands: mpsc::Sender<Command>,
) -> Option<SocketFile> {
    let listening =
        socket::listen(path).and_then(|(socket, file)| Ok((UnixListener::from_std(socket)?, file)));
    let path = path.display();
    match listening {
        Ok((listener, file)) => {
            info!("commands on {path}");
            tokio::spawn(listener::serve(listener, sights(board).merge(commands::routes(commands))));
            Some(file)
        }
        Err(error) => {
            warn!(
                "no commands: cannot listen on {path}: {error}; set admin.socket to another path or to \"off\""
            );
            None
        }
    }
}

/// What there is to be seen.
fn sights(board: Arc<Board>) -> Router {
    Router::new()
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .route("/metrics", get(numbers))
        .with_state(board)
}

/// A page of somebody else, open in the operator's browser, reaches this listener under a name of its own choice (DNS
/// rebinding): only names of this machine are answered.
async fn only_from_here(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    if host.is_some_and(is_this_machine) {
        return next.run(request).await;
    }
    let advice = "ask for it as localhost or by a loopback address\n";
    (StatusCode::FORBIDDEN, advice).into_response()
}

fn is_this_machine(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { host });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

async fn health(State(board): State<Arc<Board>>) -> Response {
    match board.status().is_healthy {
        true => "ok\n".into_response(),
        false => {
            (StatusCode::SERVICE_UNAVAILABLE, "a worker has said nothing for some seconds\n").into_response()
        }
    }
}

async fn ready(State(board): State<Arc<Board>>) -> Response {
    match board.status().drain {
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "the relay is being drained\n").into_response(),
        None => health(State(board)).await,
    }
}

async fn status(State(board): State<Arc<Board>>) -> Response {
    Json(&*board.status()).into_response()
}

/// Prometheus' text format, version 0.0.4.
async fn numbers(State(board): State<Arc<Board>>) -> Response {
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, board.metrics.render()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_answered() {
        for host in
            ["localhost", "localhost:7451", "127.0.0.1", "127.0.0.1:7451", "[::1]:7451", "[::1]", "127.1.2.3"]
        {
            assert!(is_this_machine(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:7451",
            "192.0.2.1:7451",
            "localhost.evil.example",
            "",
            ":1",
            "[::2]:1",
        ] {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
