//! `superpeer bench codec`: what verifying, sealing and restoring cost.

use std::hint::black_box;
use std::time::{Duration, Instant};

use codec::{
    ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, ShardView, SlotLayout,
    restore_chunk, seal_chunk, verify_shard,
};
use serde_json::json;

use super::rounded;
use crate::Error;
use crate::interrupt::Interrupt;

/// Measure what reading, verifying, sealing and restoring cost
///
/// One thread, everything in cache, full chunks of 16 + 8 and 32 + 16 shards. Each figure is the median of many short
/// loops.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  superpeer bench codec --json")]
pub struct Args {
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}

/// (k, m) of the chunks.
const COUNTS: [(usize, usize); 2] = [(16, 8), (32, 16)];

/// Medians over this many loops, each this long.
const LOOPS: usize = 21;
const LOOP_TIME: Duration = Duration::from_millis(2);

/// Runs the command.
///
/// # Errors
/// When the result cannot be printed.
pub fn run(args: Args) -> Result<(), Error> {
    let interrupt = Interrupt::listen_quietly()?;
    let mut rows = Vec::new();
    for counts in COUNTS {
        if !interrupt.is_set() {
            rows.push((counts, measure(counts)));
        }
    }
    if args.json {
        let row = |((k, m), costs): &((usize, usize), Costs)| {
            json!({
                "k": k, "m": m, "parse_us": rounded(costs.parse), "verify_us": rounded(costs.verify),
                "verify_with_signature_us": rounded(costs.verify_signed),
                "seal_us": rounded(costs.seal), "restore_us": rounded(costs.restore),
            })
        };
        let rows: Vec<_> = rows.iter().map(row).collect();
        return crate::error::print(&json!({ "chunks": rows }).to_string());
    }
    crate::error::print("µs         parse   verify   + signature      seal   restore m data shards")?;
    rows.iter().try_for_each(|((k, m), costs)| {
        let Costs { parse, verify, verify_signed, seal, restore } = costs;
        crate::error::print(&format!(
            "{k} + {m:<5}{parse:>8.3}{verify:>9.2}{verify_signed:>14.1}{seal:>10.1}{restore:>10.1}"
        ))
    })
}

/// In µs.
struct Costs {
    parse: f64,
    verify: f64,
    verify_signed: f64,
    seal: f64,
    restore: f64,
}

fn measure((k, m): (usize, usize)) -> Costs {
    let secret = ChannelSecret::from_seed(&[1; 32]);
    let verifier = secret.verifier();
    let layout = SlotLayout::new(k, m).expect("counts within bounds");
    let payload: Vec<u8> = (0..layout.payload_bytes_max()).map(|at| (at * 7) as u8).collect();
    let header = ChunkHeader::new(secret.key().tag(), Sequence(1), layout, payload.len());
    let header = header.expect("a full payload fits");
    let (mut slot, mut fec) = (vec![0; layout.slot_bytes()], Fec::new());
    let identity = seal_chunk(&mut slot, &header, [payload.as_slice()], &secret, &mut fec);
    let datagram = slot[..DATAGRAM_BYTES].to_vec();
    let view = ShardView::parse(&datagram).expect("what was sealed is valid");
    // The worst m to lose: data shards only.
    let present = layout.all_shards().minus(ShardSet::range(0, m));
    Costs {
        parse: median_micros(|| ShardView::parse(black_box(&datagram)).is_ok()),
        verify: median_micros(|| verify_shard(black_box(&view), &verifier, Some(&identity)).is_ok()),
        verify_signed: median_micros(|| verify_shard(black_box(&view), &verifier, None).is_ok()),
        seal: median_micros(|| {
            seal_chunk(&mut slot, &header, [black_box(payload.as_slice())], &secret, &mut fec)
        }),
        restore: median_micros(|| restore_chunk(&mut slot, &identity, black_box(present), &mut fec).is_ok()),
    }
}

fn median_micros<T>(mut body: impl FnMut() -> T) -> f64 {
    // The first use of a (k, m) pair sets up its matrix.
    black_box(body());
    let mut loops: Vec<f64> = (0..LOOPS)
        .map(|_| {
            let (start, mut rounds, mut batch) = (Instant::now(), 0_u32, 1_u32);
            while start.elapsed() < LOOP_TIME {
                (0..batch).for_each(|_| drop(black_box(body())));
                rounds += batch;
                // Reading the clock costs as much as a few rounds of the shortest body.
                batch = (batch * 2).min(256);
            }
            start.elapsed().as_secs_f64() * 1e6 / f64::from(rounds)
        })
        .collect();
    loops.sort_by(f64::total_cmp);
    loops[LOOPS / 2]
}
