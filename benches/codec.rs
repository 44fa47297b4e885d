//! What the wire format costs: reading and verifying one shard, sealing and restoring one chunk. See `README.md`.

use std::hint::black_box;

use codec::{
    ChannelSecret, ChunkHeader, DATAGRAM_BYTES, Fec, Sequence, ShardSet, ShardView, SlotLayout,
    restore_chunk, seal_chunk, verify_shard,
};
use criterion::{BenchmarkId, Criterion, Throughput};

/// (k, m) of the chunks measured.
const COUNTS: [(usize, usize); 3] = [(16, 4), (32, 8), (32, 16)];

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    shard(&mut criterion);
    chunk(&mut criterion);
    criterion.final_summary();
}

/// A header of a full chunk, and its payload.
fn full_chunk(secret: &ChannelSecret, (k, m): (usize, usize)) -> (ChunkHeader, Vec<u8>) {
    let layout = SlotLayout::new(k, m).expect("counts within bounds");
    let payload: Vec<u8> = (0..layout.payload_bytes_max()).map(|at| (at * 7) as u8).collect();
    let header = ChunkHeader::new(secret.key().tag(), Sequence(1), layout, payload.len());
    (header.expect("a full payload fits"), payload)
}

fn shard(criterion: &mut Criterion) {
    let secret = ChannelSecret::from_seed(&[1; 32]);
    let verifier = secret.verifier();
    let mut group = criterion.benchmark_group("shard");
    for (k, m) in COUNTS {
        let (header, payload) = full_chunk(&secret, (k, m));
        let mut slot = vec![0; header.layout().slot_bytes()];
        let identity = seal_chunk(&mut slot, &header, [payload.as_slice()], &secret, &mut Fec::new());
        let datagram = &slot[..DATAGRAM_BYTES];
        let view = ShardView::parse(datagram).expect("what was sealed is valid");
        let counts = format!("{k}+{m}");
        group.bench_function(BenchmarkId::new("parse", &counts), |bencher| {
            bencher.iter(|| ShardView::parse(black_box(datagram)).is_ok());
        });
        group.bench_function(BenchmarkId::new("verify, chunk known", &counts), |bencher| {
            bencher
                .iter(|| verify_shard(black_box(&view), &verifier, Some(&identity)).expect("it is signed"));
        });
        group.bench_function(BenchmarkId::new("verify, with signature", &counts), |bencher| {
            bencher.iter(|| verify_shard(black_box(&view), &verifier, None).expect("it is signed"));
        });
    }
    group.finish();
}

fn chunk(criterion: &mut Criterion) {
    let secret = ChannelSecret::from_seed(&[1; 32]);
    let mut fec = Fec::new();
    let mut group = criterion.benchmark_group("chunk");
    for (k, m) in COUNTS {
        let (header, payload) = full_chunk(&secret, (k, m));
        let layout = header.layout();
        let counts = format!("{k}+{m}");
        let mut slot = vec![0; layout.slot_bytes()];
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(BenchmarkId::new("seal", &counts), |bencher| {
            bencher
                .iter(|| seal_chunk(&mut slot, &header, [black_box(payload.as_slice())], &secret, &mut fec));
        });
        let identity = seal_chunk(&mut slot, &header, [payload.as_slice()], &secret, &mut fec);
        // The worst m to lose: data shards only. They are rebuilt in place, so every round does the same work.
        let present = layout.all_shards().minus(ShardSet::range(0, m));
        group.bench_function(BenchmarkId::new("restore m data shards", &counts), |bencher| {
            bencher.iter(|| {
                restore_chunk(&mut slot, &identity, black_box(present), &mut fec).expect("it is honest")
            });
        });
    }
    group.finish();
}
