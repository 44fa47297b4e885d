//! What whoever runs the relay may ask of it, over the admin socket: the JSON of requests and answers, and their way to the
//! control thread.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use codec::ChannelKey;
use codec::wire::control::NODES_MAX;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// `POST /kick`: ends the sessions of a peer or channel and refuses it for a while. Answered by [`Kicked`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kick {
    /// Whom.
    pub whom: Whom,
    /// For how long, s; 0 lets it in again.
    pub for_s: u64,
}

/// Whom a kick is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// All who come from this IPv4 address, or from this address's IPv6 /64.
    Address(IpAddr),
    /// Who comes from this address and port.
    Peer(SocketAddr),
    /// All who take or give the channel of this key, 64 hex digits.
    Channel(String),
}

/// What a kick did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kicked {
    /// Sessions that ended.
    pub sessions: usize,
}

/// `POST /reload`, without a body, is answered by this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Keys that changed and act only when the relay is started again.
    pub at_restart: Vec<String>,
}

/// `POST /drain`: lets nobody new in, lets all go bit by bit, and ends the relay. Answered by [`Draining`];
/// `POST /drain/cancel`, without a body, ends it early.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Nodes that are named to those who go, 8 at most; without any, the configuration's `others`.
    pub to: Vec<SocketAddr>,
    /// The relay ends after so many seconds, whoever is left.
    pub for_s: u64,
}

/// How far a drain has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Sessions when it began.
    pub sessions_at_start: usize,
    /// Sessions that are left.
    pub sessions: usize,
    /// The relay ends after so many seconds at the latest.
    pub seconds_left: u64,
}

/// Nothing is asked for a longer time than this: a year.
pub const FOR_MAX: Duration = Duration::from_secs(365 * 86_400);

/// A request's body is at most this long, in bytes: eight addresses need 500.
const BODY_BYTES_MAX: usize = 16 << 10;

/// To whoever asked: what was done, or why not.
pub(super) type Answer<T> = oneshot::Sender<Result<T, String>>;

/// A request on its way to the control thread.
pub(super) enum Command {
    Kick(mesh::Whom, Duration, Answer<Kicked>),
    Reload(Answer<Reloaded>),
    Drain(Drain, Answer<Draining>),
    CancelDrain(Answer<Draining>),
}

/// The routes of the commands.
pub(super) fn routes(commands: mpsc::Sender<Command>) -> Router {
    Router::new()
        .route("/kick", post(kick))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .route("/drain/cancel", post(cancel_drain))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(commands)
}

type Commands = State<mpsc::Sender<Command>>;
type Reply<T> = Result<Json<T>, (StatusCode, String)>;

async fn kick(commands: Commands, Json(kick): Json<Kick>) -> Reply<Kicked> {
    let whom = kick.whom.parse().map_err(unusable)?;
    let time = duration(kick.for_s)?;
    ask(commands, |answer| Command::Kick(whom, time, answer)).await
}

async fn reload(commands: Commands) -> Reply<Reloaded> {
    ask(commands, Command::Reload).await
}

async fn drain(commands: Commands, Json(drain): Json<Drain>) -> Reply<Draining> {
    duration(drain.for_s)?;
    if drain.to.len() > NODES_MAX {
        return Err(unusable(format!("{} nodes; a goodbye has room for {NODES_MAX}", drain.to.len())));
    }
    ask(commands, |answer| Command::Drain(drain, answer)).await
}

async fn cancel_drain(commands: Commands) -> Reply<Draining> {
    ask(commands, Command::CancelDrain).await
}

async fn ask<T>(State(commands): Commands, command: impl FnOnce(Answer<T>) -> Command) -> Reply<T> {
    let (answer, answered) = oneshot::channel();
    let ending = || (StatusCode::SERVICE_UNAVAILABLE, "the relay is ending\n".to_owned());
    commands.send(command(answer)).await.map_err(|_| ending())?;
    let done = answered.await.map_err(|_| ending())?;
    done.map(Json).map_err(unusable)
}

fn duration(seconds: u64) -> Result<Duration, (StatusCode, String)> {
    let time = Duration::from_secs(seconds);
    if time > FOR_MAX {
        return Err(unusable(format!("{seconds} s: at most {} s", FOR_MAX.as_secs())));
    }
    Ok(time)
}

fn unusable(why: String) -> (StatusCode, String) {
    (StatusCode::UNPROCESSABLE_ENTITY, why + "\n")
}

impl Whom {
    fn parse(&self) -> Result<mesh::Whom, String> {
        match self {
            Whom::Address(ip) => Ok(mesh::Whom::Address(*ip)),
            Whom::Peer(peer) => Ok(mesh::Whom::Peer(*peer)),
            Whom::Channel(key) => match codec::link::parse_hex(key) {
                Some(key) => Ok(mesh::Whom::Channel(ChannelKey(key))),
                None => Err(format!("{key:?} is no channel key of 64 hex digits")),
            },
        }
    }
}
