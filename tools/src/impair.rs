//! `superpeer impair`: a bad network between two programs of this machine.

pub mod link;
mod proxy;
mod settings;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::link::LinkCounts;
pub use self::proxy::{CLIENTS_MAX, Proxy, ProxyCounts};
use self::settings::{Back, Forth};
pub(crate) use self::settings::{bits, share, time};
use crate::Error;
use crate::contact::say;
use crate::error::print;
use crate::interrupt::Interrupt;
use crate::resolve::{parse_address, resolve};

/// Put a bad network between two programs: loss, delay, jitter, reordering, a thin line
///
/// Passes UDP datagrams on to another address and the answers back, and impairs them: each direction by its own settings,
/// each client on a line of its own. Up to 512 clients; who is silent for a minute is forgotten. Ends on Ctrl-C with what
/// became of the datagrams.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Where clients send to; port 0: any that is free
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_address)]
    pub listen: SocketAddr,
    /// Where their datagrams go
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Equal seeds throw equal dice [default: another one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print the counts at the end as one JSON object
    #[arg(long)]
    pub json: bool,
    /// Print the counts so far each second, as JSON on standard error
    #[arg(long)]
    pub stats: bool,
    #[command(flatten)]
    forth: Forth,
    #[command(flatten)]
    back: Back,
}

const EXAMPLES: &str = "\
Examples:
  superpeer impair --listen 127.0.0.1:7460 --to 127.0.0.1:7450 \\
    --loss 3% --burst 5 --delay 50ms --back-delay 50ms
  superpeer publish --key demo.key --relay 127.0.0.1:7460 film.ts

  superpeer impair --listen 127.0.0.1:7461 --to 127.0.0.1:7450 \\
    --back-rate 5M --back-queue 200ms --back-jitter 20ms
  superpeer watch \"$(superpeer link --relay 127.0.0.1:7461 demo.key)\" film.ts";

/// Runs the command.
///
/// # Errors
/// When the settings make no sense, `listen` is taken, or the target has no address.
pub fn run(args: Args) -> Result<(), Error> {
    let forth = args.forth.impairment().map_err(|why| Error::Usage(format!("on the way there: {why}")))?;
    let back = args.back.impairment().map_err(|why| Error::Usage(format!("on the way back: {why}")))?;
    let targets = resolve(&args.to).map_err(|error| Error::Usage(format!("--to: {error}")))?;
    let seed = args.seed.map_or_else(random_seed, Ok)?;
    let failed = |error| Error::System("the proxy's sockets failed", error);
    let mut proxy = Proxy::open(args.listen, targets[0], [forth, back], seed)
        .map_err(|error| Error::Listen(args.listen, error))?;
    let interrupt = Interrupt::listen(Arc::default(), proxy.waker())?;
    let local = proxy.local_addr().map_err(failed)?;
    say(&format!("listening on {local}, passing on to {}; seed {seed}", targets[0]));
    let mut told_at = Instant::now();
    while !interrupt.is_set() {
        proxy.turn(Duration::from_secs(1)).map_err(failed)?;
        if args.stats && told_at.elapsed() >= Duration::from_secs(1) {
            told_at = Instant::now();
            use std::io::Write;
            // With standard error closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{}", as_json(&proxy.counts(), seed));
        }
    }
    let counts = proxy.counts();
    match args.json {
        true => print(&as_json(&counts, seed).to_string()),
        false => print(&as_text(&counts)),
    }
}

/// Of random bytes from the system.
pub(crate) fn random_seed() -> Result<u64, Error> {
    getrandom::u64()
        .map_err(|error| Error::System("the system gives no random bytes", std::io::Error::other(error)))
}

fn as_json(counts: &ProxyCounts, seed: u64) -> Value {
    let direction = |link: &LinkCounts| {
        json!({
            "datagrams": link.datagrams,
            "lost": link.lost,
            "queue_dropped": link.queue_dropped,
            "reordered": link.reordered,
            "duplicated": link.duplicated,
        })
    };
    json!({
        "seed": seed,
        "clients": counts.clients,
        "clients_total": counts.clients_total,
        "turned_away": counts.turned_away,
        "delivered": counts.delivered,
        "overflowed": counts.overflowed,
        "forth": direction(&counts.forth),
        "back": direction(&counts.back),
    })
}

fn as_text(counts: &ProxyCounts) -> String {
    let direction = |name: &str, link: &LinkCounts| {
        let LinkCounts { datagrams, lost, queue_dropped, reordered, duplicated } = link;
        let share = *lost as f64 * 100.0 / (*datagrams).max(1) as f64;
        format!(
            "{name}  {datagrams} datagrams; lost {lost} ({share:.2} %), dropped by the queue {queue_dropped}, overtaken \
             {reordered}, twice {duplicated}"
        )
    };
    let mut lines = vec![direction("forth", &counts.forth), direction("back ", &counts.back)];
    let ProxyCounts { clients_total, turned_away, overflowed, .. } = counts;
    lines.push(format!("clients  {clients_total}"));
    if turned_away + overflowed > 0 {
        lines.push(format!(
            "not passed on: no place for the client {turned_away}, too much under way {overflowed}"
        ));
    }
    lines.join("\n")
}
